package jepsen

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// idlePause is how long a slot waits that has nothing to do.
const idlePause = 5 * time.Millisecond

// caller carries out one operation, with the token of its session, and gives the
// token of the answer.
type caller interface {
	call(ctx context.Context, o *history.Op, token string) (next string)
}

// running is a cluster's clients at work, and the record of it.
type running struct {
	caller     caller
	record     *history.Recorder
	nodes      []string
	partitions int
	opTimeout  time.Duration
	ids        *identities

	sessions  sessions
	processes atomic.Int64

	mu       sync.Mutex
	receipts []receipt
	failed   error // of the record
}

// receipt of an eventual write, whose fate is asked in the end.
type receipt struct {
	op   int
	text string
	node int // that took the write, by its place: it has to know what became of it
}

// job is a workload at work.
type job struct {
	name      string
	generator workload.Generator
	slots     int
	routed    bool    // odd slots ask no certain node
	rate      float64 // operations a second, of all slots together
	seed      uint64
}

// run has all slots of all jobs work until ctx ends, and waits for what is under
// way. It is the record's failure, if that failed.
func (r *running) run(ctx context.Context, jobs []job) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var slots sync.WaitGroup
	for _, j := range jobs {
		for slot := range j.slots {
			process := r.process()
			slots.Go(func() { r.slot(ctx, cancel, j, slot, process) })
		}
	}
	slots.Wait()
	return r.failure()
}

// slot does one operation after the other, at its share of the rate: what was
// missed while one hung is not made up for.
func (r *running) slot(ctx context.Context, stop context.CancelFunc, j job, slot, process int) {
	random := rand.New(rand.NewPCG(j.seed, uint64(slot)))
	pause := func() time.Duration {
		return time.Duration(random.ExpFloat64() * float64(j.slots) / j.rate * float64(time.Second))
	}
	next := time.Now().Add(pause())
	for sleepUntil(ctx, next) {
		o, some := j.generator.Next(slot)
		if !some {
			next = time.Now().Add(idlePause)
			continue
		}
		next = later(time.Now(), next.Add(pause()))
		o.Workload, o.Process = j.name, process
		if o.Node == "" && !(j.routed && slot%2 == 1) {
			o.Node = r.nodes[slot%len(r.nodes)]
		}
		// It ends by its own deadline, not with the run.
		if r.do(context.WithoutCancel(ctx), &o) != nil {
			stop()
			return
		}
		if o.Outcome == history.Info {
			process = r.process()
		}
		j.generator.Done(slot, o)
	}
}

func (r *running) process() int { return int(r.processes.Add(1) - 1) }

// do carries out one operation, and records it. The error is the record's.
func (r *running) do(ctx context.Context, o *history.Op) error {
	if o.Deadline == 0 {
		o.Deadline = r.opTimeout
	}
	o.Partition = placeOf(o, r.partitions)
	before := r.ids.of(o.Node)
	o.NodeID = before.id
	if err := r.record.Invoke(o); err != nil {
		return r.fail(err)
	}
	sent := r.sessions.take(o.Session)
	next := r.caller.call(ctx, o, joinTokens(sent))
	if o.Session != "" {
		r.sessions.replace(o.Session, sent, next)
	}
	if r.ids.of(o.Node) != before {
		o.NodeID = "" // it may have been either
	}
	if err := r.record.Complete(o); err != nil {
		return r.fail(err)
	}
	if o.Receipt != "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.receipts = append(r.receipts, receipt{o.ID, o.Receipt, max(0, slices.Index(r.nodes, cmp.Or(o.ServedBy, o.Node)))})
	}
	return nil
}

// write records what is no operation.
func (r *running) write(e history.Event) error {
	if err := r.record.Write(e); err != nil {
		return r.fail(err)
	}
	return nil
}

func (r *running) allReceipts() []receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.receipts)
}

func (r *running) fail(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
	}
	return err
}

func (r *running) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sleepUntil waits for a moment; false: ctx ended first.
func sleepUntil(ctx context.Context, moment time.Time) bool {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
