package node

import (
	"testing"
	"time"

	"github.com/capstan-kv/capstan/node/metrics"
	"github.com/capstan-kv/capstan/partition"
)

// A member that is down holds the tombstones of all partitions back; status and
// metrics name it, wherever one asks.
func TestStatusNamesWhoHoldsTombstonesBack(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		held := func() (partitions uint32, others bool) {
			status, err := clusterService{n1.running().Node}.GetStatus(w.t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, node := range status.GetNodes() {
				if node.GetName() == n3.name {
					partitions = node.GetHoldsBack()
				} else if node.GetHoldsBack() > 0 {
					others = true
				}
			}
			return partitions, others
		}
		n3.crash(0)
		for p := range partition.ID(4) {
			w.leaderOf(p, w.machines[:2]...)
		}
		n1.mustWrite(ask{}, keyIn(0, 4, 1), "")
		n1.mustWrite(ask{}, keyIn(1, 4, 1), "")
		if n, _ := held(); n > 0 {
			t.Errorf("held back at once: %d", n)
		}
		time.Sleep(2 * time.Minute)
		if n, others := held(); n != 2 || others {
			t.Errorf("n3 holds back %d partitions, others any: %v", n, others)
		}
		var told int
		for _, m := range w.machines[:2] {
			for _, h := range m.running().figures().HeldBack {
				if h == (metrics.HeldBack{Node: n3.name, Partitions: h.Partitions}) {
					told += h.Partitions
				}
			}
		}
		if told != 2 {
			t.Errorf("metrics tell of %d partitions", told)
		}
		n3.start()
		w.awaitReady(n3)
		time.Sleep(time.Minute)
		if n, others := held(); n > 0 || others {
			t.Errorf("held back by a member that is there again: %d, %v", n, others)
		}
	})
}
