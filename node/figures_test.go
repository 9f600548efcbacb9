package node

import (
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
