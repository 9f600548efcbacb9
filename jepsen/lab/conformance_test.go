//go:build linux

package lab_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

func skipForbidden(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, lab.ErrForbidden) {
		t.Skip("NOT TESTED: ", err)
	}
}

// both runs a test in each kind of lab.
func both(t *testing.T, test func(t *testing.T, open func(lab.Config) (lab.Lab, error))) {
	t.Run("loopback", func(t *testing.T) { test(t, lab.OpenLoopback) })
	t.Run("namespaces", func(t *testing.T) { test(t, lab.OpenNamespaces) })
}

func TestHostsReachEachOther(t *testing.T) {
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		w := newWorld(t, open, "n1", "n2", "n3")
		for i, h := range w.Hosts() {
			if want := fmt.Sprintf("n%d", i+1); h.Name != want {
				t.Errorf("host %d is %s, want %s", i, h.Name, want)
			}
			for _, other := range w.Hosts() {
				want := fmt.Sprintf("%s got 300000 from %s", w.ip[other.Name], w.ip[h.Name])
				if other == h || w.Kind() == lab.Loopback {
					// Who asks is another address of 127/8.
					want = w.ip[other.Name] + " got 300000"
				}
				if got := w.mustAsk(h.Name, "/ask?ip=%s&bytes=300000", w.ip[other.Name]); !strings.HasPrefix(got, want) {
					t.Errorf("%s asked %s: %q, want %q", h.Name, other.Name, got, want)
				}
			}
		}
	})
}

func TestKillAndStartAgain(t *testing.T) {
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		w := newWorld(t, open, "n1", "n2")
		p := w.servers["n1"]
		if p.State() != nil || !p.Running() {
			t.Errorf("it runs, and its state is %v", p.State())
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if by := p.State().Sys().(syscall.WaitStatus); by.Signal() != syscall.SIGKILL || p.Running() {
			t.Errorf("killed, and its state is %v", p.State())
		}
		if _, err := w.ask("n1", "/hello"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a killed server's address answers %v", err)
		}
		if err := p.Kill(); err != nil {
			t.Error("killed again:", err)
		}
		for name, call := range map[string]func() error{
			"pause": p.Pause, "resume": p.Resume, "signal": func() error { return p.Signal(syscall.SIGTERM) },
		} {
			if err := call(); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("%s of a killed process: %v", name, err)
			}
		}
		w.mustAsk("n2", "/hello")
		w.start("n1")
		w.mustAsk("n1", "/hello")
	})
}

func TestPause(t *testing.T) {
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		w := newWorld(t, open, "n1", "n2")
		p := w.servers["n1"]
		for range 20 {
			if err := p.Pause(); err != nil {
				t.Fatal(err)
			}
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
			if err != nil {
				t.Fatal(err)
			}
			if fields := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")"):]); fields[1] != "T" {
				t.Fatalf("paused, and its state is %s", fields[1])
			}
			if err := p.Pause(); err != nil {
				t.Fatal("paused again:", err)
			}
			answered := make(chan error)
			go func() {
				_, err := w.ask("n1", "/hello")
				answered <- err
			}()
			w.mustAsk("n2", "/hello")
			select {
			case err := <-answered:
				t.Fatalf("a paused process answered: %v", err)
			default:
			}
			if err := p.Resume(); err != nil {
				t.Fatal(err)
			}
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil || p.Running() {
			t.Errorf("a paused process does not die: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		w := newWorld(t, open, "n1", "n2")
		if err := w.servers["n2"].Pause(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range w.servers {
			if p.Running() {
				t.Errorf("the server on %s still runs", p.Host)
			}
		}
		if _, err := w.Start("n1", exec.Command("true")); !errors.Is(err, lab.ErrClosed) {
			t.Errorf("started in a closed lab: %v", err)
		}
		// There is room for the next one.
		newWorld(t, open, "n1").mustAsk("n1", "/hello")
	})
}

func TestWrongUse(t *testing.T) {
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		for _, hosts := range [][]string{nil, {""}, {"a", "a"}, {lab.Clients}, make([]string, lab.MaxHosts+1)} {
			if l, err := open(lab.Config{Hosts: hosts}); err == nil {
				l.Close()
				t.Errorf("opened with hosts %q", hosts)
			}
		}
		w := newWorld(t, open, "n1", "n2")
		if _, err := w.Start("n9", exec.Command("true")); !errors.Is(err, lab.ErrUnknownHost) {
			t.Errorf("started on a host that is none: %v", err)
		}
		if _, err := w.Start("n1", exec.Command("/does/not/exist")); err == nil {
			t.Error("started a program that is none")
		}
		want := lab.ErrUnknownHost
		if w.Kind() == lab.Loopback {
			want = lab.ErrNoLinks
		}
		for _, link := range []lab.Link{{From: "n1", To: "n9"}, {From: "n9", To: "n1"}} {
			if err := w.Shape(link, lab.Rule{Cut: true}); !errors.Is(err, want) {
				t.Errorf("shape %s: %v", link, err)
			}
			if _, err := w.Traffic(link); !errors.Is(err, want) {
				t.Errorf("traffic of %s: %v", link, err)
			}
		}
		if err := w.Shape(lab.Link{From: "n1", To: "n1"}, lab.Rule{}); err == nil {
			t.Error("shaped a link of a host to itself")
		}
		if err := w.Shape(lab.Link{From: "n1", To: "n2"}, lab.Rule{Delay: -time.Second}); err == nil {
			t.Error("shaped with a negative delay")
		}
	})
}

// A process that ends by itself is gone for the lab, too.
func TestProcessEnds(t *testing.T) {
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		w := newWorld(t, open, "n1")
		p, err := w.Start("n1", exec.Command("sh", "-c", "exit 3"))
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if got := p.State().ExitCode(); got != 3 {
			t.Errorf("exit status %d, want 3", got)
		}
	})
}
