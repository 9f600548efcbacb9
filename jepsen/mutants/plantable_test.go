package mutants

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen"
)

func TestCanPlant(t *testing.T) {
	some := All()[:2]
	for want, program := range map[string]jepsen.Program{
		"no fault build":                {Version: "v1"},
		"cannot plant " + some[1].Fault: {Faults: true, Plantable: []string{some[0].Fault}},
		"":                              {Faults: true, Plantable: []string{some[0].Fault, some[1].Fault}},
	} {
		err := canPlant("capstan", program, some)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", program, err, want)
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
