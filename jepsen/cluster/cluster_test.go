//go:build linux

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// patience bounds each wait. All of them take seconds on an idle machine.
const patience = 60 * time.Second

func patiently(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newCluster has every node hold every key, so that whichever nodes are together,
// it is clear who has a quorum; other flags of capstan serve say otherwise.
func newCluster(t *testing.T, open func(lab.Config) (lab.Lab, error), count int, flags ...string) (*cluster.Cluster, lab.Lab) {
	t.Helper()
	var names []string
	for i := range count {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	l, err := open(lab.Config{Hosts: names, Seed: 1})
	if errors.Is(err, lab.ErrForbidden) {
		t.Skip("NOT TESTED: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.New(cluster.Config{
		Lab: l, Binary: os.Getenv(binaryVariable), Dir: t.TempDir(),
		Args: append([]string{"--partitions", "2", "--replication-factor", fmt.Sprint(count)}, flags...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range c.Nodes() {
				text, _ := os.ReadFile(n.LogFile)
				t.Logf("%s ends:\n%s", n.Name, text[max(0, len(text)-3000):])
			}
		}
	})
	return c, l
}

// say is one request. The node's answer, or why there was none, is an error unless
// it is of the 200s.
func say(n *cluster.Node, method, what, body string) (string, error) {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequest(method, n.URL()+what, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return string(text), err
}

// put writes until it is told that it did: of a write that is under way when a
// leader goes, nobody knows.
func put(t *testing.T, n *cluster.Node, key, value string) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		_, err := say(n, http.MethodPut, "/kv/"+key+"?timeout=5s", value)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("put %s through %s: %v", key, n.Name, err)
		}
	}
}

func get(t *testing.T, n *cluster.Node, key, want string) {
	t.Helper()
	if got, err := say(n, http.MethodGet, "/kv/"+key+"?timeout=20s", ""); err != nil || got != want {
		t.Errorf("get %s from %s: %q, want %q: %v", key, n.Name, got, want, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noTrouble(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	trouble, err := c.Trouble()
	if err != nil || len(trouble) > 0 {
		t.Errorf("trouble: %v, %v", trouble, err)
	}
}

// Five nodes live through what a nemesis does to processes.
func TestProcessFaults(t *testing.T) {
	for name, open := range map[string]func(lab.Config) (lab.Lab, error){"namespaces": lab.OpenNamespaces, "loopback": lab.OpenLoopback} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			count := 5
			if name == "loopback" {
				count = 3
			}
			c, _ := newCluster(t, open, count)
			must(t, c.Start(patiently(t)))
			nodes := c.Nodes()
			first, second, last := nodes[0], nodes[1], nodes[count-1]
			put(t, first, "a", "1")

			must(t, second.Kill())
			if second.State() != cluster.Down || second.Ready(patiently(t)) == nil {
				t.Errorf("killed, %s is %s", second.Name, second.State())
			}
			put(t, last, "b", "2")
			must(t, second.Start())
			if err := second.Start(); !errors.Is(err, cluster.ErrRunning) {
				t.Errorf("started twice: %v", err)
			}
			must(t, second.AwaitReady(patiently(t)))
			get(t, second, "a", "1")
			get(t, second, "b", "2")

			must(t, first.Pause())
			if first.State() != cluster.Paused || first.Ready(patiently(t)) == nil {
				t.Errorf("paused, %s is %s", first.Name, first.State())
			}
			put(t, second, "c", "3")
			must(t, first.Resume())
			must(t, first.AwaitReady(patiently(t)))
			get(t, first, "c", "3")

			if err := last.Wipe(); !errors.Is(err, cluster.ErrRunning) {
				t.Errorf("wiped while it ran: %v", err)
			}
			must(t, last.Pause())
			must(t, last.Kill())
			must(t, last.Wipe())
			if _, err := os.Stat(last.DataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("wiped, its disk is there: %v", err)
			}
			must(t, last.Start())
			must(t, last.AwaitReady(patiently(t)))
			get(t, last, "c", "3")

			must(t, c.Stop(patiently(t)))
			noTrouble(t, c)
			for _, n := range nodes {
				text, err := os.ReadFile(n.LogFile)
				starts := 1
				if n == second || n == last {
					starts = 2
				}
				if got := strings.Count(string(text), "# start "); err != nil || got != starts {
					t.Errorf("the log of %s tells of %d starts, want %d: %v", n.Name, got, starts, err)
				}
			}
		})
	}
}

