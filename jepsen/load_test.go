package jepsen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// answers is a cluster that answers as a function says.
type answers func(ctx context.Context, o *history.Op, token string) (next string)

func (a answers) call(ctx context.Context, o *history.Op, token string) string {
	return a(ctx, o, token)
}

// same is a generator of one operation, again and again.
type same struct {
	op     history.Op
	idle   bool
	finals []history.Op

	mu   sync.Mutex
	done []history.Op
}

func (s *same) Next(int) (history.Op, bool) { return s.op, !s.idle }
func (s *same) Final() []history.Op         { return s.finals }
func (s *same) Done(_ int, o history.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, o)
}

// newRunning is for a bubble: its clock begins now.
func newRunning(to *bytes.Buffer, a answers) *running {
	began := time.Now()
	r := &running{
		caller: a, record: history.NewRecorder(to, func() time.Duration { return time.Since(began) }),
		nodes: []string{"n1", "n2"}, partitions: 4, opTimeout: time.Second, ids: &identities{},
	}
	r.ids.learn("n1", 0, "n1-a")
	r.ids.learn("n2", 0, "n2-a")
	_ = r.write(history.Event{Type: history.TypeRun, Run: &history.Run{Format: history.Format, Nodes: r.nodes, Partitions: 4}})
	return r
}

// read takes the record back.
func read(t *testing.T, r *running, from *bytes.Buffer) *history.History {
	t.Helper()
	if err := errors.Join(r.record.Flush(), r.failure()); err != nil {
		t.Fatal(err)
	}
	h, err := history.Read(from)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Slots keep to the rate, do one operation after the other, and end with what is
// under way.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		r := newRunning(&file, func(ctx context.Context, o *history.Op, _ string) string {
			time.Sleep(100 * time.Millisecond)
			o.Outcome = history.OK
			if ctx.Err() != nil {
				t.Error("an operation ends with the run")
			}
			return ""
		})
		g := &same{op: history.Op{Func: history.Get, Level: history.Linearizable, Key: "cart:42"}}
		idle := &same{idle: true}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		if err := r.run(ctx, []job{{name: "a", generator: g, slots: 3, rate: 9, seed: 1}, {name: "b", generator: idle, slots: 1, rate: 1}}); err != nil {
			t.Fatal(err)
		}
		h := read(t, r, &file)
		if got := len(h.Ops); got != len(g.done) || got < 600 || got > 1000 {
			t.Errorf("%d operations in 100 s at 9 a second, and 0.1 s each, %d told", got, len(g.done))
		}
		last := map[int]history.Op{}
		for _, o := range h.Ops {
			before, some := last[o.Process]
			if some && before.Return > o.Invoke {
				t.Fatalf("process %d does two at once", o.Process)
			}
			last[o.Process] = o
			if o.Workload != "a" || o.Deadline != time.Second || o.Partition != 3 || o.Outcome != history.OK || o.NodeID != o.Node+"-a" {
				t.Fatalf("%+v", o)
			}
		}
		if len(last) != 3 || last[0].Node != "n1" || last[1].Node != "n2" || last[2].Node != "n1" {
			t.Errorf("processes %v", last)
		}
	})
}

// After an operation whose outcome nobody knows, its slot goes on as another
// process.
func TestInfoEndsAProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		r := newRunning(&file, func(_ context.Context, o *history.Op, _ string) string {
			o.Outcome, o.Receipt = history.Info, "wr_"
			return ""
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = r.run(ctx, []job{{name: "a", generator: &same{op: history.Op{Func: history.Put, Level: history.Eventual, Key: "k", Value: "1"}}, slots: 1, rate: 10}})
		h := read(t, r, &file)
		if len(h.Ops) < 10 || len(r.allReceipts()) != len(h.Ops) {
			t.Errorf("%d operations, %d receipts", len(h.Ops), len(r.allReceipts()))
		}
		for i, o := range h.Ops {
			if o.Process != i {
				t.Errorf("operation %d is of process %d", i, o.Process)
			}
		}
	})
}

// An operation that was under way as a disk was emptied may have been answered by
// either node.
func TestNodeIDIsCertainOrEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		wipe := false
		var r *running
		r = newRunning(&file, func(_ context.Context, o *history.Op, _ string) string {
			o.Outcome = history.OK
			if wipe {
				r.ids.wiped("n1")
				r.ids.learn("n1", 1, "n1-b")
			}
			return ""
		})
		for _, now := range []bool{false, true, false} {
			wipe = now
			if err := r.do(t.Context(), &history.Op{Node: "n1", Func: history.Get, Key: "k"}); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, o := range read(t, r, &file).Ops {
			got = append(got, o.NodeID)
		}
		if fmt.Sprint(got) != "[n1-a  n1-b]" {
			t.Errorf("ids %q", got)
		}
	})
}

// A session's operation sends what those before it have been given, also where two
// were under way at once, or one was never answered.
func TestSessionTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		var mu sync.Mutex
		var sent []string
		r := newRunning(&file, func(_ context.Context, o *history.Op, token string) string {
			mu.Lock()
			sent = append(sent, o.Key+":"+token)
			mu.Unlock()
			o.Outcome = history.OK
			if o.Key == "lost" {
				o.Outcome = history.Info
				return ""
			}
			if o.Key == "slow" {
				time.Sleep(time.Second)
			}
			return "after-" + o.Key
		})
		ask := func(session, key string) {
			_ = r.do(t.Context(), &history.Op{Session: session, Node: "n1", Func: history.Get, Key: key})
		}
		ask("s", "1")
		var both sync.WaitGroup
		both.Go(func() { ask("s", "slow") })
		synctest.Wait()
		both.Go(func() { ask("s", "fast") })
		both.Wait()
		ask("s", "lost")
		ask("s", "2")
		ask("s", "3")
		ask("other", "4")
		ask("", "5")
		ask("", "6")
		want := []string{"1:", "slow:after-1", "fast:after-1", "lost:after-fast.after-slow", "2:after-fast.after-slow", "3:after-2", "4:", "5:", "6:"}
		if fmt.Sprint(sent) != fmt.Sprint(want) {
			t.Errorf("sent %q, want %q", sent, want)
		}
	})
}

// A record that cannot be written ends the run.
func TestBrokenRecordEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunning(&bytes.Buffer{}, func(_ context.Context, o *history.Op, _ string) string { o.Outcome = history.OK; return "" })
		full := errors.New("no space")
		r.record = history.NewRecorder(broken{full}, func() time.Duration { return 0 })
		began := time.Now()
		err := r.run(t.Context(), []job{{name: "a", generator: &same{op: history.Op{Func: history.Get}}, slots: 4, rate: 1000}})
		if !errors.Is(err, full) || time.Since(began) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

// Of a workload that is routed, every other slot leaves it to its client whom to ask.
func TestRoutedSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		r := newRunning(&file, answerOK)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = r.run(ctx, []job{{name: "a", generator: &same{op: history.Op{Func: history.Get, Key: "k"}}, slots: 4, routed: true, rate: 10}})
		nodes := map[int]string{}
		for _, o := range read(t, r, &file).Ops {
			nodes[o.Process] = o.Node + " " + o.NodeID
		}
		if got := fmt.Sprint(nodes); got != "map[0:n1 n1-a 1:  2:n1 n1-a 3: ]" {
			t.Errorf("processes ask %q", got)
		}
	})
}
