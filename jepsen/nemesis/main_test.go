package nemesis

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// binaryVariable is where the tests find a fault build of capstan. One that is set
// from outside is used as it is.
const binaryVariable = "CAPSTAN_NEMESIS_TEST_BINARY"

// TestMain builds capstan while there is a network, which modules may have to
// come from, and runs the tests within namespaces where the machine allows it.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	for _, arg := range os.Args {
		// Fuzzing has descriptors of its own for its workers; a short test has no cluster.
		if strings.HasPrefix(arg, "-test.fuzz=") || strings.HasPrefix(arg, "-test.fuzzworker") || arg == "-test.short=true" {
			return m.Run()
		}
	}
	if os.Getenv(binaryVariable) == "" {
		dir, err := os.MkdirTemp("", "capstan-nemesis-test-")
		if err != nil {
			return failed(err)
		}
		defer os.RemoveAll(dir)
		binary := filepath.Join(dir, "capstan-faults")
		build := exec.Command("go", "build", "-tags", "capstan_faults", "-o", binary, "github.com/capstan-kv/capstan/cmd/capstan")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := errors.Join(build.Run(), os.Setenv(binaryVariable, binary)); err != nil {
			return failed(err)
		}
	}
	status, err := lab.Within(m.Run)
	if errors.Is(err, lab.ErrForbidden) {
		fmt.Fprintln(os.Stderr, "WARNING: no test of namespaces runs:", err)
		return m.Run()
	}
	if err != nil {
		return failed(err)
	}
	return status
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 2
}
