package jepsen

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// A context that holds up whoever asks it is a way to be late in virtual time.
func TestStallsAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var file bytes.Buffer
		r := &running{record: history.NewRecorder(&file, func() time.Duration { return time.Since(began) })}
		if err := r.write(history.Event{Type: history.TypeRun, Run: &history.Run{Format: history.Format}}); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		held := &holdUp{Context: ctx, at: 20, until: 2 * time.Second}
		if err := r.watchStalls(held); err != nil {
			t.Fatal(err)
		}
		if err := r.record.Flush(); err != nil {
			t.Fatal(err)
		}
		h, err := history.Read(&file)
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Stalls) != 1 {
			t.Fatalf("stalls %v", h.Stalls)
		}
		if s := h.Stalls[0]; s.Until-s.From < 1900*time.Millisecond || s.Until-s.From > 2100*time.Millisecond {
			t.Errorf("stall %v", s)
		}
	})
}

// holdUp is a context whose at-th question takes a while to answer.
type holdUp struct {
	context.Context
	at, asked int
	until     time.Duration
}

func (h *holdUp) Err() error {
	if h.asked++; h.asked == h.at {
		time.Sleep(h.until)
	}
	return h.Context.Err()
}
