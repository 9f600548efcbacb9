package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// getBounded is a bounded read at this node.
func (n *testNode) getBounded(k string, bound, timeout time.Duration) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	age, err := n.group.Bounded(ctx, bound)
	if err != nil {
		return "", 0, err
	}
	return n.machine.get(k), age, nil
}

func (n *testNode) mustGetBounded(k, want string, bound time.Duration) time.Duration {
	n.cluster.t.Helper()
	got, age, err := n.getBounded(k, bound, 5*time.Second)
	if err != nil || got != want {
		n.cluster.t.Fatalf("bounded get %s at %s: %q, %v; want %q", k, n.id, got, err, want)
	}
	if age < 0 || age > bound {
		n.cluster.t.Fatalf("bounded get at %s: %v old, %v allowed", n.id, age, bound)
	}
	return age
}

// calls counts the calls of a kind from now on, by who makes them.
func (c *cluster) calls(kind uint8) func(from partition.NodeID) int {
	made := map[partition.NodeID]int{}
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	before := c.fabric.before
	c.fabric.before = func(from, to partition.NodeID, k uint8) {
		if before != nil {
			before(from, to, k)
		}
		if k == kind {
			c.fabric.mu.Lock()
			defer c.fabric.mu.Unlock()
			made[from]++
		}
	}
	return func(from partition.NodeID) int {
		c.fabric.mu.Lock()
		defer c.fabric.mu.Unlock()
		return made[from]
	}
}

func TestBoundedReadAnswersFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		n := c.others(leader)[0]
		time.Sleep(time.Minute) // what was known is old
		asked := c.calls(KindReadIndex)
		// The first asks, and the way there and back counts as age: ask, confirm,
		// confirmed, answer.
		start := time.Now()
		age := n.mustGetBounded("k", "v", time.Second)
		if took := time.Since(start); age != took || took < 4*c.fabric.delay {
			t.Errorf("asking took %v, the answer is said to be %v old", took, age)
		}
		// The next does not, and knows how much older it is by now.
		time.Sleep(200 * time.Millisecond)
		start = time.Now()
		if later := n.mustGetBounded("k", "v", time.Second); later != age+200*time.Millisecond {
			t.Errorf("%v old after 200 ms, %v before", later, age)
		}
		if took := time.Since(start); took != 0 || asked(n.id) != 1 {
			t.Errorf("took %v, asked %d times", took, asked(n.id))
		}
		// A tighter bound asks anew.
		if age := n.mustGetBounded("k", "v", 20*time.Millisecond); asked(n.id) != 2 || age > 20*time.Millisecond {
			t.Errorf("asked %d times, %v old", asked(n.id), age)
		}
	})
}

// Once cut off, a replica answers exactly as long as the bound lasts.
func TestBoundedReadsEndWithTheBound(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			defer c.close()
			n := c.leader()
			n.mustPut("k", "v")
			if who == "follower" {
				n = c.others(n)[0]
			}
			const bound = 10 * time.Second
			time.Sleep(time.Minute)
			start := time.Now()
			n.mustGet("k", "v") // a linearizable read's index serves as well
			c.fabric.isolate(n.id)
			for time.Since(start) < bound {
				n.mustGetBounded("k", "v", bound)
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(time.Millisecond)
			start = time.Now()
			_, _, err := n.getBounded("k", bound, 5*time.Second)
			e := asError(t, err)
			if e.Reason != TooStale || e.Outcome != NotApplied || e.Reachable != 1 || e.Needed != 2 {
				t.Errorf("%s: %+v", who, e)
			}
			if !strings.Contains(e.Message, "at most 10s old, it may be 10.") {
				t.Errorf("%s is told %q", who, e.Message)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("refusing took %v", took)
			}
			c.fabric.heal()
			c.eventually("a leader is heard", func() bool { return !n.group.leaderless() })
			n.mustGetBounded("k", "v", bound)
		})
	}
}

