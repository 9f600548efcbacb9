package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestProposalErrors(t *testing.T) {
	leader := Member{Node: "n2", Generation: 3}
	for _, c := range []struct {
		err       error
		outcome   Outcome
		reason    Reason
		notLeader bool
	}{
		{raft.ErrNotLeader, NotApplied, LeaderChanged, true},
		{raft.ErrLeadershipTransferInProgress, NotApplied, LeaderChanged, true},
		{raft.ErrEnqueueTimeout, NotApplied, Overloaded, false},
		{raft.ErrLeadershipLost, Unknown, LeaderChanged, false},
		{raft.ErrRaftShutdown, Unknown, LeaderChanged, false},
		{raft.ErrAbortedByRestore, Unknown, LeaderChanged, false},
		{errors.New("disk: write failed"), Unknown, LeaderChanged, false},
	} {
		e := proposalError(c.err, leader)
		if e.Outcome != c.outcome || e.Reason != c.reason || e.NotLeader != c.notLeader {
			t.Errorf("%v: %+v", c.err, e)
		}
		if e.NotLeader != (e.Leader == "n2") {
			t.Errorf("%v: leader %q", c.err, e.Leader)
		}
		if !errors.Is(e, c.err) {
			t.Errorf("%v is not wrapped", c.err)
		}
	}
}

func TestManyCommandsShareAnEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("warm", "up")
		before := leader.group.Status().Last
		const n = 500
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				old, err := leader.put(fmt.Sprint("k", i%50), fmt.Sprint(i))
				if err != nil {
					t.Error(err)
				}
				_ = old
			})
		}
		wg.Wait()
		if entries := leader.group.Status().Last - before; entries > 2*maxEntriesInFlight {
			t.Errorf("%d commands took %d entries", n, entries)
		}
	})
}

func TestFollowerNamesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		n := c.others(leader)[0]
		c.eventually("a known leader", func() bool { _, ok := n.group.Leader(); return ok })
		_, err := n.put("k", "v")
		if e := asError(t, err); !e.NotLeader || e.Leader != leader.id || e.Outcome != NotApplied {
			t.Errorf("%+v", e)
		}
	})
}

// The deadline passes after the command was handed over: it may still be
// committed, and here it is.
func TestDeadlineAfterHandOverIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		n := c.leader()
		n.store.fsync.Store(int64(500 * time.Millisecond))
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := n.group.Propose(ctx, []byte("k=v"))
		if e := asError(t, err); e.Outcome != Unknown || e.Reason != Deadline {
			t.Errorf("%+v", e)
		}
		time.Sleep(time.Second)
		if n.machine.get("k") != "v" {
			t.Error("the command is lost")
		}
	})
}

// The deadline passes while the command still waits: it never happens.
func TestDeadlineBeforeHandOverIsDefinite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		n := c.leader()
		n.store.fsync.Store(int64(500 * time.Millisecond))
		var wg sync.WaitGroup
		for i := range maxEntriesInFlight { // one by one, so that each is an entry
			wg.Go(func() { n.put("busy", fmt.Sprint(i)) })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := n.group.Propose(ctx, []byte("k=v"))
		if e := asError(t, err); e.Outcome != NotApplied || e.Reason != Deadline {
			t.Errorf("%+v", e)
		}
		wg.Wait()
		time.Sleep(5 * time.Second)
		if n.machine.get("k") != "" {
			t.Error("a withdrawn command was applied")
		}
	})
}

func TestFullQueueRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		n := c.leader()
		n.store.fsync.Store(int64(100 * time.Millisecond))
		big := make([]byte, 1<<20)
		copy(big, "k=")
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for range 40 {
			wg.Go(func() {
				_, err := n.group.Propose(context.Background(), big)
				if err != nil {
					if e := asError(t, err); e.Reason != Overloaded || e.Outcome != NotApplied {
						t.Errorf("%+v", e)
					}
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if refused == 0 || refused > 40-maxQueueBytes>>20 {
			t.Errorf("%d of 40 MiB refused with a queue of %d MiB", refused, maxQueueBytes>>20)
		}
		_, err := n.group.Propose(context.Background(), make([]byte, maxCommandBytes+1))
		if e := asError(t, err); e.Reason != ValueTooLarge {
			t.Errorf("%+v", e)
		}
	})
}

func TestCutLeaderLosesProposalsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		c.fabric.isolate(leader.id)
		_, err := leader.put("k", "v") // appended to the leader's own log
		if e := asError(t, err); e.Outcome != Unknown {
			t.Errorf("%+v", e)
		}
	})
}

func TestMachineErrorStopsTheReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		failed := map[string]bool{}
		c := newCluster(t, 1, func(c *cluster) {
			c.events = func(e Event) {
				if f, ok := e.(ReplicaFailed); ok {
					mu.Lock()
					failed[f.Err.Error()] = true
					mu.Unlock()
				}
			}
		})
		defer c.close()
		n := c.leader()
		n.mustPut("k", "v")
		_, err := n.group.Propose(context.Background(), []byte("boom"))
		if e := asError(t, err); e.Outcome != Unknown {
			t.Errorf("%+v", e)
		}
		_, err = n.put("k", "w")
		if e := asError(t, err); e.Outcome != NotApplied || e.Reason != NoReplica {
			t.Errorf("after the failure: %+v", e)
		}
		if _, err := n.get("k", time.Second); err == nil {
			t.Error("a failed replica served a read")
		}
		if err := n.group.WaitApplied(context.Background(), 1<<40); err == nil {
			t.Error("waited for a failed replica")
		}
		if s := n.group.Status(); s.State != "failed" || s.Err == nil {
			t.Errorf("%+v", s)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(failed) != 1 {
			t.Errorf("events: %v", failed)
		}
	})
}

