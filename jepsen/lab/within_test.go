//go:build linux

package lab_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// A program whose user may make no namespaces is told so, and why.
func TestForbidden(t *testing.T) {
	if !lab.Inside() {
		t.Skip("NOT TESTED: the limit cannot be set without a user namespace")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=forbid")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), lab.ErrForbidden.Error()) || !strings.Contains(string(out), "user.max_user_namespaces=0") {
		t.Errorf("%v: %s", err, out)
	}
}

// forbid takes away the right to make namespaces, from those below this one.
func forbid() int {
	check(os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=forbidden")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	check(cmd.Run())
	return 0
}

func forbidden() int {
	status, err := lab.Within(func() int { return 9 })
	fmt.Println(err, status)
	_, err = lab.OpenNamespaces(lab.Config{Hosts: []string{"n1"}})
	fmt.Println(err)
	return status
}

// One who sets the variable by hand is not taken for a child of Within: a lab
// would change the network of the machine.
func TestNotInsideByVariable(t *testing.T) {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"", here} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=inside", "CAPSTAN_LAB_OUTSIDE="+value)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "false" {
			t.Errorf("with %q: %s %v", value, out, err)
		}
	}
}

// The exit status of the work is that of the program.
func TestExitStatus(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=seven")
	_ = cmd.Run() // its status tells
	if got := cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("%d, want 7", got)
	}
}