// A follower that hears a quorum, and no leader.
func TestBoundedReadWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		n := c.others(leader)[0]
		time.Sleep(time.Minute)
		n.mustGetBounded("k", "v", time.Second)
		c.fabric.mu.Lock() // nobody is elected any more, all hear each other
		c.fabric.deaf = map[partition.NodeID]bool{}
		for _, other := range c.nodes {
			c.fabric.deaf[other.id] = true
		}
		c.fabric.mu.Unlock()
		time.Sleep(10 * time.Second)
		if reachable, needed := n.group.Reachable(); !n.group.leaderless() || reachable < needed {
			t.Fatal("there is a leader, or no quorum")
		}
		start := time.Now()
		_, _, err := n.getBounded("k", time.Second, 2*time.Second)
		if e := asError(t, err); e.Reason != TooStale || e.Outcome != NotApplied || time.Since(start) > 2*time.Second {
			t.Errorf("%+v after %v", e, time.Since(start))
		}
	})
}

// The clock goes on while the machine sleeps: what was young before is not.
func TestBoundedReadAfterSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		n := c.others(leader)[0]
		n.mustGet("k", "v")
		c.fabric.isolate(n.id)
		time.Sleep(2 * time.Second) // long enough to be refused at once
		n.mustGetBounded("k", "v", time.Minute)
		c.asleep.Store(int64(time.Hour))
		if _, _, err := n.getBounded("k", time.Minute, time.Second); err == nil || asError(t, err).Reason != TooStale {
			t.Errorf("after an hour asleep: %v", err)
		}
	})
}

// A read index that is known but not applied proves nothing yet.
func TestBoundedReadWaitsForApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "old")
		n := c.others(leader)[0]
		time.Sleep(time.Minute)
		n.mustGetBounded("k", "old", time.Second)
		time.Sleep(time.Minute)
		thaw := n.machine.freeze()
		leader.mustPut("k", "new")
		got := make(chan string, 1)
		go func() {
			v, age, err := n.getBounded("k", 30*time.Second, 20*time.Second)
			got <- fmt.Sprint(v, " ", err, " ", age >= 3*time.Second)
		}()
		time.Sleep(3 * time.Second)
		select {
		case v := <-got:
			t.Fatalf("answered %q from a state that is a minute old", v)
		default:
		}
		thaw()
		if v := <-got; v != "new <nil> true" {
			t.Errorf("got %q", v)
		}
	})
}

// A replica that needs longer to apply than the bound allows, and a bound below
// what asking takes: the first asks again, the second is refused.
func TestBoundedReadAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "old")
		n := c.others(leader)[0]
		time.Sleep(time.Minute)
		time.AfterFunc(3*time.Second, n.machine.freeze())
		leader.mustPut("k", "new")
		n.mustGetBounded("k", "new", 25*time.Millisecond)
		asked := c.calls(KindReadIndex)
		_, _, err := n.getBounded("k", time.Millisecond, 5*time.Second)
		if e := asError(t, err); e.Reason != TooStale || e.Outcome != NotApplied || !strings.Contains(e.Message, "longer") {
			t.Errorf("%+v", e)
		}
		if asked(n.id) != maxAskings {
			t.Errorf("asked %d times", asked(n.id))
		}
		if _, _, err := n.getBounded("k", 0, time.Second); asError(t, err).Reason != BadOption {
			t.Errorf("no bound: %v", err)
		}
	})
}

// openMore opens further groups on all nodes, each with a generation of its
// own, for the fabric tells replicas apart by that.
func (c *cluster) openMore(groups int) map[*testNode][]*Group {
	opened := map[*testNode][]*Group{}
	for i := range groups {
		id := storage.GroupID(100 + i)
		gen := uint32(id)
		var members []Member
		for _, n := range c.nodes {
			members = append(members, Member{Node: n.id, Generation: gen})
		}
		for _, n := range c.nodes {
			g, err := n.host.Open(GroupConfig{
				Replica: storage.Replica{Group: id, Generation: gen},
				Store:   &hangingStore{InmemStore: raft.NewInmemStore()}, Snapshots: &mapSnapshots{node: n},
				Transport: n.peers.transport(Member{Node: n.id, Generation: gen}), Machine: newMapMachine(),
				Bootstrap: members, Campaign: n.id == nodeName(0),
			})
			if err != nil {
				c.t.Fatal(err)
			}
			opened[n] = append(opened[n], g)
		}
	}
	return opened
}

