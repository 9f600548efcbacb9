//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/storage/fault/bend"
)

// faultBinary builds capstan with planted faults, once for all tests.
var faultBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "capstan-faults-*")
	if err != nil {
		return "", err
	}
	afterTests = append(afterTests, func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "capstan-faults")
	args := []string{"build", "-tags", "capstan_faults", "-o", path}
	if raceDetector {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build with planted faults: %w\n%s", err, out)
	}
	return path, nil
})

func withFaults(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds capstan anew")
	}
	path, err := faultBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// bendable makes the node one with a control file.
func (n *serving) bendable(binary string, control bend.Control) {
	n.binary = binary
	n.control = filepath.Join(n.c.dir, n.name+".fault.json")
	n.env = append(n.env, "CAPSTAN_FAULT_CONTROL="+n.control)
	n.bend(control)
}

// bend writes the control file; it is in force somewhat later.
func (n *serving) bend(control bend.Control) {
	n.c.t.Helper()
	text, err := json.Marshal(control)
	if err == nil {
		err = os.WriteFile(n.control+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(n.control+".new", n.control)
	}
	if err != nil {
		n.c.t.Fatal(err)
	}
}

// felt is what the node tells of its bent machine.
func (n *serving) felt() (bend.Counters, error) {
	text, err := os.ReadFile(n.control + bend.CountersSuffix)
	if err != nil {
		return bend.Counters{}, err
	}
	var c bend.Counters
	if err := json.Unmarshal(text, &c); err != nil {
		return bend.Counters{}, err
	}
	if c.PID != n.cmd.Process.Pid {
		return bend.Counters{}, fmt.Errorf("of process %d, not %d", c.PID, n.cmd.Process.Pid)
	}
	return c, nil
}

// untilBent waits until a control is in force and was felt.
func (n *serving) untilBent(control bend.Control, felt func(bend.Counters) bool) {
	n.c.t.Helper()
	n.bend(control)
	n.c.until(fmt.Sprintf("%s feels %+v", n.name, control), func() error {
		c, err := n.felt()
		if err == nil && (c.Seen != control.Generation || !felt(c)) {
			err = fmt.Errorf("%+v", c)
		}
		return err
	})
}

// One process whose disk and clock are bent while it serves.
func TestBentProcess(t *testing.T) {
	t.Parallel()
	binary := withFaults(t)
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.bendable(binary, bend.Control{Generation: 1})
	n.start()
	c.untilReady(n)
	log, err := os.ReadFile(n.log)
	if err != nil || !strings.Contains(string(log), `level=WARN msg="this build does things wrong on purpose`) {
		t.Errorf("the log does not begin with a warning: %v\n%s", err, log)
	}

	asked := c.client(n)
	put := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), client.DefaultTimeout)
		defer cancel()
		_, err := asked.Put(ctx, []byte("k"), []byte("v"), client.Eventual())
		return err
	}
	counts := func(of func(bend.Counters) uint64) func(bend.Counters) bool {
		return func(c bend.Counters) bool {
			if err := put(); err != nil {
				t.Fatal(err)
			}
			return of(c) > 0
		}
	}
	n.untilBent(bend.Control{Generation: 2, ClockOffsetMS: 3_600_000}, counts(func(c bend.Counters) uint64 { return c.ClockReads }))
	n.untilBent(bend.Control{Generation: 3, SyncDelayMS: 20}, counts(func(c bend.Counters) uint64 { return c.SyncDelayed }))
	// A log that can not be written, or synced, ends the process, and it says why.
	for i, sick := range []struct {
		bend.Control
		want string
	}{
		{bend.Control{DiskFull: true}, "no space left on device"},
		{bend.Control{SyncError: true}, "input/output error"},
	} {
		sick.Generation = uint64(10 + 2*i)
		n.bend(sick.Control)
		c.until("the process ends by itself", func() error {
			_ = put()
			if n.running() {
				return errors.New("it runs")
			}
			return nil
		})
		if status := n.exit(); status != exitFailed {
			t.Errorf("exit status %d", status)
		}
		if log, err := os.ReadFile(n.log); err != nil || !strings.Contains(string(log), sick.want) {
			t.Errorf("it does not say %q: %v\n%s", sick.want, err, lastLines(log, 20))
		}
		if felt, err := n.felt(); err != nil || felt.Seen != sick.Generation || felt.SyncFailed+felt.WriteRefused == 0 {
			t.Errorf("it felt %+v, %v", felt, err)
		}
		n.bend(bend.Control{Generation: sick.Generation + 1})
		n.start()
		c.untilReady(n)
	}
	status, _, body, err := plain(http.MethodGet, n.url()+"/kv/k", "")
	if err != nil || status != http.StatusOK || body != "v" {
		t.Errorf("after all that: %d %q %v", status, body, err)
	}
}

