//go:build linux

package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// programVariable has this test binary be capstan-jepsen.
const programVariable = "CAPSTAN_JEPSEN_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

// builds are the programs under test, as a release has them: side by side.
func builds(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds capstan and runs clusters for half a minute")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "github.com/capstan-kv/capstan/cmd/capstan")
	build.Stderr = os.Stderr
	must(t, build.Run())
	self, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(self, filepath.Join(dir, "capstan-jepsen")))
	return dir
}

// started is capstan-jepsen as a process, in a directory of its own.
func started(t *testing.T, builds, dir string, args ...string) (cmd *exec.Cmd, stdout *bytes.Buffer, stderr io.Reader) {
	t.Helper()
	cmd = exec.Command(filepath.Join(builds, "capstan-jepsen"), append(args, "--binary", filepath.Join(builds, "capstan"))...)
	cmd.Env = append(os.Environ(), programVariable+"=1")
	cmd.Dir = dir
	stdout = &bytes.Buffer{}
	cmd.Stdout = stdout
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	kill := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { kill.Stop() })
	return cmd, stdout, stderr
}

// left are the processes that were started from a directory and run yet.
func left(t *testing.T, dir string) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && bytes.Contains(line, []byte(dir)) {
			all = append(all, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return all
}

// canNamespaces skips a test of a lab that this machine does not have.
func canNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		t.Skip("NOT TESTED: ", lab.ErrForbidden, err)
	}
}

// A whole test in each lab, of ten seconds with a fault, and it holds.
func TestRealRun(t *testing.T) {
	b := builds(t)
	for kind, nemesis := range map[lab.Kind]string{lab.Namespaces: "pause-one", lab.Loopback: "cut-halves"} {
		t.Run(string(kind), func(t *testing.T) {
			if kind == lab.Namespaces {
				canNamespaces(t)
			}
			dir := t.TempDir()
			cmd, stdout, stderr := started(t, b, dir, "run", "--lab", string(kind), "--nemesis", nemesis, "--time-limit", "12s", "--rate", "100", "--seed", "3")
			said, _ := io.ReadAll(stderr)
			err := cmd.Wait()
			if err != nil || !strings.HasPrefix(stdout.String(), "Holds: ") {
				t.Fatalf("%v: %s\n%s", err, stdout, said)
			}
			for _, want := range []string{"seed 3", "running", nemesis, "ok "} {
				if !strings.Contains(string(said), want) {
					t.Errorf("nobody was told %q:\n%s", want, said)
				}
			}
			if left := left(t, dir); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
			for _, file := range []string{reportFile, jepsen.HistoryFile, jepsen.ScheduleFile, jepsen.ResultFile, "n1.log"} {
				if found, _ := filepath.Glob(filepath.Join(dir, "store", "*-3", file)); len(found) != 1 {
					t.Errorf("no %s", file)
				}
			}
			if data, _ := filepath.Glob(filepath.Join(dir, "store", "*", "n1")); len(data) > 0 {
				t.Errorf("data is left: %v", data)
			}
		})
	}
}

// Ctrl-C ends a test in order: with a verdict, which is that it cannot tell, and
// without a process.
func TestRealInterrupt(t *testing.T) {
	b := builds(t)
	canNamespaces(t)
	dir := t.TempDir()
	cmd, stdout, stderr := started(t, b, dir, "run", "--nemesis", "none", "--time-limit", "10m")
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "running") {
	}
	must(t, cmd.Process.Signal(os.Interrupt))
	rest, _ := io.ReadAll(stderr)
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != exitCannotTell || !strings.Contains(stdout.String(), "interrupted") || !strings.Contains(stdout.String(), reportFile) {
		t.Errorf("%v: %s\n%s", err, stdout, rest)
	}
	if left := left(t, dir); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}
