package replication

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

func TestFollowersServeReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		time.Sleep(time.Second) // all have heard of each other
		for range 5 {
			leader.mustPut("k", "v")
			for _, n := range c.others(leader) {
				start := time.Now()
				n.mustGet("k", "v")
				// Ask, confirm, answer: four trips of 1 ms; the notice in the
				// answer spares the wait for anything else.
				if d := time.Since(start); d > 10*time.Millisecond {
					t.Errorf("a read at %s took %v", n.id, d)
				}
			}
		}
	})
}

// An old leader that is cut off, and does not know it yet, must not answer
// what it last knew.
func TestCutLeaderDoesNotAnswerStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		old := c.leader()
		old.mustPut("k", "old")
		c.fabric.isolate(old.id)
		early := make(chan string, 1)
		go func() {
			v, err := old.get("k", 20*time.Second) // begins while its lease lasts
			if err != nil {
				v = "refused"
			}
			early <- v
		}()
		c.leader(c.others(old)...).mustPut("k", "new")
		if v, err := old.get("k", time.Second); err == nil {
			t.Errorf("the cut leader answered %q", v)
		}
		c.fabric.heal()
		if v := <-early; v != "refused" && v != "new" {
			t.Errorf("the read that began before the new leader ended with %q", v)
		}
	})
}

// The voters can be asked, and a newer leader stands among them.
func TestVotersOfANewerTermDoNotConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		old := c.leader()
		old.mustPut("k", "old")
		next := c.others(old)[0]
		c.eventually("the next leader has the whole log", func() bool {
			return next.group.Status().Last == old.group.Status().Last
		})
		c.fabric.mu.Lock()
		c.fabric.deaf = map[partition.NodeID]bool{old.id: true}
		c.fabric.mu.Unlock()
		next.group.Campaign()
		c.leader(next).mustPut("k", "new")
		if !old.group.Leads() {
			t.Fatal("the old leader knows already")
		}
		_, err := old.group.tryReadIndex(t.Context())
		if newer := (newerTerm{}); !errors.As(err, &newer) || newer.theirs <= newer.ours {
			t.Errorf("the old leader's read: %v", err)
		}
		// Told of the newer term, it proposes something, as soon as it is heard
		// learns that it leads no more, and then reads at the new leader.
		v := make(chan string)
		go func() {
			got, err := old.get("k", 10*time.Second)
			v <- fmt.Sprint(got, err)
		}()
		time.Sleep(100 * time.Millisecond)
		c.fabric.mu.Lock()
		c.fabric.deaf = nil
		c.fabric.mu.Unlock()
		if got := <-v; got != "new<nil>" {
			t.Errorf("the old leader reads %s", got)
		}
	})
}

// A read that arrives while a round is under way gets a round of its own: the
// answers of the first may be older than the read.
func TestLateReadJoinsNoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		c.caughtUp()
		calls := make(chan chan struct{}, 64)
		c.fabric.mu.Lock()
		c.fabric.before = func(from, _ partition.NodeID, kind uint8) {
			if from == leader.id && kind == KindConfirm {
				gate := make(chan struct{})
				calls <- gate
				<-gate
			}
		}
		c.fabric.mu.Unlock()
		read := func() <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := leader.group.ReadIndex(context.Background())
				done <- err
			}()
			synctest.Wait()
			return done
		}
		var gates [2 * maxRounds]chan struct{}
		var reads [maxRounds]<-chan error
		for i := range maxRounds {
			reads[i] = read()
			if len(calls) != 2 {
				t.Fatalf("read %d sent %d calls, want one to each of two peers", i, len(calls))
			}
			gates[2*i], gates[2*i+1] = <-calls, <-calls
		}
		late := read()
		if len(calls) != 0 {
			t.Fatal("more rounds are under way than are allowed")
		}
		// Round 0 ends: its read is answered, the late one gets a round.
		close(gates[0])
		close(gates[1])
		if err := <-reads[0]; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-late:
			t.Fatal("the late read was answered by a round sent before it arrived")
		default:
		}
		if len(calls) != 2 {
			t.Fatalf("the late read sent %d calls", len(calls))
		}
		for _, g := range gates[2:] {
			close(g)
		}
		for _, r := range reads[1:] {
			if err := <-r; err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-late:
			t.Fatal("the late read was answered by another read's round")
		default:
		}
		close(<-calls)
		close(<-calls)
		if err := <-late; err != nil {
			t.Fatal(err)
		}
		c.fabric.mu.Lock()
		c.fabric.before = nil
		c.fabric.mu.Unlock()
	})
}

