package node

import (
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/node/metrics"
	"github.com/capstan-kv/capstan/storage"
)

// What the databases tell of trouble is what /metrics shows: alerts rest on it.
func TestFiguresShowTrouble(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.machines[0].mustPut(keyIn(0, 4, 0), "x")
		n := w.machines[0].running()
		of := func() map[string]metrics.Database {
			out := map[string]metrics.Database{}
			for _, d := range n.figures().Databases {
				out[d.Name] = d
			}
			return out
		}
		before := of()
		if before["log"].WALBytes == 0 || before["state"].WALBytes == 0 {
			t.Errorf("nothing was written: %+v", before)
		}
		n.onStateEvent(storage.EventWriteStallBegin{Database: "state"})
		n.onStateEvent(storage.EventWriteStallEnd{Database: "state"})
		n.onStateEvent(storage.EventDiskSlow{Database: "state"})
		n.onLogEvent(storage.LogWriteStall{Reason: "memtables"})
		n.onLogEvent(storage.LogWriteStall{Ended: true})
		n.onLogEvent(storage.LogDiskSlow{})
		for name, d := range of() {
			if d.StallsTotal != before[name].StallsTotal+1 || d.DiskSlowsTotal != before[name].DiskSlowsTotal+1 {
				t.Errorf("%s: %d stalls and %d slow operations, after %d and %d", name,
					d.StallsTotal, d.DiskSlowsTotal, before[name].StallsTotal, before[name].DiskSlowsTotal)
			}
		}
	})
}

// Of nodes of one name there is one figure.
func TestFiguresAreOnePerName(t *testing.T) {
	var peers []metrics.Peer
	for _, p := range []metrics.Peer{
		{Name: "n1", Connected: true, Connects: 1, FramesSent: 2, FramesReceived: 3, BytesSent: 4, BytesReceived: 5, Dropped: 6},
		{Name: "n2", Connects: 1}, {Name: "n1", Connects: 10, FramesSent: 20, FramesReceived: 30, BytesSent: 40, BytesReceived: 50, Dropped: 60},
	} {
		peers = addPeer(peers, p)
	}
	if want := []metrics.Peer{
		{Name: "n1", Connected: true, Connects: 11, FramesSent: 22, FramesReceived: 33, BytesSent: 44, BytesReceived: 55, Dropped: 66}, {Name: "n2", Connects: 1},
	}; !slices.Equal(peers, want) {
		t.Errorf("%+v", peers)
	}
	var held []metrics.HeldBack
	for _, h := range []metrics.HeldBack{{Node: "n1", Partitions: 3}, {Node: "n2", Partitions: 1}, {Node: "n1", Partitions: 4}} {
		held = addHeldBack(held, h)
	}
	if want := []metrics.HeldBack{{Node: "n1", Partitions: 4}, {Node: "n2", Partitions: 1}}; !slices.Equal(held, want) {
		t.Errorf("%+v", held)
	}
}
