package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"
)

// logTestMemTable keeps tests small, and rotates memtables and WALs often.
const logTestMemTable = 256 << 10

func openTestLog(t testing.TB, fs vfs.FS) *Log {
	t.Helper()
	l, err := OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa", Marks: openTestMarks(t, fs), MemTableBytes: logTestMemTable, DiskSlowAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustReplica(t testing.TB, l *Log, r Replica) *ReplicaLog {
	t.Helper()
	rl, err := l.Replica(r)
	if err != nil {
		t.Fatal(err)
	}
	return rl
}

func logEntries(from, to, term uint64) []LogEntry {
	var es []LogEntry
	for i := from; i <= to; i++ {
		es = append(es, LogEntry{Index: i, Term: term, Data: fmt.Appendf(nil, "%d@%d", i, term)})
	}
	return es
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func checkBounds(t testing.TB, rl *ReplicaLog, first, last uint64) {
	t.Helper()
	if f, l := rl.Bounds(); f != first || l != last {
		t.Fatalf("log is %d to %d, want %d to %d", f, l, first, last)
	}
}

var testReplica = Replica{Group: 3, Generation: 1}

// TestLogAgainstModel runs random operations on a log and on a slice of
// entries, with crashes and reopenings in between: they agree always.
func TestLogAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewCrashableMem()
		l := openTestLog(t, fs)
		defer func() { _ = l.Close() }()
		rl := mustReplica(t, l, testReplica)
		neighbours := []*ReplicaLog{mustReplica(t, l, Replica{3, 0}), mustReplica(t, l, Replica{3, 2})}
		for _, n := range neighbours {
			mustDo(t, n.Append(logEntries(1, 3, 1)))
		}
		var model []LogEntry
		prefixCut := false // a prefix that was cut may come back by a crash
		for step := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			term := uint64(step + 1)
			switch rapid.IntRange(0, 4).Draw(rt, "op") {
			case 0, 1: // append: next, overlapping or behind a gap
				from := uint64(1)
				if len(model) > 0 {
					from = uint64(rapid.IntRange(int(model[0].Index), int(model[len(model)-1].Index)+4).Draw(rt, "from"))
				}
				add := logEntries(from, from+uint64(rapid.IntRange(0, 5).Draw(rt, "more")), term)
				mustDo(t, rl.Append(add))
				if len(model) > 0 && from > model[len(model)-1].Index+1 {
					model = nil
				}
				if len(model) > 0 {
					model = model[:from-model[0].Index]
				}
				model, prefixCut = append(slices.Clone(model), add...), false
			case 2: // cut a prefix
				if len(model) > 0 {
					n := rapid.IntRange(1, len(model)).Draw(rt, "prefix")
					mustDo(t, rl.DropPrefix(model[n-1].Index))
					model, prefixCut = model[n:], true
				}
			case 3: // begin anew, or empty the log
				from := uint64(rapid.IntRange(1, 20).Draw(rt, "from"))
				add := logEntries(from, from+uint64(rapid.IntRange(0, 3).Draw(rt, "more")), term)
				if rapid.Bool().Draw(rt, "none") {
					add = nil
				}
				mustDo(t, rl.Replace(add))
				model, prefixCut = add, false
			case 4: // lose power
				if prefixCut {
					mustDo(t, rl.Set(LogValue{Name: "barrier", Value: []byte("x")}))
					prefixCut = false
				}
				crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(step), 1))})
				mustDo(t, l.Close())
				fs, l = crashed, openTestLog(t, crashed)
				rl = mustReplica(t, l, testReplica)
				neighbours = []*ReplicaLog{mustReplica(t, l, Replica{3, 0}), mustReplica(t, l, Replica{3, 2})}
			}
			if len(model) == 0 {
				checkBounds(t, rl, 0, 0)
			} else {
				checkBounds(t, rl, model[0].Index, model[len(model)-1].Index)
			}
			for _, want := range model {
				got, err := rl.Entry(want.Index)
				if err != nil || got.Term != want.Term || !bytes.Equal(got.Data, want.Data) {
					t.Fatalf("entry %d: %+v, %v; want %+v", want.Index, got, err, want)
				}
			}
			for _, n := range neighbours {
				checkBounds(t, n, 1, 3)
			}
		}
	})
}

