package replication

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// Who stands is able to lead and would get the votes of a quorum; there is somebody
// whenever there can be; everybody comes to the same choice.
func TestSuccessor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		voters := rapid.IntRange(1, 7).Draw(t, "voters")
		var missing []bereft
		for i := range rapid.IntRange(0, voters).Draw(t, "missing") {
			b := bereft{Member: Member{Node: nodeName(i), Generation: 1},
				tip:    tip{rapid.Uint64Range(1, 3).Draw(t, "term"), rapid.Uint64Range(1, 3).Draw(t, "index") * applyLag},
				unable: rapid.IntRange(0, 3).Draw(t, "unable") == 0}
			b.applied = rapid.Uint64Range(0, b.tip.index).Draw(t, "applied")
			missing = append(missing, b)
		}
		missing = rapid.Permutation(missing).Draw(t, "order")
		group := storage.GroupID(rapid.Uint32().Draw(t, "group"))
		who, ok := successor(group, voters, missing)
		votes := func(b bereft) (n int) { // raft.requestVote refuses a log that ends before its own
			for _, other := range missing {
				if other.tip.term < b.tip.term || other.tip.term == b.tip.term && other.tip.index <= b.tip.index {
					n++
				}
			}
			return n
		}
		for _, b := range missing {
			if !ok && !b.unable && 2*votes(b) > voters {
				t.Fatalf("%v would get %d votes of %d, and nobody stands", b, votes(b), voters)
			}
		}
		if !ok {
			return
		}
		again := rapid.Permutation(missing).Draw(t, "another order")
		if other, _ := successor(group, voters, again); other != who {
			t.Fatalf("%v, in another order %v", who, other)
		}
		best := missing[slices.IndexFunc(missing, func(b bereft) bool { return b.Member == who })]
		if best.unable || 2*votes(best) <= voters {
			t.Fatalf("%v stands, and has %d votes of %d", best, votes(best), voters)
		}
		for _, b := range missing {
			if !b.unable && b.tip == best.tip && b.applied >= best.applied+applyLag {
				t.Fatalf("%v has applied more than %v", b, best)
			}
		}
	})
}

// Of equals each has its turn.
func TestSuccessorsAreSpread(t *testing.T) {
	const groups = 3000
	var missing []bereft
	for _, node := range []string{"n1-k3f9x", "n2-aa01b", "n3-zq7mm"} {
		missing = append(missing, bereft{Member: Member{Node: partition.NodeID(node), Generation: 1}, tip: tip{2, 7}})
	}
	led := map[Member]int{}
	for g := range storage.GroupID(groups) {
		who, _ := successor(g, 4, missing)
		led[who]++
	}
	for who, n := range led {
		if n < groups/3*8/10 || n > groups/3*12/10 {
			t.Errorf("%v succeeds in %d of %d groups", who, n, groups)
		}
	}
}

func TestAttention(t *testing.T) {
	const every = 200 * time.Millisecond
	start := time.Now()
	a := newAttention(every)
	a.looked = start
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for _, step := range []struct {
		ms    int
		look  bool
		whole bool
	}{
		{0, true, true},
		{200, true, true},
		{500, true, true}, // somewhat late
		{901, false, false},
		{2000, true, false}, // a break: what came in it is not read yet
		{2100, false, false},
		{2200, true, true},
		{2601, false, false}, // in the next one
	} {
		if step.look {
			a.look(at(step.ms))
		}
		if got := a.whole(at(step.ms)); got != step.whole {
			t.Errorf("at %d ms: %v", step.ms, got)
		}
	}
}

// A candidate whose pre-vote was refused waits for up to two election timeouts
// more, whatever it is told. stand must not wait.
func TestStandingAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		c.leader().mustPut("k", "v")
		n := c.nodes[1]
		c.eventually("it has the entry, and may win", func() bool { return n.machine.get("k") == "v" })
		c.fabric.isolate(n.id)
		c.eventually("a candidate", func() bool { return n.group.raft.State() == raft.Candidate })
		// It is heard again by one voter, which follows the leader and refuses.
		c.fabric.mu.Lock()
		for link := range c.fabric.cuts {
			if link[0] != "n0" && link[1] != "n0" {
				delete(c.fabric.cuts, link)
			}
		}
		c.fabric.mu.Unlock()
		time.Sleep(10 * time.Second)
		if n.group.raft.State() != raft.Candidate || !c.nodes[0].group.Leads() {
			t.Fatalf("%+v; %+v", n.group.Status(), c.nodes[0].group.Status())
		}
		n.group.stand()
		time.Sleep(50 * time.Millisecond)
		if got := n.group.raft.State(); got != raft.Leader {
			t.Errorf("50 ms later it is a %v", got)
		}
		c.fabric.heal()
		time.Sleep(time.Second)
	})
}

// Who has just stood may have won: another that has not heard of it yet must
// not stand against it.
func TestCandidateIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		n := c.others(leader)[0]
		c.fabric.isolate(leader.id)
		c.fabric.isolate(n.id) // nobody stands
		misses := func() bool { return n.group.misses(time.Now()) }
		c.eventually("it misses the leader", misses)
		_, _ = n.transport.Inject(&raft.RequestVoteRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.member().ServerID()), Addr: []byte(leader.member().address())},
			Term:      n.group.raft.CurrentTerm() + 1, // and a log too short for a vote
		})
		contest := n.group.host.timing.contest()
		for since := time.Now(); time.Since(since) < contest-10*time.Millisecond; time.Sleep(10 * time.Millisecond) {
			if misses() {
				t.Fatalf("it would stand %v after another did", time.Since(since))
			}
		}
		time.Sleep(20 * time.Millisecond)
		if !misses() {
			t.Error("it waits for longer than an election takes")
		}
		c.fabric.heal()
		time.Sleep(time.Second)
	})
}
