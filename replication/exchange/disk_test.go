package exchange

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// A disk that hangs under a write holds its request up no longer than the
// request's deadline. The write is named, so that its fate can be asked for:
// here the disk goes on, and the write is committed.
func TestAHangingDiskEndsWithTheRequest(t *testing.T) {
	const hangs = 20 * time.Second
	var until atomic.Pointer[time.Time]
	hang := func(id partition.NodeID) {
		if end := until.Load(); end != nil && id == "n2" {
			time.Sleep(time.Until(*end))
		}
	}
	inWorld(t, options{hang: hang}, func(t *testing.T, w *world) {
		n2 := w.node("n2")
		end := time.Now().Add(hangs)
		until.Store(&end)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		a, err := n2.x.Accept(ctx, Write{Key: []byte("k"), Value: []byte("v")})
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("the request was answered after %v", waited)
		}
		if reason, outcome := reasonOf(err); reason != replication.Deadline || outcome != replication.Unknown {
			t.Fatalf("%v", err)
		}
		if a.Dot.IsZero() || len(a.Held) > 0 {
			t.Errorf("dot %v, held by %v: the write must be named, and nobody is known to hold it", a.Dot, a.Held)
		}
		time.Sleep(hangs)
		w.quiet(10 * time.Second)
		if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted {
			t.Errorf("fate %+v once the disk answered", f)
		}
	})
}

// A disk that fails under a write: nobody is known to have it, and it may be on
// the disk all the same.
func TestAFailedDiskHoldsNothing(t *testing.T) {
	var broken atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (isSync(op) || op.Kind == errorfs.OpFileWrite) {
			return errorfs.ErrInjected
		}
		return nil
	}))
	log, err := storage.OpenLog(storage.LogOptions{FS: fs, Dir: "log", NodeID: "n1", DiskSlowAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	x, err := New(Config{
		Self: "n1", Log: log, Clock: hlc.New(time.Now, time.Second), Peers: alone{},
		Ring:    func() Placement { return single{} },
		Replica: func(partition.ID) Replica { return nil },
		Leader:  func(partition.ID) partition.NodeID { return "" },
	})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := x.Accept(t.Context(), Write{Key: []byte("k"), Value: []byte("v")}); err != nil || len(a.Held) != 1 {
		t.Fatalf("held by %v: %v", a.Held, err)
	}
	broken.Store(true)
	a, err := x.Accept(t.Context(), Write{Key: []byte("k"), Value: []byte("v")})
	if _, outcome := reasonOf(err); outcome != replication.Unknown {
		t.Fatalf("%v", err)
	}
	if a.Dot.IsZero() || len(a.Held) > 0 {
		t.Errorf("dot %v, held by %v: the write must be named, and nobody is known to hold it", a.Dot, a.Held)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// single is a cluster of n1, which holds the only replica.
type single struct{}

func (single) Partitions() int                          { return 1 }
func (single) Replicas(partition.ID) []partition.NodeID { return ids("n1") }
func (single) Nodes() []partition.NodeID                { return ids("n1") }
func (single) Removed(partition.NodeID) bool            { return false }
func (single) ReplicationFactor() int                   { return 1 }

// alone are the peers of a node that has none.
type alone struct{}

func (alone) Call(context.Context, partition.NodeID, uint8, []byte) ([]byte, error) {
	return nil, context.DeadlineExceeded
}
func (alone) Handle(uint8, func(context.Context, partition.NodeID, []byte) ([]byte, error)) {}
func (alone) LastHeard(partition.NodeID) (time.Duration, bool)                              { return 0, false }

// Promotions tell for how long the partition has had a leader. That is measured, and
// taken on by the next leader; no clock that is set changes it.
func TestALeaderMeasuresTheTimeLivedThrough(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		write := func(at partition.NodeID) time.Duration {
			t.Helper()
			w.node(at).mustAccept("k", "v", 1)
			w.quiet(10 * time.Second)
			w.caughtUp()
			return w.node("n3").replicas[0].Lived()
		}
		near := func(got, want time.Duration) {
			t.Helper()
			if got < want-5*time.Second || got > want+5*time.Second {
				t.Errorf("the partition has lived for %v, not %v", got, want)
			}
		}
		for _, n := range w.up() {
			n.tentative(0) // which opens what keeps the time; a node opens all of them
		}
		write("n1")
		time.Sleep(time.Minute)
		near(write("n1"), time.Minute)
		w.groups[0].transfer("n2")
		time.Sleep(2 * time.Minute)
		near(write("n1"), 3*time.Minute)
		w.groups[0].transfer("n1")
		time.Sleep(time.Minute)
		near(write("n3"), 4*time.Minute) // not again what n2 has measured
	})
}
