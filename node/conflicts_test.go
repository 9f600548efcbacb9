package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/storage"
)

// The list of what lost outlives a leader's clock that jumps, and its end says how
// many conflicts it has lost to its bounds, at a node without a replica too.
func TestTheConflictListSaysWhatItDropped(t *testing.T) {
	clocks := &skewed{}
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		lose := func(m *machine, n int, lived time.Duration) {
			t.Helper()
			var writes []storage.Tentative
			for i := range n {
				writes = append(writes, storage.Tentative{
					Dot: storage.Dot{Node: "n9-gone", Incarnation: uint64(lived) + 1, Sequence: uint64(i) + 1}, Timestamp: 1, Key: []byte(keyIn(p, 4, 1)), Bytes: []byte("lost"),
				})
			}
			command, err := storage.AppendPromotion(nil, storage.Promotion{Writes: writes, Now: m.running().clock.Now(), Lived: lived})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.running().replicas.replica(p).group.Propose(context.Background(), command); err != nil {
				t.Fatal(err)
			}
		}
		leader := w.leaderOf(p)
		leader.mustWrite(ask{}, keyIn(p, 4, 1), "stands")
		list := func(m *machine) (listed int, dropped uint64) {
			t.Helper()
			err := m.running().router.ListConflicts(context.Background(), &capstanv1.ListConflictsRequest{}, func(r *capstanv1.ListConflictsResponse) error {
				if dropped > 0 {
					t.Error("a message follows the one that says how many were dropped")
				}
				listed, dropped = listed+len(r.GetConflicts()), r.GetDropped()
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return listed, dropped
		}
		lose(leader, 300, time.Hour)
		clocks.set(leader, 8*24*time.Hour)
		leader.mustWrite(ask{level: eventual}, keyIn(p, 4, 2), "x")
		w.awaitNoBacklog()
		if listed, dropped := list(leader); listed != 300 || dropped != 0 {
			t.Errorf("after its leader's clock has jumped a week: %d listed, %d dropped", listed, dropped)
		}
		lose(leader, 3, time.Hour+8*24*time.Hour) // which the cluster has lived through
		for _, m := range append(holders, others...) {
			w.eventually(time.Minute, "all has been applied", func() error {
				if listed, dropped := list(m); listed != 3 || dropped != 300 {
					return fmt.Errorf("%d listed, %d dropped", listed, dropped)
				}
				return nil
			})
		}
	}, clocks.clock)
}
