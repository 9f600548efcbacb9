package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/replication/memnet"
)

// world is a few whole nodes whose groups n0 leads, under light load.
type world struct {
	network *memnet.Network
	nodes   []*wholeNode
	ctx     context.Context
	leaving atomic.Bool // n0 writes no more
	load    sync.WaitGroup
}

// newWorld returns once n0 leads everywhere. What it starts ends with ctx.
func newWorld(ctx context.Context, t *testing.T, seed uint64, voters, groups int, links memnet.Conditions) *world {
	w := &world{network: memnet.NewSeeded(seed), ctx: ctx}
	w.network.SetConditionsEverywhere(links)
	var members []Member
	for i := range voters {
		members = append(members, Member{Node: nodeName(i), Generation: 1})
	}
	for i := range voters {
		w.nodes = append(w.nodes, startWhole(t, w.network, vfs.NewMem(), nodeName(i), members, groups, nodeName(0)))
	}
	for g := range groups {
		for !w.nodes[0].groups[g].Leads() {
			time.Sleep(10 * time.Millisecond)
		}
		w.load.Go(func() { w.write(g, rand.New(rand.NewPCG(seed, uint64(g)))) })
	}
	for _, n := range w.nodes {
		w.load.Go(func() { w.talk(n, members) })
	}
	return w
}

// write has n0 write, so that logs differ in their last entries.
func (w *world) write(group int, rng *rand.Rand) {
	for i := 0; w.ctx.Err() == nil && !w.leaving.Load(); i++ {
		attempt, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
		_, _ = w.nodes[0].groups[group].Propose(attempt, fmt.Appendf(nil, "k=%d", i))
		cancel()
		pause(w.ctx, rng, 0, 200*time.Millisecond)
	}
}

// talk sends what nodes of a cluster send all the time, whoever leads.
func (w *world) talk(n *wholeNode, members []Member) {
	const kind = 60 // nobody's
	for w.ctx.Err() == nil && !n.dead.Load() {
		for _, m := range members {
			if m.Node != n.id {
				_ = n.transport.Notify(m.Node, kind, nil)
			}
		}
		pause(w.ctx, nil, time.Second, 0)
	}
}

// pause sleeps for least, and up to more beyond that.
func pause(ctx context.Context, rng *rand.Rand, least, more time.Duration) {
	if more > 0 {
		least += time.Duration(rng.Int64N(int64(more)))
	}
	select {
	case <-time.After(least):
	case <-ctx.Done():
	}
}

func (w *world) close() {
	w.load.Wait()
	for _, n := range w.nodes {
		n.close()
	}
}

// killed has a node die: its connections are reset, new ones are refused.
func killed(w *world, n *wholeNode) {
	n.dead.Store(true)
	w.network.Crash(string(n.id))
}

// cutOff has a node fall silent, as one that is paused does, too.
func cutOff(w *world, n *wholeNode) { w.network.Isolate(string(n.id)) }

// deaf has a node hear nobody, and mute has nobody hear it.
func deaf(w *world, n *wholeNode) {
	for _, other := range w.nodes {
		if other != n {
			w.network.CutOneWay(string(other.id), string(n.id))
		}
	}
}

func mute(w *world, n *wholeNode) {
	for _, other := range w.nodes {
		if other != n {
			w.network.CutOneWay(string(n.id), string(other.id))
		}
	}
}

// bothCutOff has one more node fall silent, if a quorum is left.
func bothCutOff(w *world, n *wholeNode) {
	cutOff(w, n)
	if last := len(w.nodes) - 1; last >= 4 {
		cutOff(w, w.nodes[last])
	}
}

// failover has the leader of some groups fail at some moment, and returns how
// long each of them was without one that serves.
func failover(t *testing.T, seed uint64, voters, groups int, links memnet.Conditions, fail func(*world, *wholeNode)) (took []time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w := newWorld(ctx, t, seed, voters, groups, links)
		defer w.close()
		pause(ctx, rand.New(rand.NewPCG(seed, 99)), 3*time.Second, 3*time.Second)
		fail(w, w.nodes[0])
		w.leaving.Store(true)
		start := time.Now()
		took = make([]time.Duration, groups)
		for g := range groups {
			w.load.Go(func() {
				for ctx.Err() == nil {
					for _, n := range w.nodes[1:] {
						if !n.groups[g].Leads() {
							continue
						}
						if _, err := n.groups[g].Propose(ctx, []byte("k=after")); err == nil {
							took[g] = time.Since(start)
							return
						}
					}
					pause(ctx, nil, 5*time.Millisecond, 0)
				}
				took[g] = time.Since(start)
			})
		}
		w.load.Wait()
		cancel()
	})
	return took
}

// A group whose leader dies, falls silent, or is heard or hears in one direction
// only, writes again within two election timeouts. The library alone needs 3 s in
// the middle and 6 s at the worst.
func TestFailoverTakesTwoElectionTimeouts(t *testing.T) {
	for _, links := range []memnet.Conditions{
		{Latency: time.Millisecond, Jitter: 4 * time.Millisecond},
		{Latency: 25 * time.Millisecond, Jitter: 50 * time.Millisecond},
	} {
		t.Run(links.Latency.String(), func(t *testing.T) {
			var all []time.Duration
			for _, fault := range []struct {
				name string
				does func(*world, *wholeNode)
				late time.Duration // goes on for so long
			}{
				{"killed", killed, 0},
				{"cut off", cutOff, 0},
				{"cut off with another", bothCutOff, 0},
				{"mute", mute, 0},
				{"deaf", deaf, defaultHeartbeat / 3}, // it sends what is under way
			} {
				for _, voters := range []int{3, 5} {
					var took []time.Duration
					for seed := range uint64(2) {
						took = append(took, failover(t, seed, voters, 8, links, fault.does)...)
					}
					slices.Sort(took)
					t.Logf("%s, %d voters: median %v, most %v", fault.name, voters, took[len(took)/2], took[len(took)-1])
					for _, d := range took {
						all = append(all, d-fault.late)
					}
				}
			}
			slices.Sort(all)
			if p99 := all[len(all)*99/100]; p99 > 2*defaultHeartbeat {
				t.Errorf("of %d, more than one in a hundred took longer than %v: %v", len(all), 2*defaultHeartbeat, all[len(all)*9/10:])
			}
		})
	}
}
