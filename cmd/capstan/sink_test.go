package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// moodyWriter is a writer that a test holds up and breaks.
type moodyWriter struct {
	mu   sync.Mutex
	gate chan struct{} // not nil: a write waits until it is closed
	err  error
	room int // how much a failing write still takes
	text strings.Builder
}

func (w *moodyWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	gate := w.gate
	w.mu.Unlock()
	if gate != nil {
		<-gate
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return w.text.Write(p)
	}
	n := min(w.room, len(p))
	w.room -= n
	w.text.Write(p[:n])
	return n, w.err
}

// hold makes writes wait until the test calls what it returns.
func (w *moodyWriter) hold() (release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gate := make(chan struct{})
	w.gate = gate
	return func() { close(gate) }
}

func (w *moodyWriter) fail(err error, room int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.room = err, room
}

func (w *moodyWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func newNotedSink(w *moodyWriter) *sink {
	s := newSink(w)
	s.noteWith(func(lines uint64, cause error) []byte { return fmt.Appendf(nil, "[%d lost: %v]\n", lines, cause) })
	return s
}

// Whoever prints does not wait for a writer that hangs; what does not fit is
// counted, and told in its place once the writer works.
func TestSinkOfAWriterThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w moodyWriter
		s := newNotedSink(&w)
		release := w.hold()
		fmt.Fprintln(s, "first")
		synctest.Wait() // the writer has it
		line := strings.Repeat("x", 1<<10-1) + "\n"
		for range sinkBytes/len(line) + 5 {
			fmt.Fprint(s, line)
		}
		if s.dropped() != 5 {
			t.Errorf("%d dropped, want 5", s.dropped())
		}
		release()
		synctest.Wait()
		fmt.Fprintln(s, "last")
		s.flush(time.Hour)
		text := w.String()
		if got := strings.ReplaceAll(text, line, ""); got != "first\n[5 lost: <nil>]\nlast\n" {
			t.Errorf("it wrote, beside the long lines, %q", got)
		}
		if got := strings.Count(text, line); got != sinkBytes/len(line) {
			t.Errorf("it wrote %d lines", got)
		}
	})
}

// A writer that fails loses lines, one of them in the middle; the next line
// that is written begins a line of its own.
func TestSinkOfAWriterThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w moodyWriter
		s := newNotedSink(&w)
		fmt.Fprintln(s, "one")
		synctest.Wait()
		w.fail(errors.New("disk full"), 5)
		fmt.Fprint(s, "two\nthree\nfour\n") // "two\nt" is written
		synctest.Wait()
		fmt.Fprintln(s, "five")
		synctest.Wait()
		if s.dropped() != 3 {
			t.Errorf("%d dropped, want 3", s.dropped())
		}
		w.fail(nil, 0)
		fmt.Fprintln(s, "six")
		synctest.Wait()
		fmt.Fprintln(s, "seven")
		s.flush(time.Hour)
		if got := w.String(); got != "one\ntwo\nt\nsix\n[3 lost: disk full]\nseven\n" {
			t.Errorf("it wrote %q", got)
		}
	})
}

// The end of a process does not wait for a writer that hangs longer than its
// bound.
func TestSinkFlushIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w moodyWriter
		s := newNotedSink(&w)
		release := w.hold()
		fmt.Fprintln(s, "first")
		began := time.Now()
		s.flush(sinkFlush)
		if took := time.Since(began); took != sinkFlush {
			t.Errorf("it took %s", took)
		}
		release()
		<-s.ended
		if w.String() != "first\n" {
			t.Errorf("it wrote %q", w.String())
		}
	})
}

// Many goroutines may print at once.
func TestSinkConcurrent(t *testing.T) {
	var w moodyWriter
	s := newSink(&w)
	var printing sync.WaitGroup
	for range 8 {
		printing.Go(func() {
			for range 500 {
				fmt.Fprintln(s, "a line")
			}
		})
	}
	printing.Wait()
	s.flush(time.Minute)
	if got := strings.Count(w.String(), "a line\n"); got != 4000 || s.dropped() != 0 {
		t.Errorf("%d lines written, %d dropped", got, s.dropped())
	}
}
