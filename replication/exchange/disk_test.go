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
