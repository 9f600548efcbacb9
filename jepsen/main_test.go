//go:build linux

package jepsen

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// binaryVariable is where the tests find capstan. One that is set from outside is
// used as it is.
const binaryVariable = "CAPSTAN_JEPSEN_TEST_BINARY"

// TestMain builds capstan while there is a network, which modules may have to
// come from, and runs the tests within namespaces where the machine allows it.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Getenv(binaryVariable) == "" {
		dir, err := os.MkdirTemp("", "capstan-jepsen-test-")
		if err != nil {
			return complain(err)
		}
		defer os.RemoveAll(dir)
		binary := filepath.Join(dir, "capstan")
		build := exec.Command("go", "build", "-o", binary, "github.com/capstan-kv/capstan/cmd/capstan")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := errors.Join(build.Run(), os.Setenv(binaryVariable, binary)); err != nil {
			return complain(err)
		}
	}
	status, err := lab.Within(m.Run)
	if errors.Is(err, lab.ErrForbidden) {
		fmt.Fprintln(os.Stderr, "WARNING: no test of namespaces runs:", err)
		return m.Run()
	}
	if err != nil {
		return complain(err)
	}
	return status
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 2
}
