package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
)

// progress shows how a run gets on: on a terminal as one line that is written over
// and over, elsewhere as a line now and then.
type progress struct {
	w        io.Writer
	columns  int // of the terminal; 0: it is none
	next     time.Time
	phase    string
	shown    bool
	interval time.Duration
}

const (
	terminalEvery = 200 * time.Millisecond
	plainEvery    = 5 * time.Second
)

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, interval: plainEvery}
	if columns, ok := terminal(w); ok {
		p.columns, p.interval = columns, terminalEvery
	}
	return p
}

// show is called from one goroutine.
func (p *progress) show(now jepsen.Progress) {
	p.tell(now.Phase, func() string { return progressLine(now) })
}

// tell shows a line if it is time for one, or another phase than before.
func (p *progress) tell(phase string, show func() string) {
	if p.phase == phase && time.Now().Before(p.next) {
		return
	}
	p.phase, p.next = phase, time.Now().Add(p.interval)
	line := show()
	if p.columns == 0 {
		fmt.Fprintln(p.w, line)
		return
	}
	p.shown = true
	fmt.Fprint(p.w, "\r\x1b[K"+fit(line, p.columns-1))
}

// clear takes the line away.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func progressLine(now jepsen.Progress) string {
	var b strings.Builder
	if c := now.Counts; c.OK+c.Fail+c.Info+c.Open > 0 {
		fmt.Fprintf(&b, "%4s of %s  %s  ok %d  fail %d  info %d", now.Elapsed.Round(time.Second), now.Limit, now.Phase, c.OK, c.Fail, c.Info)
	} else {
		b.WriteString(now.Phase)
	}
	if len(now.Faults) > 0 {
		b.WriteString("  | " + strings.Join(now.Faults, "; "))
	}
	return b.String()
}

// fit cuts what a line of a terminal does not take: it would wrap, and stay.
func fit(line string, columns int) string {
	runes := []rune(line)
	if len(runes) <= max(columns, 1) {
		return line
	}
	return string(runes[:max(columns-1, 0)]) + "…"
}
