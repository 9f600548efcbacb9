//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	tourID     = regexp.MustCompile(`(n\d)-[a-z0-9]{4}\b`)
	tourDigits = regexp.MustCompile(`\d+`)
)

// butForDigits is text without what differs from run to run. Which node leads
// does, so n3 may be the one that reads and the one that writes.
func butForDigits(text string) string {
	text = strings.ReplaceAll(text, "read and written at n3", "read at n3, written at n3")
	return tourDigits.ReplaceAllString(tourID.ReplaceAllString(strings.TrimRight(text, "\n"), "$1-id"), "N")
}

// What the tour shows is what a user sees, word for word but for digits, on the
// cluster that the demo starts.
func TestClusterTour(t *testing.T) {
	t.Parallel()
	d, base := startWholeDemo(t)
	bin := t.TempDir()
	exe, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(bin, "capstan")); err != nil {
		t.Fatal(err)
	}
	var endpoints []string
	for _, n := range demoNodes(3, base) {
		endpoints = append(endpoints, n.url())
	}
	last := 0
	for _, step := range tourSteps(t, "tour.txt") {
		if names, ok := strings.CutPrefix(step.command, "kill -9 "); ok {
			for _, name := range strings.Fields(strings.Split(names, "#")[0]) {
				if err := syscall.Kill(d.pid(t, name), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		// A leader's lease and gossip take their time to notice a death: the
		// step is repeated until it shows what it should.
		want := butForDigits(step.shows)
		for end := time.Now().Add(clusterPatience); ; time.Sleep(10 * poll) {
			shell := exec.Command("bash", "-c", fmt.Sprintf("(exit %d); %s", last, step.command))
			shell.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), childVariable+"="+childWhole, endpointsVariable+"="+strings.Join(endpoints, ","))
			text, _ := shell.CombinedOutput()
			got := string(text)
			// Without a terminal a value has no newline of its own.
			if strings.ReplaceAll(butForDigits(got), "\n", "") == strings.ReplaceAll(want, "\n", "") {
				last = shell.ProcessState.ExitCode()
				break
			}
			if time.Now().After(end) {
				t.Fatalf("$ %s\nshows\n%s\nwant, but for digits\n%s", step.command, got, step.shows)
			}
		}
	}
}

// demoSlot gives each demo of this process ports of its own.
var demoSlot atomic.Uint32

func init() { demoSlot.Store(rand.Uint32N(1 << 16)) }

// startWholeDemo is the demo with real nodes, once it says that it is ready.
func startWholeDemo(t *testing.T) (*demoProcess, int) {
	t.Helper()
	// Below what other tests and outgoing connections use.
	base := 10000 + int(demoSlot.Add(1)%90)*100
	for takenPort(demoNodes(3, base)) != 0 {
		base = 10000 + int(demoSlot.Add(1)%90)*100
	}
	d := startDemo(t, childWhole, "--base-port", strconv.Itoa(base))
	d.until(t, "capstan status")
	return d, base
}

// pid is a node's process, as the demo says.
func (d *demoProcess) pid(t *testing.T, node string) int {
	t.Helper()
	found := regexp.MustCompile(node + ` .*pid (\d+)`).FindStringSubmatch(d.said)
	if found == nil {
		t.Fatalf("no pid of %s in %s", node, d.said)
	}
	pid, _ := strconv.Atoi(found[1])
	return pid
}

// gone waits until no process of the demo is left, and no file.
func (d *demoProcess) gone(t *testing.T) {
	t.Helper()
	for _, node := range []string{"n1", "n2", "n3"} {
		pid := d.pid(t, node)
		eventually(t, node+" is gone", func() bool {
			args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return err != nil || !strings.Contains(string(args), "serve")
		})
	}
	eventually(t, "the data is deleted", func() bool { return len(files(d.dir)) == 0 })
}

func TestClusterDemo(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"Ctrl-C": syscall.SIGINT, "kill -9": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			d, base := startWholeDemo(t)
			shell := exec.Command(os.Args[0], "status")
			shell.Env = append(os.Environ(), childVariable+"="+childWhole, endpointsVariable+"="+demoNodes(3, base)[1].url())
			text, err := shell.CombinedOutput()
			if err != nil || strings.Count(string(text), "alive") != 3 || !strings.Contains(string(text), "partitions 16: 16 with a leader") {
				t.Errorf("%v\n%s", err, text)
			}
			if err := d.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			status := d.wait(t)
			if signal == syscall.SIGINT && (status != 0 || d.stderr.String() != "") {
				t.Errorf("status %d: %s", status, &d.stderr)
			}
			d.gone(t)
			if port := takenPort(demoNodes(3, base)); port != 0 {
				t.Errorf("port %d is still taken", port)
			}
		})
	}
}
