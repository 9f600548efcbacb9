package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/api/client"
)

const (
	// Latencies are recorded in microseconds, with three digits, up to a
	// minute: beyond any timeout that makes sense here.
	latencyMost   = int64(time.Minute / time.Microsecond)
	latencyDigits = 3
	// loadBatch is how many keys one message writes before the measurement,
	// loadBytes how many bytes at most, loadTries how often it is sent.
	loadBatch = 256
	loadBytes = 1 << 20
	loadTries = 5
	// measurements is how many histograms (140 KB each) all clients share:
	// enough that they do not wait for each other.
	measurements = 32
)

// benchSettings are the flags of bench.
type benchSettings struct {
	clientFlags
	levelFlags
	workload           string
	clients, conns     int
	keySize, valueSize int
	keys               int
	duration, warmUp   time.Duration
	operations         int64
	rate               float64
	acks, replicas     uint32
	noLoad, keep       bool

	at string // the level, once it is checked
}

func (p *program) benchCommand() *cobra.Command {
	var s benchSettings
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "put load on a cluster and measure it",
		Long: `Measures throughput, latency, and the CPU that the nodes spend on an operation.

Without --rate each client sends its next operation when the last is answered (a
closed loop): a slow answer keeps later ones from being asked for, so that the
percentiles flatter a cluster that stalls. With --rate operations are due at
fixed moments (an open loop), and a latency counts from the moment that the
operation was due.

put writes, get reads keys that were written before, mixed is half of each. The
keys are written linearizably, whatever level is measured, and no operation
carries a session.

The keys are deleted at the end, unless --keep or --no-load is given.

The CPU of eventual writes counts until they are decided, if that takes seconds
only, and how long it took is told: promotion.`,
		Example: `  capstan bench
  capstan bench --workload put --clients 64 --conns 16
  capstan bench --ap --acks 2
  capstan bench --workload get --consistency bounded --max-staleness 1s
  capstan bench --workload get --rate 5000 --duration 30s -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("conns") {
				s.conns = max(1, min(s.conns, s.clients)) // the default is no reason to refuse few clients
			}
			level, err := s.level(cmd)
			if err != nil {
				return err
			}
			s.at = level
			if err := s.check(); err != nil {
				return err
			}
			return p.bench(cmd.Context(), s)
		},
	}
	s.clientFlags.add(p, cmd)
	s.levelFlags.add(cmd, false)
	flags := cmd.Flags()
	flags.StringVar(&s.workload, "workload", "mixed", "put, get or mixed")
	flags.IntVar(&s.clients, "clients", 64, "operations in flight at most")
	flags.IntVar(&s.conns, "conns", 4, "connections to each node, at most one a client")
	flags.IntVar(&s.keySize, "key-size", 16, "bytes of a key, 16 to 4096")
	flags.IntVar(&s.valueSize, "value-size", 256, "bytes of a value")
	flags.IntVar(&s.keys, "keys", 100000, "how many keys")
	flags.DurationVar(&s.duration, "duration", 10*time.Second, "how long to measure")
	flags.Int64Var(&s.operations, "operations", 0, "end after so many, or at the end of --duration (0: at that only)")
	flags.DurationVar(&s.warmUp, "warm-up", 2*time.Second, "how long to run before measuring")
	flags.Float64Var(&s.rate, "rate", 0, "operations a second, an open loop (0: as fast as they are answered)")
	flags.Uint32Var(&s.acks, "acks", 0, "nodes that have an eventual write on disk before the answer (0: 1)")
	flags.Uint32Var(&s.replicas, "replicas", 0, "replicas that an eventual read asks (0: 1)")
	flags.BoolVar(&s.noLoad, "no-load", false, "do not write the keys first, and do not delete them: they are there already")
	flags.BoolVar(&s.keep, "keep", false, "do not delete the keys at the end")
	return cmd
}

func (s *benchSettings) check() error {
	switch {
	case s.workload != "put" && s.workload != "get" && s.workload != "mixed":
		return usageErrorf("--workload is put, get or mixed, not %q", s.workload)
	case s.at == bounded && s.workload != "get":
		return usageErrorf("a write is linearizable or eventual, never bounded").hint("--workload get")
	case s.clients < 1 || s.clients > 100000:
		return usageErrorf("--clients %d: 1 to 100000 are possible", s.clients)
	case s.conns < 1 || s.conns > s.clients:
		return usageErrorf("--conns %d: 1 to the number of clients, %d, are possible", s.conns, s.clients).hint(fmt.Sprintf("--conns %d", min(max(1, s.conns), s.clients)))
	case s.keySize < 16 || s.keySize > 4096:
		return usageErrorf("--key-size %d: 16 to 4096 bytes are possible", s.keySize)
	case s.valueSize < 0 || s.valueSize > 3<<20:
		return usageErrorf("--value-size %d: 0 to %d bytes are possible", s.valueSize, 3<<20)
	case s.keys < 1 || s.keys > 1e9:
		return usageErrorf("--keys %d: 1 to 1000000000 are possible", s.keys)
	case s.duration <= 0 || s.warmUp < 0:
		return usageErrorf("--duration must be above 0, --warm-up not below")
	case s.operations < 0:
		return usageErrorf("--operations %d: it cannot be below 0", s.operations)
	case s.rate < 0:
		return usageErrorf("--rate %g: it cannot be below 0", s.rate)
	}
	return nil
}

// key is one of the keys of the benchmark, filled up to the size asked for.
func (s *benchSettings) key(i int) []byte {
	key := fmt.Appendf(make([]byte, 0, s.keySize), "bench:%010d", i)
	for len(key) < s.keySize {
		key = append(key, '.')
	}
	return key
}

func (s *benchSettings) value() []byte {
	value := make([]byte, s.valueSize)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	return value
}

// bench is the whole run: connect, load, warm up, measure, report.
func (p *program) bench(ctx context.Context, s benchSettings) error {
	conns := make([]*client.Client, 0, s.conns)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range s.conns {
		c, err := client.New(client.Options{Endpoints: s.endpoints, Via: s.via, Timeout: s.timeout, NoSession: true})
		if err != nil {
			return usageErrorf("%w", err)
		}
		conns = append(conns, c)
		if err := c.Refresh(ctx); err != nil {
			return err
		}
	}
	progress := newProgress(p.stderr)
	defer progress.clear()
	if s.workload != "put" && !s.noLoad {
		if err := s.eachKey(ctx, conns, progress, "writing", func(i int) client.Op { return client.PutOp(s.key(i), s.value()) }); err != nil {
			if ctx.Err() != nil {
				return interrupted(ctx)
			}
			return err
		}
	}
	if s.warmUp > 0 {
		if s.run(ctx, conns, s.warmUp, 0, progress, "warming up"); ctx.Err() != nil {
			return interrupted(ctx)
		}
	}
	meter := newMeter()
	before, figuresErr := meter.drained(ctx, conns[0])
	m := s.run(ctx, conns, s.duration, s.operations, progress, s.workload)
	var after reading
	if figuresErr == nil {
		after, figuresErr = meter.drained(context.WithoutCancel(ctx), conns[0])
	}
	progress.clear()
	r := m.report(s, before, after, figuresErr)
	if p.json {
		if err := p.printObject(r); err != nil {
			return err
		}
	} else if err := p.write([]byte(r.text())); err != nil {
		return err
	}
	if !s.noLoad && !s.keep {
		err := s.eachKey(ctx, conns, progress, "deleting", func(i int) client.Op { return client.DeleteOp(s.key(i)) })
		if progress.clear(); err != nil {
			p.note("keys that begin with bench: are left in the cluster: %v", err)
		}
	}
	if r.Operations == 0 {
		return failuref("no operation succeeded")
	}
	return nil
}

// eachKey does one operation with every key, in batches, as many at once as there are
// connections.
func (s *benchSettings) eachKey(ctx context.Context, conns []*client.Client, progress *progress, doing string, op func(int) client.Op) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	step := max(1, min(loadBatch, loadBytes/(s.keySize+s.valueSize+64)))
	var next, done atomic.Int64
	var workers sync.WaitGroup
	for _, c := range conns {
		workers.Go(func() {
			for ctx.Err() == nil {
				from := int(next.Add(int64(step))) - step
				if from >= s.keys {
					return
				}
				to := min(from+step, s.keys)
				if err := s.batch(ctx, c, from, to, op); err != nil {
					cancel(err)
					return
				}
				done.Add(int64(to - from))
			}
		})
	}
	finished := make(chan struct{})
	go func() { workers.Wait(); close(finished) }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-finished:
			return context.Cause(ctx)
		case <-tick.C:
			progress.show("%s keys: %d of %d", doing, done.Load(), s.keys)
		}
	}
}

// batch may send its operations again whatever became of the last try: the keys are the
// benchmark's own, and doing the same twice is no harm.
func (s *benchSettings) batch(ctx context.Context, c *client.Client, from, to int, op func(int) client.Op) error {
	ops := make([]client.Op, 0, to-from)
	for i := from; i < to; i++ {
		ops = append(ops, op(i))
	}
	var err error
	for range loadTries {
		var r *client.BatchResult
		if r, err = c.Batch(ctx, ops); err == nil {
			for _, result := range r.Results {
				if result.Err != nil {
					err = result.Err
				}
			}
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// measurement is what workers of one phase saw. Several share one, so that
// thousands of clients do not need as many histograms.
type measurement struct {
	mu        sync.Mutex
	took      time.Duration
	latencies *hdrhistogram.Histogram
	errors    map[string]int64
	missed    int64 // gets that found nothing
}

// interrupted is for a run that ends before anything was measured.
func interrupted(ctx context.Context) error {
	return failuref("interrupted before anything was measured: %w", context.Cause(ctx))
}

func newLatencies() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMost, latencyDigits)
}

// run is one phase: all clients at work for so long, or until they have sent so
// many operations; 0 for any number.
func (s *benchSettings) run(ctx context.Context, conns []*client.Client, d time.Duration, operations int64, progress *progress, name string) *measurement {
	phase, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	began := time.Now()
	var done, failed, left atomic.Int64
	if left.Store(operations); operations == 0 {
		left.Store(math.MaxInt64)
	}
	parts := make([]*measurement, min(s.clients, measurements))
	for i := range parts {
		parts[i] = &measurement{latencies: newLatencies(), errors: make(map[string]int64)}
	}
	var workers sync.WaitGroup
	for i := range s.clients {
		w := worker{s: s, c: conns[i%len(conns)], m: parts[i%len(parts)], done: &done, failed: &failed, left: &left, value: s.value()}
		workers.Go(func() { w.work(ctx, phase, began, i) })
	}
	finished := make(chan struct{})
	go func() { workers.Wait(); close(finished) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := int64(0)
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-tick.C:
			now := done.Load()
			progress.show("%s %s of %s  %d ops/s  %d errors", name, time.Since(began).Round(time.Second), d, now-last, failed.Load())
			last = now
		}
	}
	total := &measurement{took: time.Since(began), latencies: newLatencies(), errors: make(map[string]int64)}
	for _, m := range parts {
		total.latencies.Merge(m.latencies)
		total.missed += m.missed
		for reason, n := range m.errors {
			total.errors[reason] += n
		}
	}
	return total
}

// worker is one client: one operation in flight.
type worker struct {
	s            *benchSettings
	c            *client.Client
	m            *measurement
	done, failed *atomic.Int64
	left         *atomic.Int64 // how many operations are still to be sent
	value        []byte
}

// work sends operations until the phase ends. The last one is waited for: an
// operation that is cut off would not count, and slow ones would be missing.
func (w *worker) work(ctx, phase context.Context, began time.Time, number int) {
	for k := 0; phase.Err() == nil && w.left.Add(-1) >= 0; k++ {
		due := time.Now()
		if w.s.rate > 0 {
			// The clients share the rate: each takes every so-manieth moment.
			due = began.Add(time.Duration(float64(number+k*w.s.clients) / w.s.rate * float64(time.Second)))
			if !sleepUntil(phase, due) {
				return
			}
		}
		missed, err := w.operation(ctx)
		if ctx.Err() != nil {
			return
		}
		w.record(time.Since(due), missed, err)
	}
}

func (w *worker) record(took time.Duration, missed bool, err error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if err != nil {
		w.m.errors[reasonOf(err)]++
		w.failed.Add(1)
		return
	}
	if missed {
		w.m.missed++
	}
	_ = w.m.latencies.RecordValue(min(max(1, took.Microseconds()), latencyMost)) // in range by then
	w.done.Add(1)
}

func sleepUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (w *worker) operation(ctx context.Context) (missed bool, err error) {
	key := w.s.key(rand.IntN(w.s.keys))
	if w.s.workload == "get" || (w.s.workload == "mixed" && rand.IntN(2) == 0) {
		r, err := w.c.Get(ctx, key, w.s.readOption(w.s.at), client.Replicas(w.s.replicas))
		return err == nil && !r.Found, err
	}
	_, err = w.c.Put(ctx, key, w.value, writeOption(w.s.at), client.Acks(w.s.acks))
	return false, err
}

// reasonOf names an error for counting: the reason that the cluster gave, else
// the code.
func reasonOf(err error) string {
	var e *client.Error
	if !errors.As(err, &e) {
		return "other"
	}
	if e.Info != nil {
		return strings.ToLower(strings.TrimPrefix(e.Reason.String(), "REASON_"))
	}
	return e.Code.String()
}
