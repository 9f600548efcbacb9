package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Errors of what does not fit a node's state.
var (
	ErrRunning    = errors.New("the node runs")
	ErrNotRunning = errors.New("the node does not run")
)

// State is what a node's process does.
type State string

// The states of a node.
const (
	Down    State = "down"
	Running State = "running"
	Paused  State = "paused"
)

// Node is one node: one process after another on one data directory. All methods
// may be called concurrently; changes wait for each other.
type Node struct {
	lab.Host
	LogFile string // what all of its processes said
	DataDir string

	lab    lab.Lab
	binary string
	args   []string
	env    []string
	bends  *bends // nil: nothing can be bent

	mu      sync.Mutex
	process *lab.Process // the latest; nil before the first start
	starts  int
	asked   bool // to end
	mayEnd  bool // by itself
	paused  bool
	alone   []string // how processes ended that nobody had asked to
}

// URL is that of the client API.
func (n *Node) URL() string { return "http://" + at(n.Host, APIPort) }

// State is what the node's process does.
func (n *Node) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state()
}

func (n *Node) state() State {
	switch {
	case n.process == nil || !n.process.Running():
		return Down
	case n.paused:
		return Paused
	default:
		return Running
	}
}

// Start starts the node, on the data that it has. It does not wait until it is
// ready. It is ErrRunning if it runs.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state() != Down {
		return n.failed("start", ErrRunning)
	}
	n.noteEnd()
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return n.failed("start", err)
	}
	defer log.Close() // the process has its own
	if n.bends != nil && n.process != nil {
		if err := n.bends.ended(n.process.PID()); err != nil {
			return n.failed("start", err)
		}
	}
	n.starts++
	fmt.Fprintf(log, "# start %d, %s: %s %s\n", n.starts, time.Now().UTC().Format(time.RFC3339Nano), n.binary, strings.Join(n.args, " "))
	cmd := exec.Command(n.binary, n.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(environment(os.Environ()), n.env...)
	process, err := n.lab.Start(n.Name, cmd)
	if err != nil {
		return n.failed("start", err)
	}
	n.process, n.asked, n.paused = process, false, false
	return nil
}

// environment is without the variables that capstan serve would read.
func environment(all []string) []string {
	var kept []string
	for _, e := range all {
		if !strings.HasPrefix(e, "CAPSTAN_") {
			kept = append(kept, e)
		}
	}
	return kept
}

// noteEnd notes the end of a process that nobody asked to end.
func (n *Node) noteEnd() {
	if n.process == nil || n.process.Running() || n.asked {
		return
	}
	n.asked = true // noted once
	if n.mayEnd {
		return
	}
	n.alone = append(n.alone, fmt.Sprintf("process %d of %s ended by itself: %s", n.starts, n.Name, n.process.State()))
}

// Kill ends the process at once, paused or not: no handler runs. It does nothing
// to a node that is down.
func (n *Node) Kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kill()
}

func (n *Node) kill() error {
	n.noteEnd()
	if n.state() == Down {
		return nil
	}
	n.asked = true
	if err := n.process.Kill(); err != nil {
		return n.failed("kill", err)
	}
	return nil
}

// Stop has the node end in order. If it has not ended with ctx it is killed, which
// is an error. A node that is paused goes on to end.
func (n *Node) Stop(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noteEnd()
	if n.state() == Down {
		return nil
	}
	n.asked = true
	if err := errors.Join(n.process.Signal(syscall.SIGTERM), n.process.Resume()); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return n.failed("stop", err)
	}
	select {
	case <-n.process.Done():
		if status := n.process.State(); !status.Success() {
			return n.failed("stop", errors.New(status.String()))
		}
		return nil
	case <-ctx.Done():
		return errors.Join(n.failed("stop", ctx.Err()), n.kill())
	}
}

// Pause stops the process where it stands, and returns when it does. It is
// ErrNotRunning if the node is down. Pausing a paused node does nothing.
func (n *Node) Pause() error { return n.halt("pause", (*lab.Process).Pause, true) }

// Resume lets a paused node go on. It is ErrNotRunning if the node is down.
func (n *Node) Resume() error { return n.halt("resume", (*lab.Process).Resume, false) }

func (n *Node) halt(what string, do func(*lab.Process) error, paused bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state() == Down {
		return n.failed(what, ErrNotRunning)
	}
	if err := do(n.process); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			err = ErrNotRunning
		}
		return n.failed(what, err)
	}
	n.paused = paused
	return nil
}

// Wipe empties the node's disk: started again, it is a new node. It is ErrRunning
// if the node runs.
func (n *Node) Wipe() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state() != Down {
		return n.failed("wipe", ErrRunning)
	}
	if err := os.RemoveAll(n.DataDir); err != nil {
		return n.failed("wipe", err)
	}
	return nil
}

func (n *Node) failed(what string, err error) error {
	return fmt.Errorf("%s %s: %w", what, n.Name, err)
}