// While somebody reads, a few calls a bound keep all groups fresh, so that no
// read waits; when the reads stop, so do the calls.
func TestRefreshIsBatchedAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		const groups = 8
		opened := c.openMore(groups)
		c.eventually("all are led by one node", func() bool {
			for _, g := range opened[leader] {
				if !g.Leads() {
					return false
				}
			}
			return true
		})
		follower := c.others(leader)[0]
		time.Sleep(time.Second)
		const bound = 900 * time.Millisecond
		for _, n := range []*testNode{follower, leader} {
			read := func(wait bool) {
				for _, g := range opened[n] {
					start := time.Now()
					age, err := g.Bounded(t.Context(), bound)
					if err != nil || age > bound {
						t.Fatalf("%v old, %v", age, err)
					}
					if took := time.Since(start); !wait && took > 0 {
						t.Fatalf("a read at %s waited %v", n.id, took)
					}
				}
			}
			read(true) // one after the other: they have no turn in common yet
			asked, confirmed := c.calls(KindReadIndex), c.calls(KindConfirm)
			const run = 30 * time.Second
			for start := time.Now(); time.Since(start) < run; {
				time.Sleep(50 * time.Millisecond)
				read(false)
			}
			// Three turns a bound, each a call to the leader and one of the leader's
			// to each voter. In the beginning groups have turns of their own.
			turns := int(refreshesABound * run / bound)
			if n == follower {
				if got := asked(n.id); got < turns*3/4 || got > turns*5/4 {
					t.Errorf("%d calls for read indexes in %d turns of %d groups", got, turns, groups)
				}
			} else if asked(n.id) != 0 {
				t.Errorf("the leader asked %d times for what it gives itself", asked(n.id))
			}
			if got := confirmed(leader.id); got < turns*3/2 || got > turns*5/2 {
				t.Errorf("%s: %d calls to confirm terms in %d turns of %d groups", n.id, got, turns, groups)
			}
			time.Sleep(keepBounds*bound + bound)
			asked, confirmed = c.calls(KindReadIndex), c.calls(KindConfirm)
			time.Sleep(10 * time.Minute)
			if a, b := asked(n.id), confirmed(leader.id); a+b > 0 {
				t.Errorf("%s: %d and %d calls in ten minutes without a read", n.id, a, b)
			}
			n.host.refresher.mu.Lock()
			if left := len(n.host.refresher.warm); left > 0 {
				t.Errorf("%d groups are still warm", left)
			}
			n.host.refresher.mu.Unlock()
		}
	})
}

// The refresher follows the tightest bound while it is asked for.
func TestRefreshFollowsTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		n := c.others(leader)[0]
		time.Sleep(time.Second)
		count := func(bounds ...time.Duration) int {
			for _, b := range bounds {
				n.mustGetBounded("k", "", b)
			}
			time.Sleep(20 * time.Second) // forgets what was before
			for _, b := range bounds {
				n.mustGetBounded("k", "", b)
			}
			asked := c.calls(KindReadIndex)
			for range 60 {
				time.Sleep(100 * time.Millisecond)
				for _, b := range bounds {
					n.mustGetBounded("k", "", b)
				}
			}
			return asked(n.id)
		}
		if got := count(3 * time.Second); got < 5 || got > 7 {
			t.Errorf("%d calls in 6 s for a bound of 3 s", got)
		}
		if got := count(3*time.Second, 600*time.Millisecond); got < 28 || got > 32 {
			t.Errorf("%d calls in 6 s for bounds of 3 s and 0.6 s", got)
		}
		if got := count(3 * time.Second); got < 5 || got > 7 {
			t.Errorf("%d calls in 6 s once the tight reads have stopped", got)
		}
		// Too tight to keep up with: each read asks, none beside it.
		if got := count(leastBound - 1); got != 60 {
			t.Errorf("%d calls for 60 reads with a bound of %v", got, leastBound-1)
		}
	})
}