// The same at a follower: a read must not join a request already sent.
func TestLateReadJoinsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent [][]string
		gates := make(chan chan struct{}, 8)
		r := &rounds[string]{run: func(items []string) {
			sent = append(sent, items)
			gate := make(chan struct{})
			gates <- gate
			<-gate
		}}
		for _, item := range []string{"a", "b", "c", "d", "e", "f"} {
			r.add(item)
			synctest.Wait()
		}
		if len(sent) != maxRounds {
			t.Fatalf("%d rounds sent: %v", len(sent), sent)
		}
		close(<-gates)
		synctest.Wait()
		if len(sent) != maxRounds+1 || len(sent[maxRounds]) != 2 {
			t.Fatalf("the late items were sent as %v", sent)
		}
		for range maxRounds {
			close(<-gates)
		}
		r.close()
		if r.add("g") {
			t.Error("taken after close")
		}
	})
}

// Two voters and two non-voters: with the other voter cut off, the non-voters'
// answers must not make a quorum.
func TestNonvotersDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		for _, id := range []partition.NodeID{"x1", "x2"} {
			n := c.add(id, 1)
			n.open(nil)
			m := n.member()
			m.Nonvoter = true
			if err := leader.group.AddNonvoter(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range c.nodes {
			n.mustGet("k", "v")
		}
		voter := c.nodes[1]
		if voter == leader {
			voter = c.nodes[0]
		}
		c.fabric.isolate(voter.id)
		_, err := leader.get("k", time.Second)
		if err == nil {
			t.Fatal("a read was confirmed by non-voters")
		}
		if e := asError(t, err); e.Outcome != NotApplied {
			t.Errorf("outcome %v", e.Outcome)
		}
		time.Sleep(5 * time.Second)
		_, err = leader.get("k", time.Second)
		if e := asError(t, err); e.Reason != NoQuorum || e.Reachable != 1 || e.Needed != 2 {
			t.Errorf("%+v", e)
		}
	})
}

// A replica destroyed and made again under a new generation is another one:
// what it says does not count for the voter it replaces.
func TestOtherGenerationDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		others := c.others(leader)
		for _, n := range others {
			n.kill()
			c.add(n.id, 2).open(nil) // an empty replica, at term 0, on the same node
		}
		for _, other := range c.nodes[3:] {
			answer, err := leader.peers.Call(t.Context(), other.id, KindConfirm,
				encodeReplicas([]storage.Replica{{Group: testGroup, Generation: 1}, {Group: testGroup, Generation: 2}, {Group: 99, Generation: 1}}))
			if err != nil {
				t.Fatal(err)
			}
			terms, err := decodeTerms(answer)
			if err != nil || len(terms) != 3 || terms[0].exists || !terms[1].exists || terms[2].exists {
				t.Errorf("%v, %v: generation 1 must not exist", terms, err)
			}
		}
		if v, err := leader.get("k", time.Second); err == nil {
			t.Errorf("read %q confirmed by replicas that never voted", v)
		}
	})
}

