package replication

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
)

// clear is how long a leader and a quorum must have had a whole network between
// them to count as a working leader: what a cut held up has arrived by then.
const clearFor = 4 * time.Second

// settledFor is how long it must have led: two that are elected at once are a
// split vote, and one of them has to go.
const settledFor = 500 * time.Millisecond

// whole tells for each pair of nodes since when nothing lies between them, and
// since when there is the leader that there is.
type whole struct {
	mu    sync.Mutex
	since map[[2]partition.NodeID]time.Time // absent while there is a cut

	term uint64
	led  time.Time
}

// look is to be called often.
func (w *whole) look(nodes []*testNode) {
	leader := leading(nodes)
	w.mu.Lock()
	defer w.mu.Unlock()
	if leader != nil && leader.group.raft.CurrentTerm() != w.term {
		w.term, w.led = leader.group.raft.CurrentTerm(), time.Now()
	}
}

// leading is the leader of the highest term.
func leading(nodes []*testNode) *testNode {
	var leader *testNode
	for _, n := range nodes {
		if n.group.raft.State() == raft.Leader && (leader == nil || n.group.raft.CurrentTerm() > leader.group.raft.CurrentTerm()) {
			leader = n
		}
	}
	return leader
}

func pairOf(a, b partition.NodeID) [2]partition.NodeID {
	return [2]partition.NodeID{min(a, b), max(a, b)}
}

// update takes note of what is cut now.
func (w *whole) update(nodes []*testNode, cuts map[[2]partition.NodeID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range nodes {
		for _, b := range nodes {
			pair := pairOf(a.id, b.id)
			if cuts[[2]partition.NodeID{a.id, b.id}] || cuts[[2]partition.NodeID{b.id, a.id}] {
				delete(w.since, pair)
			} else if w.since[pair].IsZero() {
				w.since[pair] = time.Now()
			}
		}
	}
}

// working is the leader, if there is one, that has had a whole network to a
// quorum for long enough.
func (w *whole) working(nodes []*testNode) *testNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	leader := leading(nodes)
	if leader == nil || leader.group.raft.CurrentTerm() != w.term || time.Since(w.led) < settledFor {
		return nil
	}
	near := 0
	for _, n := range nodes {
		if since, ok := w.since[pairOf(leader.id, n.id)]; ok && time.Since(since) >= clearFor {
			near++
		}
	}
	if 2*near <= len(nodes) {
		return nil
	}
	return leader
}

// Whatever is cut between whom, in one direction or both: nobody stands for
// election against a leader that reaches a quorum. And when all is whole again
// there is a leader soon.
func TestNobodyStandsAgainstAWorkingLeader(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		voters := rapid.SampledFrom([]int{3, 4, 5}).Draw(rt, "voters")
		delay := rapid.SampledFrom([]time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}).Draw(rt, "delay")
		type change struct {
			after time.Duration
			cuts  map[[2]partition.NodeID]bool
		}
		var changes []change
		for range rapid.IntRange(1, 8).Draw(rt, "changes") {
			c := change{after: time.Duration(rapid.IntRange(100, 8000).Draw(rt, "after ms")) * time.Millisecond, cuts: map[[2]partition.NodeID]bool{}}
			for i := range voters {
				for j := range voters {
					if i != j && rapid.IntRange(0, 3).Draw(rt, "cut") == 0 {
						c.cuts[[2]partition.NodeID{nodeName(i), nodeName(j)}] = true
					}
				}
			}
			changes = append(changes, c)
		}
		var bad []string
		synctest.Test(t, func(t *testing.T) {
			w := &whole{since: map[[2]partition.NodeID]time.Time{}}
			var c *cluster
			var mu sync.Mutex
			c = newCluster(t, voters, func(c *cluster) {
				c.fabric.delay = delay
				c.events = func(e Event) {
					stood, ok := e.(LeaderMissed)
					if !ok {
						return
					}
					if leader := w.working(c.nodes); leader != nil {
						mu.Lock()
						bad = append(bad, fmt.Sprintf("%v stood after %v, against %s", stood.Replica, stood.For, leader.id))
						mu.Unlock()
					}
				}
			})
			defer c.close()
			c.leader()
			done := make(chan struct{})
			var looking sync.WaitGroup
			looking.Go(func() {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
						w.look(c.nodes)
					case <-done:
						return
					}
				}
			})
			defer looking.Wait()
			defer close(done)
			for _, change := range changes {
				c.fabric.mu.Lock()
				clear(c.fabric.cuts)
				maps.Copy(c.fabric.cuts, change.cuts)
				c.fabric.mu.Unlock()
				w.update(c.nodes, change.cuts)
				time.Sleep(change.after)
			}
			c.fabric.heal()
			w.update(c.nodes, nil)
			// A vote split by the heal may have to be held again.
			for range 100 {
				for _, n := range c.nodes {
					if n.group.Leads() {
						return
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
			bad = append(bad, "no leader 10 s after the heal")
		})
		if len(bad) > 0 {
			rt.Fatal(bad)
		}
	})
}
