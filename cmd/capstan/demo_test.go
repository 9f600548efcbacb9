//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait in these tests; nothing takes nearly as long.
const patience = 20 * time.Second

// demoProcess is the demo as a process of its own, as a user runs it.
type demoProcess struct {
	cmd    *exec.Cmd
	dir    string
	stdout *bufio.Reader
	stderr strings.Builder
	said   string
}

func startDemo(t *testing.T, child string, args ...string) *demoProcess {
	t.Helper()
	d := &demoProcess{dir: t.TempDir(), cmd: exec.Command(os.Args[0], append([]string{"demo"}, args...)...)}
	d.cmd.Dir = d.dir
	d.cmd.Env = append(os.Environ(), childVariable+"="+child, "CAPSTAN_ZONE=not for the children", "PATH=/nowhere")
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.stdout = bufio.NewReader(out)
	d.cmd.Stderr = &d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
	})
	return d
}

// until reads what the demo says up to a line that contains text.
func (d *demoProcess) until(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := d.stdout.ReadString('\n')
		d.said += line
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("it ended (%v) after\n%s%s", err, d.said, &d.stderr)
		}
	}
}

func (d *demoProcess) wait(t *testing.T) int {
	t.Helper()
	rest, _ := io.ReadAll(d.stdout)
	d.said += string(rest)
	timer := time.AfterFunc(patience, func() { _ = d.cmd.Process.Kill() })
	defer timer.Stop()
	_ = d.cmd.Wait()
	return d.cmd.ProcessState.ExitCode()
}

// freeBase finds room for a demo, so that tests do not meet.
func freeBase(t *testing.T, nodes int) int {
	t.Helper()
	// Below the ports that Linux gives to outgoing connections.
	for base := 20000 + os.Getpid()%100*100; base < 32700; base += 100 {
		if takenPort(demoNodes(nodes, base)) == 0 {
			return base
		}
	}
	t.Fatal("no room for a demo")
	return 0
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func files(dir string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, "*"))
	return found
}

func TestDemo(t *testing.T) {
	base := freeBase(t, 3)
	d := startDemo(t, "1", "--base-port", fmt.Sprint(base))
	d.until(t, "capstan status")
	want := regexp.MustCompile(fmt.Sprintf(`^capstan demo: 3 nodes, 16 partitions, 3 replicas each, chaos enabled, data in \./demo-data-\d+ \(temporary\)
  n1  http://127\.0\.0\.1:%d  peer %d  gossip %d  pid \d+
  n2  http://127\.0\.0\.1:%d  peer %d  gossip %d  pid \d+
  n3  http://127\.0\.0\.1:%d  peer %d  gossip %d  pid \d+
ready in \d+\.\ds\. Ctrl-C stops the nodes and deletes the data\. In another terminal:
  export PATH="[^"]+:\$PATH"; export CAPSTAN_ENDPOINTS=http://127\.0\.0\.1:%d; capstan status
$`, base, base+1, base+2, base+10, base+11, base+12, base+20, base+21, base+22, base))
	if !want.MatchString(d.said) {
		t.Errorf("it said\n%s", d.said)
	}
	if len(files(d.dir)) != 1 {
		t.Errorf("found %v", files(d.dir))
	}
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := d.wait(t); status != 0 || d.stderr.String() != "" {
		t.Errorf("status %d: %s", status, &d.stderr)
	}
	if takenPort(demoNodes(3, base)) != 0 || len(files(d.dir)) != 0 {
		t.Errorf("it left %v, port %d", files(d.dir), takenPort(demoNodes(3, base)))
	}
}

func TestDemoKilledLeavesNothing(t *testing.T) {
	base := freeBase(t, 3)
	d := startDemo(t, "1", "--base-port", fmt.Sprint(base))
	d.until(t, "capstan status")
	if err := d.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.wait(t)
	eventually(t, "the children stop", func() bool { return takenPort(demoNodes(3, base)) == 0 })
	eventually(t, "the data is deleted", func() bool { return len(files(d.dir)) == 0 })
}

func TestDemoKeepsItsData(t *testing.T) {
	base := freeBase(t, 1)
	d := startDemo(t, "1", "--base-port", fmt.Sprint(base), "--nodes", "1", "--data-dir", "kept")
	d.until(t, "capstan status")
	if !strings.Contains(d.said, "1 node, 16 partitions, 1 replica each, chaos enabled, data in kept (kept)") || !strings.Contains(d.said, "keeps the data") {
		t.Errorf("it said\n%s", d.said)
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	if status := d.wait(t); status != 0 {
		t.Errorf("status %d: %s", status, &d.stderr)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "kept", "n1", "data")); err != nil {
		t.Error(err)
	}
}