// A group that has been idle is reopened on one node while the link lives: no
// write comes, heartbeats carry no commit index, and the library would repeat
// it only after an hour.
func TestIdleGroupReopenedLearnsCommitIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.timing.Commit = time.Hour })
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		time.Sleep(10 * time.Second)
		n := c.others(leader)[0]
		n.close()
		n.machine = newMapMachine() // lost its unsynced state: all must be applied again
		n.open(c.members)
		if n.group.CaughtUp() && !n.group.leaderless() {
			t.Error("caught up before it could know")
		}
		start := time.Now()
		c.eventually("caught up", func() bool { return !n.group.leaderless() && n.group.CaughtUp() })
		if got := n.machine.get("k"); got != "v" {
			t.Errorf("k=%q after catching up", got)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Followers apply soon after the leader, though the library repeats the commit
// index only every hour.
func TestNoticesTellFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.timing.Commit = time.Hour })
		defer c.close()
		leader := c.leader()
		time.Sleep(time.Second) // all have heard of each other
		leader.mustPut("k", "v")
		time.Sleep(50 * time.Millisecond)
		for _, n := range c.nodes {
			if n.machine.get("k") != "v" {
				t.Errorf("%s has not applied the write", n.id)
			}
		}
		before := leader.transport.appends.Load()
		time.Sleep(10 * time.Minute)
		if sent := leader.transport.appends.Load() - before; sent > 4 {
			t.Errorf("an idle leader sent %d appends in ten minutes", sent)
		}
	})
}

// A notice may overtake the entry it names: it is used once that is stored.
func TestNoticeBeforeItsEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.timing.Commit = time.Hour })
		defer c.close()
		leader := c.leader()
		slow := c.others(leader)[0]
		time.Sleep(time.Second)
		slow.store.fsync.Store(int64(300 * time.Millisecond))
		leader.mustPut("k", "v") // acknowledged by the other two
		time.Sleep(100 * time.Millisecond)
		if slow.machine.get("k") != "" {
			t.Fatal("the slow follower was not slow")
		}
		time.Sleep(time.Second)
		if slow.machine.get("k") != "v" {
			t.Error("the notice that came too early was forgotten")
		}
	})
}

// A notice of an entry that the follower does not have, or has with another
// term, changes nothing.
func TestNoticeOfAnotherLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		time.Sleep(time.Second)
		n := c.others(leader)[0]
		commit, term := n.group.raft.CommitIndex(), n.group.raft.CurrentTerm()
		last := n.group.raft.LastIndex()
		for _, bad := range []notice{
			{index: last + 5, term: term, leaderTerm: term},
			{index: last, term: term - 1, leaderTerm: term},
			{index: last, term: term - 1, leaderTerm: term - 1},
		} {
			n.transport.Inject(noticeRequest(n.transport, leader.member(), bad))
			if got := n.group.raft.CommitIndex(); got != commit {
				t.Errorf("%+v moved the commit index from %d to %d", bad, commit, got)
			}
		}
		if !leader.group.Leads() || n.group.raft.CurrentTerm() != term {
			t.Error("leadership changed")
		}
	})
}

func TestFirstReadWaitsForOwnNoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		n := c.leader()
		n.mustPut("k", "v")
		n.close()
		n.store.fsync.Store(int64(400 * time.Millisecond)) // of the library's no-op, then of ours
		n.open(c.members)
		c.eventually("elected", func() bool { return n.group.raft.State().String() == "Leader" })
		if n.group.lead() != nil {
			t.Fatal("leadership is proven before anything was applied")
		}
		if _, err := n.group.ballot(); !errors.Is(err, errNotLeading) {
			t.Errorf("ballot before the no-op: %v", err)
		}
		start := time.Now()
		n.mustGet("k", "v")
		if time.Since(start) < 400*time.Millisecond {
			t.Error("the read did not wait for the no-op")
		}
	})
}