func TestLogRefusals(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	rl := mustReplica(t, l, testReplica)
	mustDo(t, rl.Append(logEntries(5, 9, 1)))
	hole := logEntries(10, 11, 1)
	hole[1].Index = 12
	for name, err := range map[string]error{
		"entries with a hole":   rl.Append(hole),
		"entry below the first": rl.Append(logEntries(3, 6, 2)),
		"entry 0":               rl.Append(logEntries(0, 1, 1)),
		"replaced with a hole":  rl.Replace(hole),
	} {
		if !errors.Is(err, ErrLogOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	checkBounds(t, rl, 5, 9)
	mustDo(t, rl.DropPrefix(4))
	mustDo(t, rl.DropPrefix(0))
	mustDo(t, rl.Append(nil))
	checkBounds(t, rl, 5, 9)
	for _, i := range []uint64{0, 4, 10} {
		if _, err := rl.Entry(i); !errors.Is(err, ErrLogNotFound) {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	if _, err := rl.Get("nothing"); !errors.Is(err, ErrLogNotFound) {
		t.Error(err)
	}
	if err := rl.Set(LogValue{}); err == nil {
		t.Error("a value without a name was taken")
	}
}

func TestLogEntryRoundTripBig(t *testing.T) {
	fs := vfs.NewMem()
	l := openTestLog(t, fs)
	rl := mustReplica(t, l, testReplica)
	want := LogEntry{Index: 1, Term: 7, Type: 5, AppendedAt: -3, Data: bytes.Repeat([]byte("v"), 4<<20), Extensions: []byte("ext")}
	mustDo(t, rl.Append([]LogEntry{want, {Index: 2, Term: 7}}))
	mustDo(t, l.Close())
	l = openTestLog(t, fs)
	defer func() { mustDo(t, l.Close()) }()
	rl = mustReplica(t, l, testReplica)
	got, err := rl.Entry(1)
	mustDo(t, err)
	if got.Term != want.Term || got.Type != want.Type || got.AppendedAt != want.AppendedAt || !bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) {
		t.Fatal("the big entry came back changed")
	}
	if got, err = rl.Entry(2); err != nil || got.Data != nil || got.Extensions != nil {
		t.Fatalf("the empty entry came back as %+v, %v", got, err)
	}
}

func TestLogDestroyedForEver(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	next := Replica{testReplica.Group, testReplica.Generation + 1}
	rl := mustReplica(t, l, testReplica)
	mustDo(t, rl.Append(logEntries(1, 3, 1)))
	mustDo(t, mustReplica(t, l, next).Append(logEntries(1, 2, 1)))
	mustDo(t, l.Destroy(testReplica))
	mustDo(t, l.Destroy(testReplica))
	for name, err := range map[string]error{
		"append":  rl.Append(logEntries(4, 4, 1)),
		"set":     rl.Set(LogValue{"a", nil}),
		"drop":    rl.DropPrefix(1),
		"replace": rl.Replace(nil),
	} {
		if !errors.Is(err, ErrLogDestroyed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	mustDo(t, l.Close())
	l = openTestLog(t, crashed)
	defer func() { mustDo(t, l.Close()) }()
	if _, err := l.Replica(testReplica); !errors.Is(err, ErrLogDestroyed) {
		t.Fatalf("opened again: %v", err)
	}
	got, err := l.Replicas()
	if err != nil || !slices.Equal(got, []Replica{next}) {
		t.Fatalf("replicas %v, %v", got, err)
	}
}

func TestLogIdentity(t *testing.T) {
	open := func(fs vfs.FS, node string, mustExist bool) error {
		l, err := OpenLog(LogOptions{FS: fs, Dir: "a/log", NodeID: "n1-" + "aaaa", MustExist: mustExist})
		if node != "" {
			if err == nil {
				mustDo(t, l.Close())
			}
			l, err = OpenLog(LogOptions{FS: fs, Dir: "a/log", NodeID: "other"})
		}
		if err == nil {
			mustDo(t, l.Close())
		}
		return err
	}
	fs := vfs.NewMem()
	if err := open(fs, "", true); !errors.Is(err, ErrLogMissing) {
		t.Fatalf("no database: %v", err)
	}
	mustDo(t, open(fs, "", false))
	mustDo(t, open(fs, "", true))
	if err := open(fs, "other", false); !errors.Is(err, ErrLogOtherNode) {
		t.Fatalf("another node's: %v", err)
	}
	l := openTestLog(t, fs)
	defer func() { mustDo(t, l.Close()) }()
	if _, err := OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa"}); !errors.Is(err, ErrLogInUse) {
		t.Fatalf("opened twice: %v", err)
	}
}

func TestLogInUseOnDisk(t *testing.T) {
	o := LogOptions{Dir: t.TempDir() + "/log", NodeID: "n1-aaaa", MemTableBytes: logTestMemTable}
	l, err := OpenLog(o)
	mustDo(t, err)
	if _, err := OpenLog(o); !errors.Is(err, ErrLogInUse) {
		t.Errorf("opened twice: %v", err)
	}
	mustDo(t, l.Close())
	if err := mustReplicaError(l); !errors.Is(err, ErrLogClosed) {
		t.Errorf("after close: %v", err)
	}
}

func mustReplicaError(l *Log) error { _, err := l.Replica(testReplica); return err }

func TestLogNewerFormat(t *testing.T) {
	fs := vfs.NewMem()
	l := openTestLog(t, fs)
	mustDo(t, l.db.Set(logNodeKey, append([]byte{logNodeFormat + 1}, "n1-aaaa"...), nil))
	mustDo(t, l.Close())
	if _, err := OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa"}); !errors.Is(err, ErrLogNewerFormat) {
		t.Fatal(err)
	}
}

func TestLogBootstrapOnce(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	rl := mustReplica(t, l, testReplica)
	mustDo(t, rl.Bootstrap(logEntries(1, 1, 1), LogValue{"term", []byte{1}}))
	mustDo(t, rl.Append(logEntries(2, 2, 2)))
	mustDo(t, rl.Bootstrap(logEntries(1, 1, 1), LogValue{"term", []byte{1}}))
	checkBounds(t, rl, 1, 2)
	other := mustReplica(t, l, Replica{9, 9})
	mustDo(t, other.Append(logEntries(1, 1, 1)))
	if err := other.Bootstrap(logEntries(1, 1, 1)); !errors.Is(err, ErrLogExists) {
		t.Fatal(err)
	}
	mustDo(t, l.Close())
}

// TestLogConcurrentAppendsSurvive cuts the power while many replicas append:
// what was acknowledged before the cut is there after it.
func TestLogConcurrentAppendsSurvive(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	const replicas = 8
	var acknowledged [replicas]atomic.Uint64
	var stop atomic.Bool
	var running sync.WaitGroup
	for g := range replicas {
		rl := mustReplica(t, l, Replica{GroupID(g), 1})
		running.Go(func() {
			for i := uint64(1); !stop.Load(); i++ {
				if err := rl.Append(logEntries(i, i, 1)); err != nil {
					t.Error(err)
					return
				}
				acknowledged[g].Store(i)
			}
		})
	}
	for range 20 {
		for start := acknowledged[0].Load(); acknowledged[0].Load() < start+20 && !t.Failed(); {
			time.Sleep(100 * time.Microsecond) // let them write; nothing depends on how much
		}
		var want [replicas]uint64
		for g := range want {
			want[g] = acknowledged[g].Load()
		}
		crashed := openTestLog(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 30, RNG: rand.New(rand.NewPCG(want[0], 2))}))
		for g := range want {
			if got := mustReplica(t, crashed, Replica{GroupID(g), 1}).LastIndex(); got < want[g] {
				t.Errorf("replica %d: %d acknowledged, %d after the crash", g, want[g], got)
			}
		}
		mustDo(t, crashed.Close())
	}
	stop.Store(true)
	running.Wait()
	mustDo(t, l.Close())
}

// TestLogFailureIsReturned makes the disk fail under many writers: each gets an
// error, the listener is told once, nothing hangs and no process ends.
func TestLogFailureIsReturned(t *testing.T) {
	var broken atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			return errorfs.ErrInjected
		}
		return nil
	}))
	var failures atomic.Int32
	l, err := OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa", MemTableBytes: logTestMemTable, DiskSlowAfter: -1, Events: func(e LogEvent) {
		if _, ok := e.(LogFailed); ok {
			failures.Add(1)
		}
	}})
	mustDo(t, err)
	var running sync.WaitGroup
	var begun sync.WaitGroup
	const writers = 16
	begun.Add(writers)
	for g := range writers {
		rl := mustReplica(t, l, Replica{GroupID(g), 1})
		running.Go(func() {
			for i := uint64(1); ; i++ {
				// Large, so that the WAL's blocks fill up behind its back.
				err := rl.Append([]LogEntry{{Index: i, Term: 1, Data: make([]byte, 40<<10)}})
				if i == 3 {
					begun.Done()
				}
				if err != nil {
					if !errors.Is(err, ErrLogFailed) {
						t.Error(err)
					}
					if err := rl.Set(LogValue{"v", nil}); !errors.Is(err, ErrLogFailed) {
						t.Error(err)
					}
					if _, err := rl.Entry(1); !errors.Is(err, ErrLogFailed) {
						t.Error(err)
					}
					if rl.Stalled() != 0 {
						t.Error("a write counts as in flight after it failed")
					}
					return
				}
			}
		})
	}
	begun.Wait()
	broken.Store(true)
	running.Wait()
	if n := failures.Load(); n != 1 {
		t.Errorf("%d failures told", n)
	}
	if err := l.Close(); !errors.Is(err, ErrLogFailed) {
		t.Errorf("close: %v", err)
	}
}