// What follows a failed entry must not reach the machine: it would be applied
// to a state that lacks something.
func TestNothingIsAppliedAfterAFailure(t *testing.T) {
	m := newMapMachine()
	failures := 0
	f := &fsm{machine: m, applied: &appliedIndex{}, onFailed: func(error) { failures++ },
		onNoop: func(nonce, uint64, uint64) {}, onApplied: func(uint64, uint64) {}}
	entry := func(index uint64, data []byte) *raft.Log {
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
	}
	batch := func(s string) []byte { return encodeBatch([][]byte{[]byte(s)}) }
	for _, bad := range [][]byte{batch("boom"), {99}} {
		m.index = 0
		f.failure, failures = nil, 0
		if got := f.ApplyBatch([]*raft.Log{entry(1, batch("k=1"))}); answerOf(got[0], 0, 1).err != nil {
			t.Fatalf("%v", got)
		}
		for i := range uint64(3) {
			got := f.ApplyBatch([]*raft.Log{entry(2+2*i, bad), entry(3+2*i, batch("k=2"))})
			for _, g := range got {
				if a := answerOf(g, 0, 1); a.err == nil || a.err.Outcome != Unknown {
					t.Errorf("after a failure: %+v", a)
				}
			}
			bad = batch("k=3")
		}
		if m.get("k") != "1" || failures != 1 {
			t.Errorf("k=%s after a failure, told %d times", m.get("k"), failures)
		}
		if err := f.Restore(io.NopCloser(nil)); err == nil {
			t.Error("restored after a failure")
		}
	}
}

// A leader whose disk hangs goes on sending heartbeats unless the watchdog
// stops it.
func TestZombieLeaderIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		zombie := c.leader()
		zombie.mustPut("k", "1")
		release := sync.OnceFunc(zombie.store.hang())
		defer release()
		lost := make(chan error, 1)
		go func() {
			_, err := zombie.put("k", "zombie")
			lost <- err
		}()
		start := time.Now()
		next := c.leader(c.others(zombie)...)
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("it took %v to replace the zombie", d)
		}
		next.mustPut("k", "2")
		if e := asError(t, <-lost); e.Outcome != Unknown {
			t.Errorf("%+v", e)
		}
		if _, err := zombie.put("k", "3"); asError(t, err).Outcome != NotApplied {
			t.Errorf("a write at the zombie: %v", err)
		}
		release()
		c.eventually("the zombie follows", func() bool { l, _ := zombie.group.Leader(); return l.Node == next.id })
		zombie.mustGet("k", "2")
		c.eventually("the stall ends", func() bool { return !zombie.group.Status().DiskStalled })
	})
}

func TestTransferAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		first := c.leader()
		first.mustPut("k", "1")
		to := c.others(first)[1]
		if err := first.group.TransferLeadership(t.Context(), to.id); err != nil {
			t.Fatal(err)
		}
		if got := c.leader(); got != to {
			t.Fatalf("%s leads, not %s", got.id, to.id)
		}
		if err := first.group.TransferLeadership(t.Context(), to.id); !asError(t, err).NotLeader {
			t.Errorf("a follower handed over: %v", err)
		}
		to.mustPut("k", "2")
		start := time.Now()
		to.close()
		next := c.leader()
		if d := time.Since(start); d > time.Second {
			t.Errorf("closing the leader left the group without one for %v", d)
		}
		next.mustGet("k", "2")
	})
}

func TestMembersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		for i := range 200 {
			leader.mustPut(fmt.Sprint("k", i%7), fmt.Sprint(i))
		}
		// Cut the log, so that the new replica needs a snapshot.
		cfg := leader.group.raft.ReloadableConfig()
		cfg.TrailingLogs = 1
		if err := leader.group.raft.ReloadConfig(cfg); err != nil {
			t.Fatal(err)
		}
		if err := leader.group.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		n := c.add("n9", 4)
		n.open(nil)
		if err := leader.group.AddNonvoter(t.Context(), n.member()); err != nil {
			t.Fatal(err)
		}
		c.eventually("caught up", func() bool { return !n.group.leaderless() && n.group.CaughtUp() })
		n.mustGet("k3", "199")
		if err := leader.group.AddVoter(t.Context(), n.member()); err != nil {
			t.Fatal(err)
		}
		gone := c.others(leader)[0]
		if err := leader.group.Remove(t.Context(), gone.member()); err != nil {
			t.Fatal(err)
		}
		gone.close()
		leader.mustPut("k3", "last")
		n.mustGet("k3", "last")
		s := leader.group.Status()
		if len(s.Members) != 3 || s.State != "leader" || !s.Serving || s.Needed != 2 {
			t.Errorf("%+v", s)
		}
	})
}