// A leader falls silent before anybody hears that its last write is committed.
// Who comes after it has the entry, and must not read what was before it, also
// not in the time that the disk takes for the new term's first entries.
func TestFreshLeaderReadsWhatWasAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.timing.Commit = time.Hour })
		defer c.close()
		old := c.leader()
		old.mustPut("k", "before")
		for _, n := range c.others(old) {
			n.mustGet("k", "before")
		}
		c.fabric.mu.Lock()
		c.fabric.dropNotices = true
		c.fabric.mu.Unlock()
		old.mustPut("k", "after")
		rest := c.others(old)
		c.fabric.leave(old.id) // it is closed at the end: that takes as long as an election
		for _, n := range rest {
			n.store.fsync.Store(int64(400 * time.Millisecond))
		}
		reads := make(chan string, len(rest))
		for _, n := range rest {
			go func() {
				v, err := n.get("k", 20*time.Second)
				reads <- fmt.Sprint(v, err)
			}()
		}
		for range rest {
			if got := <-reads; got != "after<nil>" {
				t.Errorf("behind the old leader's back was read %s", got)
			}
		}
	})
}

func TestNoQuorumIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		c.fabric.isolate(leader.id)
		time.Sleep(2 * time.Second)
		start := time.Now()
		_, err := leader.get("k", 5*time.Second)
		if e := asError(t, err); e.Reason != NoQuorum || e.Outcome != NotApplied || e.Reachable != 1 || e.Needed != 2 {
			t.Errorf("read: %+v", e)
		}
		_, err = leader.put("k", "v")
		if e := asError(t, err); e.Reason != NoQuorum || e.Outcome != NotApplied || e.Reachable != 1 || e.Needed != 2 {
			t.Errorf("write: %+v", e)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("refusing took %v", d)
		}
	})
}

func TestOperationsWaitForALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		// It falls silent, and what was asked of it just then is not answered: that
		// must not be waited for once there is another leader.
		c.fabric.isolate(leader.id)
		n := c.others(leader)[0]
		start := time.Now()
		if got, err := n.get("k", 10*time.Second); err != nil || got != "v" {
			t.Fatalf("%q, %v", got, err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the read waited %v", d)
		}
		c.fabric.heal()
		time.Sleep(500 * time.Millisecond)
	})
}

// A follower that missed entries gets them when the link is back, without a
// write, a read, or the library's hourly repetition.
func TestHealedFollowerIsSentWhatItLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.timing.Commit = time.Hour })
		defer c.close()
		leader := c.leader()
		n := c.others(leader)[0]
		c.fabric.isolate(n.id)
		leader.mustPut("k", "v")
		time.Sleep(5 * time.Second)
		c.fabric.heal()
		time.Sleep(3 * time.Second)
		if got := n.machine.get("k"); got != "v" {
			t.Errorf("k=%q three seconds after the heal", got)
		}
	})
}

// Rounds that wait for a silent peer do not hold up those behind them.
func TestSlowRoundsStopToCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var sent atomic.Int64
		r := &rounds[int]{run: func(items []int) {
			sent.Add(int64(len(items)))
			if items[0] <= maxRounds {
				<-gate
			}
		}}
		for i := range maxRounds {
			r.add(i + 1)
			synctest.Wait()
		}
		r.add(100)
		synctest.Wait()
		if sent.Load() != maxRounds {
			t.Fatalf("%d items are under way, %d rounds are allowed", sent.Load(), maxRounds)
		}
		time.Sleep(slowRound)
		synctest.Wait()
		if sent.Load() != maxRounds+1 {
			t.Fatal("a read still waits behind rounds that are slow")
		}
		r.add(101)
		synctest.Wait()
		if sent.Load() != maxRounds+2 || r.running != 0 || r.slow != maxRounds {
			t.Fatalf("%d items, %d rounds and %d slow ones", sent.Load(), r.running, r.slow)
		}
		close(gate)
		r.close()
		if r.running != 0 || r.slow != 0 {
			t.Errorf("%d rounds and %d slow ones are left", r.running, r.slow)
		}
	})
}
