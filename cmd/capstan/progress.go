package main

import (
	"fmt"
	"io"
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