// TestLogStalled watches a write that hangs in its sync.
func TestLogStalled(t *testing.T) {
	hang, hangs := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) && armed.CompareAndSwap(true, false) {
			close(hangs)
			<-hang
		}
		return nil
	}))
	l := openTestLog(t, fs)
	rl := mustReplica(t, l, testReplica)
	armed.Store(true)
	done := make(chan error)
	go func() { done <- rl.Append(logEntries(1, 1, 1)) }()
	<-hangs
	if rl.Stalled() <= 0 || rl.LastIndex() != 0 {
		t.Errorf("stalled %s, last %d", rl.Stalled(), rl.LastIndex())
	}
	close(hang)
	mustDo(t, <-done)
	if rl.Stalled() != 0 || rl.LastIndex() != 1 {
		t.Errorf("stalled %s, last %d", rl.Stalled(), rl.LastIndex())
	}
	mustDo(t, l.Close())
}

func FuzzLogEntry(f *testing.F) {
	for _, e := range []LogEntry{{}, {Term: 3, Type: 2, AppendedAt: 5, Data: []byte("data"), Extensions: []byte("ext")}} {
		b := make([]byte, e.recordSize())
		e.encodeInto(b)
		f.Add(b)
	}
	f.Add([]byte{2})
	f.Add(bytes.Repeat([]byte{0xff}, logEntryHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeLogEntry(1, b)
		if err != nil {
			if !errors.Is(err, ErrLogCorrupt) && !errors.Is(err, ErrLogNewerFormat) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		again := make([]byte, e.recordSize())
		e.encodeInto(again)
		if !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes to %x", b, again)
		}
	})
}

func BenchmarkLogAppend(b *testing.B) {
	for _, replicas := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("replicas=%d", replicas), func(b *testing.B) {
			l, err := OpenLog(LogOptions{Dir: b.TempDir() + "/log", NodeID: "n1-aaaa"})
			mustDo(b, err)
			data := make([]byte, 300)
			var next atomic.Int64
			var running sync.WaitGroup
			b.ResetTimer()
			for g := range replicas {
				rl := mustReplica(b, l, Replica{GroupID(g), 1})
				running.Go(func() {
					for i := uint64(1); next.Add(1) <= int64(b.N); i++ {
						if err := rl.Append([]LogEntry{{Index: i, Term: 1, Data: data}}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			running.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			mustDo(b, l.Close())
		})
	}
}
