package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// progressAfter: what is done sooner needs no progress.
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// progress is one line that is written over and over, on a terminal only.
type progress struct {
	w     io.Writer // nil: off
	next  time.Time
	shown bool
}

func newProgress(w io.Writer) *progress {
	if !terminal(w) {
		return &progress{}
	}
	return &progress{w: w, next: time.Now().Add(progressAfter)}
}

func (p *progress) show(format string, args ...any) {
	if p.w == nil || time.Now().Before(p.next) {
		return
	}
	p.next, p.shown = time.Now().Add(progressEvery), true
	fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// waiting shows that a call is under way, until it is stopped.
type waiting struct {
	stopOnce sync.Once
	end      chan struct{}
	ended    chan struct{}
}

// startWaiting begins to show it, if there is a terminal to show it on.
func startWaiting(w io.Writer) *waiting {
	line := newProgress(w)
	if line.w == nil {
		return nil
	}
	s := &waiting{end: make(chan struct{}), ended: make(chan struct{})}
	began := time.Now()
	go func() {
		defer close(s.ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-s.end:
				line.clear()
				return
			case <-tick.C:
				line.show("waiting for an answer, %s", time.Since(began).Round(time.Second))
			}
		}
	}()
	return s
}

// stop clears the line and waits until nothing more is written. It may be
// called again, and on nil.
func (s *waiting) stop() {
	if s == nil {
		return
	}
	s.stopOnce.Do(func() {
		close(s.end)
		<-s.ended
	})
}
