package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// TestTentativeConcurrentAppendsSurvive cuts the power while many callers
// append, also the same writes at a time, while others settle, erase and
// forget, and Raft logs are appended to: what was acknowledged is there after
// it, or was decided.
func TestTentativeConcurrentAppendsSurvive(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	const callers, cuts = 8, 6
	logs := []*TentativeLog{mustTentative(t, l, testPartition), mustTentative(t, l, testPartition+1)}
	value := strings.Repeat("v", 300)
	write := func(caller int, n uint64) TentativeWrite {
		return remote(fmt.Sprintf("n%d", caller/2), n, n, hlc.Timestamp(n), fmt.Sprint("k", n%50), value)
	}
	var acknowledged, decided [callers]atomic.Uint64
	var stop atomic.Bool
	var running sync.WaitGroup
	progress := make(chan struct{}, 1)
	for c := range callers {
		running.Go(func() {
			tl := logs[c%2]
			for n := uint64(1); !stop.Load(); n++ {
				batch := []TentativeWrite{write(c, n)}
				if n > 3 { // again what may be held, in flight or decided
					batch = append(batch, write(c, n-1))
				}
				if err := tl.Append(batch); err != nil {
					t.Error(err)
					break
				}
				acknowledged[c].Store(n)
				if n%4 == 0 { // those up to n-10 are decided, here as a replica's, there as a hint's
					var old []Dot
					for o := n - min(n, 13); o+10 < n; o++ {
						old = append(old, write(c, o+1).Dot)
					}
					decided[c].Store(n - min(n, 10))
					if c%2 == 0 {
						tl.Settle(old, n)
						if err := tl.EraseSettled(n - 2); err != nil {
							t.Error(err)
						}
					} else if err := tl.Forget(old, n); err != nil {
						t.Error(err)
					}
				}
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	var told [2]atomic.Uint64 // what Saved said
	running.Go(func() {
		for !stop.Load() {
			for _, tl := range logs {
				tl.Hear(tl.Heard() + 1)
			}
			if err := l.SaveHeard(false); err != nil {
				t.Error(err)
				return
			}
			for i, tl := range logs {
				index, _ := tl.Saved()
				told[i].Store(index)
			}
		}
	})
	raft := mustReplica(t, l, testReplica)
	var appended atomic.Uint64
	running.Go(func() {
		for i := uint64(1); !stop.Load(); i++ {
			if err := raft.Append(logEntries(i, i, 1)); err != nil {
				t.Error(err)
				return
			}
			appended.Store(i)
		}
	})
	for cut := range cuts {
		for range 25 {
			<-progress
		}
		var want, gone [callers]uint64
		index, saved := appended.Load(), [2]uint64{told[0].Load(), told[1].Load()}
		for c := range want {
			want[c] = acknowledged[c].Load()
		}
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(cut), 4))})
		for c := range gone {
			gone[c] = decided[c].Load() // read later: those that may be gone
		}
		crashed := openTestLog(t, after)
		if got := mustReplica(t, crashed, testReplica).LastIndex(); got < index {
			t.Errorf("raft entry %d acknowledged, %d after the cut", index, got)
		}
		for c := range callers {
			tl := mustTentative(t, crashed, testPartition+partition.ID(c%2))
			for n := gone[c] + 1; n <= want[c]; n++ {
				if got, err := tl.Read(write(c, n).Dot); err != nil || !sameWrite(got, write(c, n)) {
					t.Errorf("caller %d, write %d of %d: %v", c, n, want[c], err)
				}
			}
			if tl.Heard() < want[c] {
				t.Errorf("heard %d, acknowledged a write of base %d", tl.Heard(), want[c])
			}
		}
		for p := range partition.ID(2) {
			tl := mustTentative(t, crashed, testPartition+p)
			checkIndexEqualsDisk(t, tl)
			if tl.Heard() < saved[p] {
				t.Errorf("heard %d, said that %d is saved", tl.Heard(), saved[p])
			}
		}
		mustDo(t, crashed.Close())
	}
	stop.Store(true)
	running.Wait()
	for _, tl := range logs {
		checkIndexEqualsDisk(t, tl)
	}
	mustDo(t, l.Close())
}