// Two of five nodes, cut off from the others: they refuse what needs a quorum and
// take what does not, and the others go on.
func TestMinorityIsCutOff(t *testing.T) {
	c, l := newCluster(t, lab.OpenNamespaces, 5)
	must(t, c.Start(patiently(t)))
	nodes := c.Nodes()
	put(t, nodes[0], "a", "1")
	shape := func(rule lab.Rule) {
		for i, n := range nodes {
			for j, other := range nodes {
				if (i < 2) != (j < 2) {
					must(t, l.Shape(lab.Link{From: n.Name, To: other.Name}, rule))
				}
			}
		}
	}
	shape(lab.Rule{Cut: true})
	for _, n := range nodes[:2] {
		if got, err := say(n, http.MethodPut, "/kv/a?timeout=3s", "never"); err == nil {
			t.Errorf("a linearizable put through the minority's %s: %q", n.Name, got)
		}
		if _, err := say(n, http.MethodPut, "/kv/"+n.Name+"?consistency=eventual", "tentative"); err != nil {
			t.Errorf("an eventual put through the minority's %s: %v", n.Name, err)
		}
	}
	put(t, nodes[3], "b", "2")
	get(t, nodes[4], "b", "2")
	crossed, err := l.Traffic(lab.Link{From: nodes[0].Name, To: nodes[4].Name})
	if err != nil || crossed.Cut == 0 {
		t.Errorf("the cut was not felt: %+v, %v", crossed, err)
	}
	shape(lab.Rule{})
	must(t, c.AwaitReady(patiently(t)))
	get(t, nodes[0], "b", "2")
	put(t, nodes[1], "c", "3")
	noTrouble(t, c)
}

// A node that cannot start, or ends by itself, is trouble, and the error shows
// what it said.
func TestTrouble(t *testing.T) {
	l, err := lab.OpenLoopback(lab.Config{Hosts: []string{"n1", "n2"}})
	must(t, err)
	defer l.Close()
	script := t.TempDir() + "/program"
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$3\" = n1 ] || exec sleep 1000\necho level=INFO msg=\"panic: told\"\necho panic: really\nenv\nexit 3\n"), 0o755))
	t.Setenv("CAPSTAN_NAME", "wrong")
	c, err := cluster.New(cluster.Config{Lab: l, Binary: script, Dir: t.TempDir()})
	must(t, err)
	defer c.Close()
	n1, n2 := c.Node("n1"), c.Node("n2")
	if got, err := c.Trouble(); len(got) > 0 || err != nil {
		t.Errorf("before the first start: %v, %v", got, err)
	}
	for _, err := range []error{n1.Pause(), n1.Resume()} {
		if !errors.Is(err, cluster.ErrNotRunning) {
			t.Errorf("a node that is down: %v", err)
		}
	}
	must(t, errors.Join(n1.Kill(), n1.Stop(t.Context())))
	if err := c.Start(patiently(t)); !errors.Is(err, cluster.ErrNotRunning) || !strings.Contains(err.Error(), "panic: really") {
		t.Errorf("started: %v", err)
	}
	// It is asked to end when it has ended already.
	must(t, n1.Kill())
	// This one goes at the first signal, which is no order.
	if err := n2.Stop(patiently(t)); err == nil || !strings.Contains(err.Error(), syscall.SIGTERM.String()) {
		t.Errorf("stopped: %v", err)
	}
	got, err := c.Trouble()
	must(t, err)
	var said []string
	for _, trouble := range got {
		said = append(said, fmt.Sprintf("%s %d %s", trouble.Node, trouble.Line, trouble.What))
	}
	if want := []string{"n1 0 process 1 of n1 ended by itself: exit status 3", "n1 3 panic: really"}; !slices.Equal(said, want) {
		t.Errorf("trouble %q, want %q", said, want)
	}
	text, err := os.ReadFile(n1.LogFile)
	if err != nil || strings.Contains(string(text), "CAPSTAN_NAME") {
		t.Errorf("nodes get the flags of this process's environment: %v", err)
	}
}

// A node that does not end when told to is killed.
func TestStopHasABound(t *testing.T) {
	l, err := lab.OpenLoopback(lab.Config{Hosts: []string{"n1"}})
	must(t, err)
	defer l.Close()
	script := t.TempDir() + "/program"
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ntrap '' TERM\necho trapped\nwhile :; do sleep 1; done\n"), 0o755))
	c, err := cluster.New(cluster.Config{Lab: l, Binary: script, Dir: t.TempDir()})
	must(t, err)
	defer c.Close()
	n := c.Node("n1")
	must(t, n.Start())
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if text, _ := os.ReadFile(n.LogFile); strings.Contains(string(text), "trapped") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not start")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) || n.State() != cluster.Down {
		t.Errorf("%v, and it is %s", err, n.State())
	}
}
