//go:build !linux

package lab

import (
	"errors"
	"os"
	"syscall"
)

var errSystem = errors.New("labs need Linux")

// Inside is false: labs need Linux.
func Inside() bool { return false }

// Within fails: labs need Linux.
func Within(func() int) (int, error) { return 0, errors.Join(ErrForbidden, errSystem) }

// OpenNamespaces fails: labs need Linux.
func OpenNamespaces(Config) (Lab, error) { return nil, errors.Join(ErrForbidden, errSystem) }

// OpenLoopback fails: labs need Linux.
func OpenLoopback(Config) (Lab, error) { return nil, errSystem }

// Process is of no lab.
type Process struct{ Host string }

func (p *Process) Done() <-chan struct{}       { return nil }
func (p *Process) Running() bool               { return false }
func (p *Process) PID() int                    { return 0 }
func (p *Process) State() *os.ProcessState     { return nil }
func (p *Process) Kill() error                 { return errSystem }
func (p *Process) Pause() error                { return errSystem }
func (p *Process) Resume() error               { return errSystem }
func (p *Process) Signal(syscall.Signal) error { return errSystem }