// TestTentativeSameWriteAtATime: a write that comes from two sides is stored
// once, and neither is answered before it is durable.
func TestTentativeSameWriteAtATime(t *testing.T) {
	hang, hangs := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	mem := vfs.NewCrashableMem()
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) && armed.CompareAndSwap(true, false) {
			close(hangs)
			<-hang
		}
		return nil
	}))
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	w, late := remote("n2-bbbb", 1, 5, 10, "k", "v"), remote("n2-bbbb", 2, 5, 11, "k", "v")
	armed.Store(true)
	answers := make(chan error, 3)
	go func() { answers <- tl.Append([]TentativeWrite{w}) }()
	<-hangs
	go func() { answers <- tl.Append([]TentativeWrite{w}) }()
	go func() { answers <- tl.Append([]TentativeWrite{w, late}) }()
	for queued := 0; queued < 2; {
		tl.mu.RLock()
		queued = len(tl.queue)
		tl.mu.RUnlock()
	}
	if len(answers) != 0 || tl.Holds(w.Dot) || tl.Candidates(w.Key) != nil {
		t.Error("answered or readable before it was durable")
	}
	// But it may be on the disk, and who asks whether anybody holds it has to know.
	if got := tl.Held(func(d Dot) bool { return d.Node == w.Dot.Node }); len(got) != 2 {
		t.Errorf("%v are held or on their way", got)
	}
	other := w
	other.Base++
	if err := tl.Append([]TentativeWrite{other}); !errors.Is(err, ErrTentativeDot) {
		t.Errorf("another write with the dot of one in flight: %v", err)
	}
	if got, want := l.TentativeUse().DiskBytes, w.cost().disk+late.cost().disk; got != want {
		t.Errorf("%d bytes reserved, want %d", got, want)
	}
	tl.Settle(dotsIn(late), 8) // decided before it is stored: another holder was faster
	close(hang)
	for range 3 {
		mustDo(t, <-answers)
	}
	checkHeld(t, tl, w)
	if got := tl.Backlog(); got.Settled != 1 {
		t.Errorf("%+v", got)
	}
	mustDo(t, l.Close())
}

// TestTentativeFailureReachesAllWhoWait makes the disk fail under many callers.
func TestTentativeFailureReachesAllWhoWait(t *testing.T) {
	var broken atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			return errorfs.ErrInjected
		}
		return nil
	}))
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	var running, begun sync.WaitGroup
	const callers = 16
	begun.Add(callers)
	for c := range callers {
		running.Go(func() {
			for n := uint64(1); ; n++ {
				// Large, so that memtables and WAL files change while the disk breaks.
				w := remote(fmt.Sprint("n", c), n, 1, 1, "k", strings.Repeat("v", 8<<10))
				err := tl.Append([]TentativeWrite{w})
				if n == 3 {
					begun.Done()
				}
				if err == nil {
					continue
				}
				if !errors.Is(err, ErrLogFailed) {
					t.Error(err)
				}
				if tl.Holds(w.Dot) {
					t.Error("a write whose storing failed is readable")
				}
				if err := tl.Forget(dotsIn(remote(fmt.Sprint("n", c), 1, 1, 1, "k", "")), 9); !errors.Is(err, ErrLogFailed) {
					t.Error(err)
				}
				return
			}
		})
	}
	begun.Wait()
	broken.Store(true)
	running.Wait()
	if err := l.Close(); !errors.Is(err, ErrLogFailed) {
		t.Errorf("close: %v", err)
	}
}

