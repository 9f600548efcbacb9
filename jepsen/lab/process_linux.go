package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process runs, or ran, on a host. All methods may be called concurrently.
type Process struct {
	Host string

	cmd  *exec.Cmd
	done chan struct{}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended. A paused one runs.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// State says how the process ended; nil while it runs.
func (p *Process) State() *os.ProcessState {
	if p.Running() {
		return nil
	}
	return p.cmd.ProcessState
}

// Kill ends the process at once, paused or not, and waits until it is gone. No
// handler of it runs. One that has ended is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Pause stops the process without its knowing and returns when all of its threads
// stand. It is os.ErrProcessDone if the process has ended.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD): // ended, and its end was noted
			return os.ErrProcessDone
		default:
			return err
		}
	}
}

// Resume lets a paused process go on. It does nothing to one that is not paused.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Signal sends any other signal. It is os.ErrProcessDone if the process has ended.
func (p *Process) Signal(s syscall.Signal) error {
	err := p.cmd.Process.Signal(s)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s to process %d on %s: %w", s, p.PID(), p.Host, err)
	}
	return err
}

// processes are those of a lab.
type processes struct {
	mu      sync.Mutex
	running map[*Process]bool
	closed  bool
	wait    sync.WaitGroup
}

// start starts a process on a thread: in its namespace, and to be killed by the
// kernel when that thread ends.
func (ps *processes) start(on *thread, host string, cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C in the terminal is for this process only
		Pdeathsig: syscall.SIGKILL,
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return nil, ErrClosed
	}
	if err := on.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start a process on %s: %w", host, err)
	}
	p := &Process{Host: host, cmd: cmd, done: make(chan struct{})}
	if ps.running == nil {
		ps.running = map[*Process]bool{}
	}
	ps.running[p] = true
	ps.wait.Go(func() {
		_ = cmd.Wait() // State tells
		close(p.done)
		ps.mu.Lock()
		delete(ps.running, p)
		ps.mu.Unlock()
	})
	return p, nil
}

// close kills all processes and waits for them. The first call returns true.
func (ps *processes) close() bool {
	ps.mu.Lock()
	first := !ps.closed
	ps.closed = true
	for p := range ps.running {
		_ = p.cmd.Process.Kill() // it ended already
	}
	ps.mu.Unlock()
	ps.wait.Wait()
	return first
}