// A leader that owes an answer is not asked again and again; the next leader is.
func TestRefreshOfASilentLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		n := c.others(leader)[0]
		time.Sleep(time.Second)
		const bound = 60 * time.Millisecond
		n.mustGetBounded("k", "", bound)
		asked := c.calls(KindReadIndex)
		c.fabric.isolate(leader.id)
		for range 50 { // while its last word is younger than an election timeout
			n.host.refresher.want(n.group, bound, c.elapsed())
			time.Sleep(20 * time.Millisecond)
		}
		if !n.host.heard(leader.id) {
			t.Fatal("waited too long")
		}
		if got := asked(n.id); got > 1 {
			t.Errorf("a silent leader was asked %d times", got)
		}
		c.leader(c.others(leader)...)
		n.mustGetBounded("k", "", bound)
		for range 50 {
			time.Sleep(20 * time.Millisecond)
			if age := n.mustGetBounded("k", "", bound); age > bound {
				t.Errorf("%v old", age)
			}
		}
	})
}

// Readers everywhere, while leaders are isolated: none ever sees a state older
// than its bound, or than the answer says.
func TestBoundedReadsKeepTheBound(t *testing.T) {
	for range 4 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			defer c.close()
			c.leader()
			const virtual = 60 * time.Second
			start := time.Now()
			var mu sync.Mutex
			type acked struct {
				at    time.Time
				count int
			}
			var acks []acked // of one writer that counts up
			answered, refused := 0, 0
			var all sync.WaitGroup
			all.Go(func() {
				for count := 1; time.Since(start) < virtual; count++ {
					time.Sleep(time.Duration(rand.Int64N(int64(40 * time.Millisecond))))
					if _, err := c.nodes[rand.IntN(3)].put("k", fmt.Sprintf("%08d", count)); err == nil {
						mu.Lock()
						acks = append(acks, acked{time.Now(), count})
						mu.Unlock()
					}
				}
			})
			for i := range 6 {
				all.Go(func() {
					n := c.nodes[i%3]
					for time.Since(start) < virtual {
						time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
						bound := time.Duration(1+rand.IntN(2000)) * time.Millisecond
						began := time.Now()
						got, age, err := n.getBounded("k", bound, time.Second)
						mu.Lock()
						switch {
						case err != nil:
							refused++
						case age > bound:
							t.Errorf("%v old, %v allowed", age, bound)
						default:
							answered++
							seen := 0
							fmt.Sscanf(got, "%d", &seen)
							for _, a := range acks {
								if a.at.Before(began.Add(-age)) && a.count > seen {
									t.Errorf("%s read %d, said to be %v old; %d was acknowledged %v before it began", n.id, seen, age, a.count, began.Sub(a.at))
								}
							}
						}
						mu.Unlock()
					}
				})
			}
			all.Go(func() {
				for time.Since(start) < virtual {
					time.Sleep(time.Duration(rand.Int64N(int64(3 * time.Second))))
					c.fabric.isolate(c.nodes[rand.IntN(3)].id)
					time.Sleep(time.Duration(rand.Int64N(int64(5 * time.Second))))
					c.fabric.heal()
				}
			})
			all.Wait()
			t.Logf("%d writes, %d reads answered, %d refused", len(acks), answered, refused)
			if len(acks) < 100 || answered < 1000 || refused < 20 {
				t.Errorf("only %d writes, %d reads answered, %d refused", len(acks), answered, refused)
			}
		})
	}
}
