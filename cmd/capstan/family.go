package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// family is the demo's child processes. All of them inherit the reading end of
// one pipe and stop when its only writing end closes, which it does with this
// process, however that ends.
type family struct {
	children []*child
	life     *os.File    // the writing end
	exits    chan *child // room for all of them
	gone     int         // exits received
	grace    time.Duration
}

type child struct {
	node demoNode
	cmd  *exec.Cmd
	log  string
	err  error // why it ended; set before it is sent
}

// childEnd is the descriptor of the pipe in a child: the first of ExtraFiles.
const childEnd = 3

func startFamily(s demoSettings, nodes []demoNode) (*family, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, failuref("%w", err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, failuref("%w", err)
	}
	defer reader.Close()
	f := &family{life: writer, exits: make(chan *child, len(nodes)), grace: stopTimeout}
	for _, n := range nodes {
		c, err := startChild(exe, reader, s, n, nodes)
		if err != nil {
			_ = f.stop()
			return nil, failuref("%s: %w", n.name, err)
		}
		f.children = append(f.children, c)
		go func() {
			c.err = c.cmd.Wait()
			f.exits <- c
		}()
	}
	return f, nil
}

func startChild(exe string, life *os.File, s demoSettings, n demoNode, all []demoNode) (*child, error) {
	var join []string
	for _, other := range all {
		join = append(join, local(other.gossip))
	}
	dir := filepath.Join(s.dataDir, n.name)
	args := []string{
		"serve", "--name", n.name, "--data-dir", dir,
		"--listen", local(n.api), "--listen-peer", local(n.peer), "--listen-gossip", local(n.gossip),
		"--join", strings.Join(join, ","), "--bootstrap-expect", strconv.Itoa(len(all)),
		"--cluster", "demo", "--partitions", strconv.Itoa(demoPartitions), "--replication-factor", strconv.Itoa(min(3, len(all))),
		"--enable-chaos", "--exit-with-fd", strconv.Itoa(childEnd),
	}
	if s.temporary {
		args = append(args, "--ephemeral")
	}
	log, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	c := &child{node: n, cmd: exec.Command(exe, args...), log: log.Name()}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.ExtraFiles = []*os.File{life}
	c.cmd.Env = childEnvironment(os.Environ())
	c.cmd.SysProcAttr = childAttributes()
	return c, c.cmd.Start()
}

// childEnvironment leaves out the variables that serve would read: a child is
// told all it needs.
func childEnvironment(env []string) []string {
	var s serveSettings
	flags := newFlagSet()
	s.add(flags)
	drop := map[string]bool{variable(configFlag): true}
	for _, name := range settable(flags) {
		drop[variable(name)] = true
	}
	var kept []string
	for _, e := range env {
		if name, _, _ := strings.Cut(e, "="); !drop[name] {
			kept = append(kept, e)
		}
	}
	return kept
}

// stop closes the pipe and waits for every child; one that does not end in time
// is killed.
func (f *family) stop() error {
	f.life.Close()
	timeout := time.NewTimer(f.grace)
	defer timeout.Stop()
	var late []string
	for f.gone < len(f.children) {
		select {
		case <-f.exits:
			f.gone++
		case <-timeout.C:
			for _, c := range f.children {
				if c.cmd.Process.Kill() == nil {
					late = append(late, c.node.name)
				}
			}
		}
	}
	if len(late) > 0 {
		return failuref("killed, not stopped within %s: %s", f.grace, strings.Join(late, " "))
	}
	return nil
}

func (c *child) state() string {
	if c.err != nil {
		return c.err.Error()
	}
	return "exit status 0"
}

// tail is the end of the child's log.
func (c *child) tail() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	if len(text) == 0 {
		return "  (nothing)"
	}
	return fmt.Sprintf("  %s", strings.ReplaceAll(lastLines(text, logTail), "\n", "\n  "))
}
