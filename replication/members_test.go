package replication

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// A voter that was away while others got a vote votes for them all the same: with half of
// those that it knows gone, there would never be a leader again.
func TestVoterElectsCandidatesThatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		away, other := c.others(leader)[0], c.others(leader)[1]
		c.fabric.isolate(away.id)
		for _, name := range []string{"n8", "n9"} {
			n := c.add(partition.NodeID(name), 1)
			n.open(nil)
			if err := leader.group.AddNonvoter(t.Context(), n.member()); err != nil {
				t.Fatal(err)
			}
			c.eventually("it has caught up", func() bool { return !n.group.leaderless() && n.group.CaughtUp() })
			if err := leader.group.AddVoter(t.Context(), n.member()); err != nil {
				t.Fatal(err)
			}
			n.mustGet("k", "1")
		}
		leader.mustPut("k", "2")
		time.Sleep(time.Second)
		leader.kill()
		other.kill()
		c.fabric.heal()
		start := time.Now()
		next := c.leader()
		if took := time.Since(start); took > 4*defaultHeartbeat {
			t.Errorf("three of five are there, and had a leader after %v", took)
		}
		next.mustPut("k", "3")
		away.mustGet("k", "3")
	})
}
