package replication

import (
	"testing"
	"testing/synctest"
	"time"
)

// A leader whose state machine hangs while its log works is replaced, as one is whose
// log hangs.
func TestLeaderThatCannotApplyIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		zombie := c.leader()
		zombie.mustPut("k", "1")
		c.caughtUp()
		thaw := zombie.machine.freeze()
		lost := make(chan error, 1)
		start := time.Now()
		go func() { _, err := zombie.put("k", "zombie"); lost <- err }()
		next := c.leader(c.others(zombie)...)
		if took := time.Since(start); took > 4*defaultHeartbeat {
			t.Errorf("it took %v to replace the leader", took)
		}
		next.mustPut("k", "2")
		if e := asError(t, <-lost); e.Outcome != Unknown {
			t.Errorf("the write that it did not apply: %+v", e)
		}
		if s := zombie.group.Status(); !s.ApplyStalled || s.DiskStalled {
			t.Errorf("%+v", s)
		}
		if _, err := zombie.put("k", "3"); asError(t, err).Outcome != NotApplied {
			t.Errorf("a write at the old leader: %v", err)
		}
		thaw()
		zombie.mustGet("k", "2")
		c.eventually("the stall ends", func() bool { return !zombie.group.Status().ApplyStalled })
	})
}

// A replica that cannot apply may win one election, as long as nothing shows it. Then
// the others replace it, and it does not stand again.
func TestReplicaThatCannotApplyDoesNotStayInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		heir, healthy := c.others(leader)[0], c.others(leader)[1]
		if lot(testGroup, healthy.member()) < lot(testGroup, heir.member()) {
			heir, healthy = healthy, heir
		}
		c.eventually("all have applied the same", func() bool {
			return heir.group.Status().Applied == leader.group.Status().Applied && healthy.group.Status().Applied == leader.group.Status().Applied
		})
		defer heir.machine.freeze()()
		leader.kill()
		start := time.Now()
		if got := c.leader(healthy); time.Since(start) > 6*defaultHeartbeat {
			t.Errorf("%s leads after %v", got.id, time.Since(start))
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if !healthy.group.Leads() {
				t.Fatalf("it lost the lead: %+v; %+v", healthy.group.Status(), heir.group.Status())
			}
		}
		healthy.mustPut("k", "2")
	})
}

// Of two replicas with equal logs the one that has applied most stands, whatever the lot
// says.
func TestTheOneThatHasAppliedMostStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		heir, healthy := c.others(leader)[0], c.others(leader)[1]
		if lot(testGroup, healthy.member()) < lot(testGroup, heir.member()) {
			heir, healthy = healthy, heir
		}
		heir.machine.slow(time.Second) // per batch: it is late, and never stalled
		c.fabric.isolate(heir.id)
		for range 10 * maxAppendEntries {
			leader.mustPut("k", "2")
		}
		c.fabric.heal()
		c.eventually("all logs are equal", func() bool {
			return heir.group.raft.LastIndex() == leader.group.raft.LastIndex() && healthy.group.raft.LastIndex() == leader.group.raft.LastIndex()
		})
		leader.kill()
		start := time.Now()
		// The other one would have to be replaced first.
		if got := c.leader(heir, healthy); got != healthy || time.Since(start) > 3*defaultHeartbeat {
			t.Errorf("%s leads after %v: %+v", got.id, time.Since(start), got.group.Status())
		}
		heir.machine.slow(0)
	})
}

// A leader that is elected, has a quorum, and yet does not get to prove that it leads
// serves nothing: the others replace it.
func TestLeaderThatCannotProveItselfIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		heir, healthy := c.others(leader)[0], c.others(leader)[1]
		c.eventually("it has applied everything", func() bool { return heir.machine.get("k") == "1" })
		heir.group.fsm.onNoop = func(nonce, uint64, uint64) {}
		if err := leader.group.TransferLeadership(t.Context(), heir.id); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		next := c.leader(leader, healthy)
		if took := time.Since(start); took > 10*defaultHeartbeat {
			t.Errorf("it was replaced after %v", took)
		}
		next.mustPut("k", "2")
		c.eventually("the stall ends", func() bool { return !heir.group.Status().ApplyStalled })
	})
}

// A replica whose log cannot be appended to ends, whoever it is: it would reject every
// append, or stand again and again. The others do not count it.
func TestReplicaWhoseLogCannotBeWrittenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		full := c.others(leader)[0]
		full.store.broken.Store(true)
		leader.mustPut("k", "2")
		c.eventually("it has failed", func() bool { return full.group.Err() != nil })
		time.Sleep(5 * time.Second)
		if reachable, _ := leader.group.Reachable(); reachable != 2 {
			t.Errorf("%d voters count as reachable", reachable)
		}
		leader.mustPut("k", "3")
	})
}
