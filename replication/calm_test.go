package replication

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/replication/memnet"
)

// Weather in which the leader n0 keeps a quorum, and so keeps its office: no
// failover, and no term begins.
func TestFailoverLeavesAWorkingLeaderAlone(t *testing.T) {
	cut := func(w *world, pairs ...[2]string) {
		for _, p := range pairs {
			w.network.Cut(p[0], p[1])
		}
	}
	for _, weather := range []struct {
		name   string
		voters int
		links  memnet.Conditions
		comes  func(*world)
	}{
		{name: "calm", voters: 3},
		{name: "slow links", voters: 5, links: memnet.Conditions{Latency: 150 * time.Millisecond, Jitter: 50 * time.Millisecond}},
		{name: "a follower does not hear the leader", voters: 3, comes: func(w *world) { w.network.CutOneWay("n0", "n1") }},
		{name: "the leader does not hear a follower", voters: 3, comes: func(w *world) { w.network.CutOneWay("n1", "n0") }},
		{name: "two of five do not hear the leader", voters: 5, comes: func(w *world) {
			w.network.CutOneWay("n0", "n1")
			w.network.CutOneWay("n0", "n2")
		}},
		{name: "a bridge", voters: 5, comes: func(w *world) {
			cut(w, [2]string{"n0", "n3"}, [2]string{"n0", "n4"}, [2]string{"n1", "n3"}, [2]string{"n1", "n4"})
		}},
		{name: "a ring", voters: 5, comes: func(w *world) {
			cut(w, [2]string{"n0", "n2"}, [2]string{"n0", "n3"}, [2]string{"n1", "n3"}, [2]string{"n1", "n4"}, [2]string{"n2", "n4"})
		}},
		{name: "a minority is cut off", voters: 5, comes: func(w *world) {
			cut(w, [2]string{"n0", "n3"}, [2]string{"n0", "n4"}, [2]string{"n1", "n3"}, [2]string{"n1", "n4"}, [2]string{"n2", "n3"}, [2]string{"n2", "n4"})
		}},
		{name: "each is away for a second at a time", voters: 3, comes: func(w *world) {
			for i := 0; w.ctx.Err() == nil; i++ {
				w.network.Isolate([]string{"n1", "n2"}[i%2])
				pause(w.ctx, nil, time.Second, 0)
				w.network.Heal()
				pause(w.ctx, nil, time.Second, 0)
			}
		}},
		{name: "all followers are away for a second at a time", voters: 3, comes: func(w *world) {
			for w.ctx.Err() == nil {
				w.network.Isolate("n0")
				pause(w.ctx, nil, time.Second, 0)
				w.network.Heal()
				pause(w.ctx, nil, 2*time.Second, 0)
			}
		}},
	} {
		t.Run(weather.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if weather.links == (memnet.Conditions{}) {
					weather.links = memnet.Conditions{Latency: time.Millisecond, Jitter: 4 * time.Millisecond}
				}
				ctx, cancel := context.WithCancel(t.Context())
				w := newWorld(ctx, t, 1, weather.voters, 3, weather.links)
				defer w.close()
				defer cancel()
				pause(ctx, nil, 3*time.Second, 0)
				var terms []uint64
				for _, g := range w.nodes[0].groups {
					terms = append(terms, g.Status().Term)
				}
				if weather.comes != nil {
					w.load.Go(func() { weather.comes(w) })
				}
				time.Sleep(90 * time.Second)
				for g, group := range w.nodes[0].groups {
					if s := group.Status(); !group.Leads() || s.Term != terms[g] {
						t.Errorf("led in term %d; now %+v", terms[g], s)
					}
				}
				for _, n := range w.nodes {
					if missed := n.missed.Load(); missed != 0 {
						t.Errorf("%s stood %d times", n.id, missed)
					}
				}
			})
		})
	}
}
