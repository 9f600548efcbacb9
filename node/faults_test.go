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

// tests names one of a package, given from here.
type tests struct{ in, name string }

const here, replicas = ".", "../replication"

// caughtBy names, for each fault that can be planted, the test that finds it.
var caughtBy = map[fault.Fault]tests{
	fault.SkipBase:              {here, "TestBothSidesOfACut"},
	fault.IncumbentBase:         {here, "TestStaleWriteCannotGoRoundALinearizableOne"},
	fault.ForgetDot:             {here, "TestHandedInTwiceIsOneWrite"},
	fault.PromoteTwice:          {here, "TestHandedInTwiceIsOneWrite"},
	fault.ReuseDot:              {here, "TestRestartBetweenAcceptingAndPromoting"},
	fault.ForgetEarly:           {here, "TestAppliedBeforeForgotten"},
	fault.DropHint:              {here, "TestHints"},
	fault.SessionEarly:          {here, "TestSessions"},
	fault.TokenWithoutBase:      {here, "TestTokenCarriesTheBase"},
	fault.TokenWithoutTimestamp: {here, "TestSessionBetweenClocksAnHourApart"},
	fault.FarFuture:             {here, "TestFarFutureMovesNoClock"},
	fault.FloorIgnored:          {here, "TestNothingComesBackBehindTheFloor"},
	fault.AckBeforeFsync:        {here, "TestAcknowledgedIsOnDisk"},
	fault.ReadUnconfirmed:       {replicas, "TestCutLeaderDoesNotAnswerStale"},
	fault.VerifyLeader:          {replicas, "TestNonvotersDoNotCount"},
	fault.FreshLeader:           {replicas, "TestFreshLeaderReadsWhatWasAcknowledged"},
	fault.CommitUncompared:      {replicas, "TestFollowerCommitsOnlyWhatTheRequestHolds"},
	fault.RetryUnknown:          {here, "TestRouterRetries"},
	fault.SessionIgnored:        {here, "TestSessions"},
	fault.SnapshotWithoutDots:   {here, "TestSnapshotHasTheRecordOfPromotedDots"},
}

// Tests that cannot fail prove nothing: here each is run on a build that does
// one thing wrong, and has to find it.
func TestPlantedFaultsAreFound(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("builds the tests anew, which takes long under the race detector and shows the same")
	}
	binaries := map[string]string{}
	for i, in := range []string{here, replicas} {
		binaries[in] = filepath.Join(t.TempDir(), string(rune('a'+i))+".test")
		build := exec.Command("go", "test", "-c", "-tags", "capstan_faults", "-o", binaries[in], in)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build with planted faults: %v\n%s", err, out)
		}
	}
	run := func(f fault.Fault, in, names string, env ...string) (string, bool) {
		c := exec.Command(binaries[in], "-test.run", "^("+names+")$", "-test.count=1")
		c.Dir = in
		c.Env = append(append(os.Environ(), "CAPSTAN_FAULT="+string(f)), env...)
		out, err := c.CombinedOutput()
		return string(out), err == nil
	}
	for in := range binaries {
		t.Run("none in "+filepath.Base(in), func(t *testing.T) {
			t.Parallel()
			var names []string
			for _, test := range caughtBy {
				if test.in == in {
					names = append(names, test.name)
				}
			}
			slices.Sort(names)
			for _, env := range []string{"", "CAPSTAN_FAULT_SMALL_LOGS=1"} {
				if out, ok := run("", in, strings.Join(slices.Compact(names), "|"), env); !ok {
					t.Errorf("without a fault, %s:\n%s", env, out)
				}
			}
		})
	}
	for _, f := range fault.All {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			test, ok := caughtBy[f]
			if !ok {
				t.Fatalf("no test is named to find %s", f)
			}
			out, ok := run(f, test.in, test.name)
			switch {
			case ok:
				t.Errorf("%s did not find %s:\n%s", test.name, f, out)
			case !strings.Contains(out, "--- FAIL: "+test.name):
				t.Errorf("%s with %s ended in another way than by finding something:\n%s", test.name, f, out)
			}
		})
	}
}