// What is wrong with the environment of such a build is told before it serves.
func TestFaultBuildRefuses(t *testing.T) {
	t.Parallel()
	binary := withFaults(t)
	control := filepath.Join(t.TempDir(), "control")
	if err := os.WriteFile(control, []byte(`{"disk_fool":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]string{
		"CAPSTAN_FAULT=skip-bass":          `CAPSTAN_FAULT="skip-bass" is no fault of this build`,
		"CAPSTAN_FAULT_CONTROL=" + control: `unknown field "disk_fool"`,
	} {
		cmd := exec.CommandContext(t.Context(), binary, "serve", "--name", "n1", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0",
			"--listen-peer", "127.0.0.1:0", "--listen-gossip", "127.0.0.1:0")
		cmd.Env = append(os.Environ(), variable)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", variable, err, out)
		}
	}
}

func TestFaultBuildSaysWhatItIs(t *testing.T) {
	t.Parallel()
	binary := withFaults(t)
	out, err := exec.Command(binary, "version").Output()
	if err != nil || !strings.Contains(string(out), "WITH PLANTED FAULTS") {
		t.Errorf("%s %v", out, err)
	}
	out, err = exec.Command(binary, "version", "-o", "json").Output()
	var v struct {
		Faults    bool
		Plantable []string
	}
	if err := errors.Join(err, json.Unmarshal(out, &v)); err != nil || !v.Faults || len(v.Plantable) == 0 {
		t.Errorf("%s %v", out, err)
	}
	if stdout, _, _ := shell(t, "", "version"); strings.Contains(stdout, "FAULTS") {
		t.Errorf("an ordinary build says %s", stdout)
	}
	if stdout, _, _ := shell(t, "", "version", "-o", "json"); strings.Contains(stdout, "fault") || strings.Contains(stdout, "plantable") {
		t.Errorf("an ordinary build says %s", stdout)
	}
}

// An ordinary build does not contain what bends, and looks at none of its
// variables.
func TestOrdinaryBuildIsNotBent(t *testing.T) {
	t.Parallel()
	list := func(flags ...string) string {
		out, err := exec.Command("go", append(append([]string{"list", "-deps"}, flags...), ".")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if strings.Contains(list(), "storage/fault/bend") {
		t.Error("capstan contains storage/fault/bend")
	}
	if !strings.Contains(list("-tags", "capstan_faults"), "storage/fault/bend") {
		t.Error("this test looks for what is not there")
	}
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.bendable("", bend.Control{Generation: 1, DiskFull: true, SyncError: true})
	n.env = append(n.env, "CAPSTAN_FAULT=no-fault-of-any-build")
	n.start()
	c.untilReady(n)
	if err := c.write(n, "k", "v"); err != nil {
		t.Error(err)
	}
	if got, err := n.felt(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it told %+v, %v", got, err)
	}
	if log, err := os.ReadFile(n.log); err != nil || strings.Contains(string(log), "on purpose") {
		t.Errorf("%v\n%s", err, log)
	}
}
