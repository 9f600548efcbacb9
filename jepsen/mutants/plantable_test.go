package mutants

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCanPlant(t *testing.T) {
	some := All()[:2]
	for said, want := range map[string]string{
		`{"version":"v1"}`: "no fault build",
		`{"version":"v1","faults":true,"plantable":["` + some[0].Fault + `"]}`:                         "cannot plant " + some[1].Fault,
		`{"version":"v1","faults":true,"plantable":["` + some[0].Fault + `","` + some[1].Fault + `"]}`: "",
		`capstan v1`: "invalid character",
	} {
		err := canPlant("capstan", []byte(said), some)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", said, err, want)
		}
	}
}

// The names are all that is known here of the faults: the program has to know them,
// too.
func TestProgramKnowsTheMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program anew")
	}
	binary := filepath.Join(t.TempDir(), "capstan-faults")
	build := exec.Command("go", "build", "-tags", "capstan_faults", "-o", binary, "github.com/capstan-kv/capstan/cmd/capstan")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := plantable(t.Context(), binary, All()); err != nil {
		t.Error(err)
	}
	if err := plantable(t.Context(), binary, []Mutant{{Fault: "no-such"}}); err == nil {
		t.Error("it can plant what nobody knows")
	}
}
