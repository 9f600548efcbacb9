package replication

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// A transfer that the library did not take, since another one was waiting, may be tried
// again: its heir is not barred for the rest of the term. What is said of it does not
// speak of a write.
func TestTransferThatWasNotTakenMayBeTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		others := c.others(leader)
		c.fabric.mu.Lock()
		c.fabric.deaf = map[partition.NodeID]bool{others[0].id: true} // the first transfer fails
		c.fabric.mu.Unlock()
		release := leader.store.hang() // the main loop takes no request for a while
		go func() { _, _ = leader.put("k", "2") }()
		time.Sleep(10 * time.Millisecond)
		first := make(chan error, 1)
		go func() { first <- leader.group.TransferLeadership(t.Context(), others[0].id) }()
		time.Sleep(10 * time.Millisecond)
		second := leader.group.TransferLeadership(t.Context(), others[1].id)
		time.Sleep(200 * time.Millisecond)
		release()
		for _, err := range []error{<-first, second} {
			if err == nil {
				t.Error("a transfer that cannot succeed did")
			} else if strings.Contains(err.Error(), "write") || strings.Contains(asError(t, err).Try, "key") {
				t.Errorf("a transfer's error speaks of a write: %v, %s", err, asError(t, err).Try)
			}
		}
		time.Sleep(10 * time.Second)
		if err := leader.group.TransferLeadership(t.Context(), others[1].id); err != nil {
			t.Errorf("to the second again, ten seconds later: %v", err)
		}
	})
}

// A replica that answers no heartbeats does not count as reachable, although its node
// does: a leader that lacks a quorum says so at once.
func TestReplicaThatDoesNotAnswerIsNotReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		c.caughtUp()
		gone := c.others(leader)[0]
		c.fabric.mu.Lock()
		c.fabric.deaf = map[partition.NodeID]bool{gone.id: true}
		c.fabric.mu.Unlock()
		time.Sleep(5 * time.Second)
		if reachable, needed := leader.group.Reachable(); reachable != 2 || needed != 2 {
			t.Errorf("%d reachable, %d needed", reachable, needed)
		}
		c.fabric.mu.Lock()
		c.fabric.deaf = nil
		c.fabric.mu.Unlock()
		time.Sleep(5 * time.Second)
		if reachable, _ := leader.group.Reachable(); reachable != 3 {
			t.Errorf("%d reachable after it is back", reachable)
		}
	})
}
