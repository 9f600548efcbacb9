package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/storage/fault"
)

// caughtBy names, for each fault that can be planted, the test that finds it.
var caughtBy = map[fault.Fault]string{
	fault.SkipBase:              "TestBothSidesOfACut",
	fault.IncumbentBase:         "TestStaleWriteCannotGoRoundALinearizableOne",
	fault.ForgetDot:             "TestHandedInTwiceIsOneWrite",
	fault.PromoteTwice:          "TestHandedInTwiceIsOneWrite",
	fault.ReuseDot:              "TestRestartBetweenAcceptingAndPromoting",
	fault.ForgetEarly:           "TestAppliedBeforeForgotten",
	fault.DropHint:              "TestHints",
	fault.SessionEarly:          "TestSessions",
	fault.TokenWithoutBase:      "TestTokenCarriesTheBase",
	fault.TokenWithoutTimestamp: "TestSessionBetweenClocksAnHourApart",
	fault.FarFuture:             "TestFarFutureMovesNoClock",
	fault.FloorIgnored:          "TestNothingComesBackBehindTheFloor",
}

// Tests that cannot fail prove nothing: here each is run on a build that does
// one thing wrong, and has to find it.
func TestPlantedFaultsAreFound(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("builds the tests anew, which takes long under the race detector and shows the same")
	}
	binary := filepath.Join(t.TempDir(), "node.test")
	build := exec.Command("go", "test", "-c", "-tags", "capstan_faults", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with planted faults: %v\n%s", err, out)
	}
	run := func(f fault.Fault, tests string) (string, bool) {
		c := exec.Command(binary, "-test.run", "^("+tests+")$", "-test.count=1")
		c.Env = append(os.Environ(), "CAPSTAN_FAULT="+string(f))
		out, err := c.CombinedOutput()
		return string(out), err == nil
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		var tests []string
		for _, test := range caughtBy {
			tests = append(tests, test)
		}
		slices.Sort(tests)
		if out, ok := run("", strings.Join(slices.Compact(tests), "|")); !ok {
			t.Errorf("without a fault:\n%s", out)
		}
	})
	for _, f := range fault.All {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			test := caughtBy[f]
			out, ok := run(f, test)
			switch {
			case test == "":
				t.Errorf("no test is named to find %s", f)
			case ok:
				t.Errorf("%s did not find %s:\n%s", test, f, out)
			case !strings.Contains(out, "--- FAIL: "+test):
				t.Errorf("%s with %s ended in another way than by finding something:\n%s", test, f, out)
			}
		})
	}
}
