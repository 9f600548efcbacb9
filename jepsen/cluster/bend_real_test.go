//go:build linux

package cluster_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// eventually waits for something that takes a moment.
func eventually(t *testing.T, what string, is func() (bool, error)) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		done, err := is()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func bent(t *testing.T, n *cluster.Node, c cluster.Control) {
	t.Helper()
	must(t, n.Bend(c))
	eventually(t, n.Name+" obeys", n.Obeys)
}

func counters(t *testing.T, n *cluster.Node) cluster.Counters {
	t.Helper()
	c, err := n.Bent()
	must(t, err)
	return c
}

// The clock and the disk of a fault build's nodes are bent while they run; what that
// did is counted over all processes; a node whose disk fails may end for it.
func TestBend(t *testing.T) {
	t.Parallel() // it mostly waits
	l, err := lab.OpenLoopback(lab.Config{Hosts: []string{"n1", "n2", "n3"}})
	must(t, err)
	defer l.Close()
	faults := filepath.Join(t.TempDir(), "capstan-faults")
	build := exec.Command("go", "build", "-tags", "capstan_faults", "-o", faults, "github.com/capstan-kv/capstan/cmd/capstan")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := cluster.New(cluster.Config{
		Lab: l, Binary: faults, Dir: t.TempDir(), FaultBuild: true, Volatile: true, Env: []string{"CAPSTAN_LOG_LEVEL=debug"},
		Args: []string{"--partitions", "2", "--replication-factor", "3"},
	})
	must(t, err)
	defer c.Close()
	must(t, c.Start(patiently(t)))
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	put(t, n1, "a", "1")
	if got := counters(t, n1); got != (cluster.Counters{}) {
		t.Errorf("nothing is bent: %+v", got)
	}
	if text, err := os.ReadFile(n1.LogFile); err != nil || !strings.Contains(string(text), "level=DEBUG") {
		t.Errorf("the environment does not reach it: %v", err)
	}

	bent(t, n1, cluster.Control{ClockOffsetMillis: -5000})
	for range 3 {
		if _, err := say(n1, http.MethodPut, "/kv/b?consistency=eventual", "x"); err != nil {
			t.Errorf("with a bent clock: %v", err)
		}
	}
	eventually(t, "the clock is read", func() (bool, error) { return counters(t, n1).ClockReads > 0, nil })

	bent(t, n2, cluster.Control{SyncDelayMillis: 30})
	put(t, n1, "c", "3")
	eventually(t, "syncs are slow", func() (bool, error) { return counters(t, n2).SyncDelayed > 0, nil })
	before := counters(t, n2)
	for _, n := range c.Nodes() {
		if forgets, err := n.Forgets(); err != nil || !forgets {
			t.Errorf("%s keeps what was not synced: %v", n.Name, err)
		}
	}
	for _, n := range c.Nodes() {
		must(t, n.Kill()) // their disks forget
	}
	must(t, c.Start(patiently(t)))
	get(t, n3, "c", "3")
	eventually(t, "the next process is slow too", func() (bool, error) { return counters(t, n2).SyncDelayed > before.SyncDelayed, nil })
	bent(t, n1, cluster.Control{})
	bent(t, n2, cluster.Control{})

	// A disk that fails ends the node.
	n3.MayEnd(true)
	must(t, n3.Bend(cluster.Control{SyncError: true}))
	put(t, n1, "d", "4")
	eventually(t, "it ends", func() (bool, error) { return n3.State() == cluster.Down, nil })
	if got := counters(t, n3); got.SyncFailed == 0 {
		t.Errorf("it ended without a failure: %+v", got)
	}
	if obeys, err := n3.Obeys(); obeys || err != nil {
		t.Errorf("it ended, and obeys: %v", err)
	}
	n3.MayEnd(false)
	must(t, n3.Bend(cluster.Control{}))
	must(t, n3.Start())
	must(t, n3.AwaitReady(patiently(t)))
	get(t, n3, "d", "4")

	must(t, n3.Pause())
	if stands, err := n3.Stands(); !stands || err != nil {
		t.Errorf("paused, it runs: %v", err)
	}
	must(t, n3.Resume())
	eventually(t, "it goes on", func() (bool, error) { stands, err := n3.Stands(); return !stands, err })
	must(t, c.Stop(patiently(t)))
	noTrouble(t, c)
	if _, err := n3.Stands(); !errors.Is(err, cluster.ErrNotRunning) {
		t.Errorf("stopped, it stands: %v", err)
	}
}

// Without a fault build nothing can be bent, and that is said.
func TestNoFaultBuild(t *testing.T) {
	l, err := lab.OpenLoopback(lab.Config{Hosts: []string{"n1"}})
	must(t, err)
	defer l.Close()
	if _, err := cluster.New(cluster.Config{Lab: l, Binary: "none", Dir: t.TempDir(), Volatile: true}); !errors.Is(err, cluster.ErrNoFaultBuild) {
		t.Errorf("volatile: %v", err)
	}
	c, err := cluster.New(cluster.Config{Lab: l, Binary: "none", Dir: t.TempDir()})
	must(t, err)
	n := c.Node("n1")
	_, obeys := n.Obeys()
	_, counted := n.Bent()
	for _, err := range []error{n.Bend(cluster.Control{}), obeys, counted} {
		if !errors.Is(err, cluster.ErrNoFaultBuild) {
			t.Error(err)
		}
	}
	if forgets, err := n.Forgets(); forgets || err != nil {
		t.Errorf("forgets: %v", err)
	}
}
