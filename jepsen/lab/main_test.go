//go:build linux

package lab_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// roleVariable has this program be something else than its tests.
const roleVariable = "CAPSTAN_LAB_TEST_ROLE"

// TestMain runs the tests within namespaces where the machine allows it. Where it
// does not, those that need them are skipped.
func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		run(m.Run)
	case "server":
		serve(os.Args[1])
	case "inside":
		fmt.Print(lab.Inside())
	case "seven":
		run(func() int { return 7 })
	case "forbid":
		run(forbid)
	case "forbidden":
		os.Exit(forbidden())
	default:
		kind, how, _ := strings.Cut(role, " ")
		if kind == string(lab.Loopback) {
			os.Exit(endOf(lab.OpenLoopback, how))
		}
		run(func() int { return endOf(lab.OpenNamespaces, how) })
	}
}

func run(work func() int) {
	status, err := lab.Within(work)
	if errors.Is(err, lab.ErrForbidden) {
		fmt.Fprintln(os.Stderr, "WARNING: no test of namespaces runs:", err)
		status = work()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 2
	}
	os.Exit(status)
}