// TestTentativeReadersMissNothing holds readers to the order that TentativeLog
// asks for: this log first, the applied state second. Neither sees a write
// vanish between the two.
func TestTentativeReadersMissNothing(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	tl := mustTentative(t, l, testPartition)
	var applied, accepted atomic.Uint64 // the state: the highest timestamp promoted
	var running sync.WaitGroup
	const writes = 300
	running.Go(func() {
		for n := uint64(1); n <= writes; n++ {
			w := remote("n2-bbbb", n, n, hlc.Timestamp(n), "k", fmt.Sprint(n))
			if err := tl.Append([]TentativeWrite{w}); err != nil {
				t.Error(err)
			}
			accepted.Store(n)
			if n%3 == 0 {
				applied.Store(n)
				var dots []Dot
				for o := n - 2; o <= n; o++ {
					dots = append(dots, Dot{"n2-bbbb", 7, o})
				}
				tl.Settle(dots, n)
			}
		}
	})
	for range 3 {
		running.Go(func() {
			for seen := uint64(0); seen < writes; {
				least := accepted.Load()
				found := uint64(0)
				if c := tl.Candidates([]byte("k")); len(c) > 0 {
					found = uint64(c[0].Timestamp)
				}
				found = max(found, applied.Load())
				if found < max(seen, least) {
					t.Errorf("read %d after %d was seen and %d acknowledged", found, seen, least)
					return
				}
				seen = found
				runtime.Gosched() // the writer is to get its turn, too
			}
		})
	}
	running.Wait()
	mustDo(t, l.Close())
}

// BenchmarkTentativeAppend appends writes of 300 bytes, alone and beside 16
// Raft logs of the same database, which share its fsyncs.
func BenchmarkTentativeAppend(b *testing.B) {
	for _, replicas := range []int{0, 16} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("callers=%d/replicas=%d", callers, replicas), func(b *testing.B) {
				l, err := OpenLog(LogOptions{Dir: b.TempDir() + "/log", NodeID: "n1-aaaa"})
				mustDo(b, err)
				l.LimitTentative(TentativeLimits{DiskBytes: 1 << 40, MemoryBytes: 1 << 40})
				tl := mustTentative(b, l, testPartition)
				data := make([]byte, 300)
				var next, entries atomic.Int64
				var stop atomic.Bool
				var running, beside sync.WaitGroup
				for g := range replicas {
					rl := mustReplica(b, l, Replica{GroupID(g), 1})
					beside.Go(func() {
						for i := uint64(1); !stop.Load(); i++ {
							if err := rl.Append([]LogEntry{{Index: i, Term: 1, Data: data}}); err != nil {
								b.Error(err)
								return
							}
							entries.Add(1)
						}
					})
				}
				b.ResetTimer()
				entries.Store(0)
				for c := range callers {
					running.Go(func() {
						for next.Add(1) <= int64(b.N) {
							d := tl.NextDot(0)
							w := TentativeWrite{Tentative: Tentative{
								Dot: d.Dot, Base: d.Base, Timestamp: hlc.Timestamp(d.Dot.Sequence),
								Key: fmt.Appendf(nil, "key-%d-%d", c, d.Dot.Sequence%1000), Bytes: data,
							}}
							if err := tl.Append([]TentativeWrite{w}); err != nil {
								b.Error(err)
								return
							}
							d.Done()
						}
					})
				}
				running.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
				b.ReportMetric(float64(entries.Load())/b.Elapsed().Seconds(), "raftappends/s")
				stop.Store(true)
				beside.Wait()
				mustDo(b, l.Close())
			})
		}
	}
}

// BenchmarkTentativeIndex measures the index alone: time and memory a write.
func BenchmarkTentativeIndex(b *testing.B) {
	for _, keys := range []uint64{1, 1 << 62} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			b.ReportAllocs()
			x := newTentativeIndex()
			for n := range uint64(b.N) {
				x.insert(tentativeVersion{dot: Dot{"n2-bbbb", 7, n + 1}, base: n, timestamp: hlc.Timestamp(n)}, fmt.Appendf(nil, "key-%019d", n*7919%keys))
			}
			b.StopTimer()
			if x.count != b.N {
				b.Fatal(x.count)
			}
		})
	}
}