func TestDemoSaysWhyANodeDied(t *testing.T) {
	base := freeBase(t, 3)
	d := startDemo(t, "fail n2", "--base-port", fmt.Sprint(base))
	if status := d.wait(t); status != 3 {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{"error: n2 stopped before the cluster was ready: exit status 3; its log says:", "panic: the disk is on fire", "error: it broke"} {
		if !strings.Contains(d.stderr.String(), want) {
			t.Errorf("it did not say %q:\n%s", want, &d.stderr)
		}
	}
	if takenPort(demoNodes(3, base)) != 0 || len(files(d.dir)) != 0 {
		t.Errorf("it left %v", files(d.dir))
	}
}

func TestDemoGoesOnWithoutANode(t *testing.T) {
	base := freeBase(t, 3)
	d := startDemo(t, "1", "--base-port", fmt.Sprint(base))
	d.until(t, "capstan status")
	var pid int
	if _, err := fmt.Sscan(regexp.MustCompile(`n2 .*pid (\d+)`).FindStringSubmatch(d.said)[1], &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n2 stops", func() bool {
		c, err := net.Dial("tcp", local(base+10))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	_ = d.cmd.Process.Signal(os.Interrupt)
	if status := d.wait(t); status != 0 {
		t.Errorf("status %d: %s", status, &d.stderr)
	}
}

// Whoever reads what the demo prints may go away: the nodes stay, and so does
// the way to stop them.
func TestDemoGoesOnUnread(t *testing.T) {
	base := freeBase(t, 2)
	d := &demoProcess{dir: t.TempDir(), cmd: exec.Command(os.Args[0], "demo", "--nodes", "2", "--base-port", fmt.Sprint(base))}
	d.cmd.Dir, d.cmd.Env = d.dir, append(os.Environ(), childVariable+"=1")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stdout, d.cmd.Stderr = writer, writer
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
	})
	d.stdout = bufio.NewReader(reader)
	d.until(t, "capstan status")
	reader.Close()
	var pid int
	if _, err := fmt.Sscan(regexp.MustCompile(`n2 .*pid (\d+)`).FindStringSubmatch(d.said)[1], &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // the demo says so
		t.Fatal(err)
	}
	eventually(t, "n2 is waited for", func() bool { return syscall.Kill(pid, 0) != nil })
	for range 20 {
		if c, err := net.Dial("tcp", local(base)); err != nil {
			t.Fatalf("n1 is gone: %v", err)
		} else {
			c.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
	_ = d.cmd.Process.Signal(os.Interrupt)
	timer := time.AfterFunc(patience, func() { _ = d.cmd.Process.Kill() })
	defer timer.Stop()
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("the demo ended: %v", err)
	}
	if left := files(d.dir); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}

func TestDemoPorts(t *testing.T) {
	base := freeBase(t, 2)
	l, err := net.Listen("tcp", local(base+12))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, stderr, status := shell(t, "", "demo", "--nodes", "2", "--base-port", fmt.Sprint(base))
	if status != 3 || stderr != fmt.Sprintf("error: port %d is in use\n  try: another --base-port, or none\n", base+12) {
		t.Errorf("status %d: %s", status, stderr)
	}
	var said strings.Builder
	p := &program{stderr: &said}
	s := demoSettings{nodes: 2, basePort: base, moved: true}
	nodes, err := p.freePorts(&s)
	if err != nil || s.basePort <= base || (s.basePort-base)%demoMove != 0 || nodes[1].api != s.basePort+10 || !strings.Contains(said.String(), "moves up") {
		t.Errorf("moved to %d (%v): %s", s.basePort, err, &said)
	}
	for _, args := range [][]string{{"--nodes", "0"}, {"--nodes", "10"}, {"--base-port", "65530"}} {
		if _, _, status := shell(t, "", append([]string{"demo"}, args...)...); status != 2 {
			t.Errorf("demo %v: status %d", args, status)
		}
	}
}

// A child must not outlive a stop that hangs: the family kills it.
func TestAFamilyThatDoesNotStopIsKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := &child{node: demoNode{name: "n1"}, cmd: exec.CommandContext(ctx, "sleep", "60")}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &family{life: writer, exits: make(chan *child, 1), children: []*child{c}, grace: 10 * time.Millisecond}
	go func() { c.err = c.cmd.Wait(); f.exits <- c }()
	if err := f.stop(); err == nil || !strings.Contains(err.Error(), "n1") {
		t.Errorf("got %v", err)
	}
}
