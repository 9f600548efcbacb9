package main

import (
	"bytes"
	"io"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// sinkBytes bounds the output that waits for its writer: some 5,000 lines
	// of a log, minutes of a busy node at the default level.
	sinkBytes = 1 << 20
	// sinkFlush bounds how long the end of the process waits for the last
	// lines: a pipe that is read takes them at once, a disk within a second.
	sinkFlush = 2 * time.Second
)

// sink writes to a file, pipe or terminal from a goroutine of its own, so that
// whoever prints never waits and never fails. Output that does not fit into
// sinkBytes, or that the writer refuses, is dropped and counted. Beside the
// waiting bytes it holds at most as many that are being written.
// Safe for concurrent use.
type sink struct {
	to    io.Writer
	ended chan struct{} // closed when nothing is written any more

	mu      sync.Mutex
	change  sync.Cond
	waiting []byte
	full    uint64 // lines dropped since waiting was taken last
	closing bool
	notice  func(lines uint64, cause error) []byte

	lost atomic.Uint64
}

// newSink starts the goroutine; only flush ends it.
func newSink(to io.Writer) *sink {
	s := &sink{to: to, ended: make(chan struct{})}
	s.change.L = &s.mu
	go s.run()
	return s
}

// noteWith sets what is written once the writer works again after lines were
// dropped. cause is the writer's last error, or nil if it was only too slow.
func (s *sink) noteWith(notice func(lines uint64, cause error) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notice = notice
}

// Write never blocks on the writer and never fails. It keeps no reference to p.
func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting)+len(p) > sinkBytes {
		s.full += lines(p)
		s.lost.Add(lines(p))
		return len(p), nil
	}
	s.waiting = append(s.waiting, p...)
	s.change.Signal()
	return len(p), nil
}

// dropped counts all lines that were not written.
func (s *sink) dropped() uint64 { return s.lost.Load() }

// flush waits until all is written, at most for wait. Nothing may be written
// afterwards.
func (s *sink) flush(wait time.Duration) {
	s.mu.Lock()
	s.closing = true
	s.change.Signal()
	s.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
	}
}

func (s *sink) run() {
	defer close(s.ended)
	var batch []byte
	var untold uint64 // lines dropped before the next one that is written
	var cause error
	cut := false // the last write ended within a line
	for {
		s.mu.Lock()
		for len(s.waiting) == 0 && !s.closing {
			s.change.Wait()
		}
		if len(s.waiting) == 0 {
			s.mu.Unlock()
			return
		}
		batch, s.waiting = s.waiting, batch[:0]
		full, notice := s.full, s.notice
		s.full = 0
		s.mu.Unlock()

		if cut {
			_, _ = s.to.Write([]byte("\n")) // the next write tells whether it works
		}
		n, err := s.to.Write(batch)
		if err != nil {
			cut = n > 0 && batch[n-1] != '\n' || n == 0 && cut
			missing := lines(batch[n:])
			s.lost.Add(missing)
			untold, cause = untold+missing+full, err
			continue
		}
		// What was dropped while this batch waited comes after it.
		if cut, untold = false, untold+full; untold > 0 && notice != nil {
			if _, err := s.to.Write(notice(untold, cause)); err != nil {
				cause = err
				continue
			}
		}
		untold, cause = 0, nil
	}
}

// lines counts lines; what does not end with a newline counts as one.
func lines(p []byte) uint64 {
	n := bytes.Count(p, []byte("\n"))
	if len(p) > 0 && p[len(p)-1] != '\n' {
		n++
	}
	return uint64(n)
}

// neverWait makes printing asynchronous and takes away its power to end the
// process: a closed pipe is an error that is counted, not a SIGPIPE. For
// commands that keep nodes running; run flushes at the end. It returns the sink
// of stderr.
func (p *program) neverWait() *sink {
	signal.Ignore(syscall.SIGPIPE)
	stderr := newSink(p.stderr)
	p.sinks = append(p.sinks, stderr)
	if p.stdout == p.stderr {
		p.stdout = stderr
	} else {
		stdout := newSink(p.stdout)
		p.stdout, p.sinks = stdout, append(p.sinks, stdout)
	}
	p.stderr = stderr
	return stderr
}

// flush writes out what was printed, within sinkFlush.
func (p *program) flush() {
	var wait sync.WaitGroup
	for _, s := range p.sinks {
		wait.Go(func() { s.flush(sinkFlush) })
	}
	wait.Wait()
}
