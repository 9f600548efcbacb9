package replication

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/budget"
)

// TestWritesOnTheirWayAreBounded: where the machine hangs, a node takes only as many
// writes as its budget has room for. It refuses the rest at once and definitely, and
// has all of its room again when the machine goes on.
func TestWritesOnTheirWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.proposals = 64 << 10 })
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		thaw := leader.machine.freeze()
		value := strings.Repeat("v", 4<<10)
		var taken, refused atomic.Int64
		var writers sync.WaitGroup
		for range 100 {
			writers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				_, err := leader.group.Propose(ctx, []byte("k="+value))
				var e *Error
				var full *budget.Full
				switch {
				case err == nil:
					taken.Add(1)
				case errors.As(err, &e) && e.Reason == Overloaded && e.Outcome == NotApplied && errors.As(err, &full) && time.Since(start) == 0:
					refused.Add(1)
				default:
					t.Errorf("%v after %v", err, time.Since(start))
				}
			})
		}
		time.Sleep(time.Second)
		if used := leader.host.proposals.Use(); used.Bytes > used.Limit || used.Bytes < used.Limit/2 {
			t.Errorf("%+v", used)
		}
		thaw()
		writers.Wait()
		if n := taken.Load(); n < 10 || n > 16 || n+refused.Load() != 100 {
			t.Errorf("%d writes of 4 KiB taken into 64 KiB, %d refused", n, refused.Load())
		}
		leader.mustPut("k", "2")
		if used := leader.host.proposals.Use(); used.Bytes != 0 {
			t.Errorf("nothing is on its way: %+v", used)
		}
	})
}

// TestFrozenFollowerGathersLittle: a follower whose machine hangs keeps only as many
// committed entries in memory as its node's budget allows, and catches up later.
func TestFrozenFollowerGathersLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) { c.proposals = 32 << 10 })
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "1")
		c.caughtUp()
		follower := c.others(leader)[0]
		thaw := follower.machine.freeze()
		value := strings.Repeat("v", 4<<10)
		for range 1000 {
			leader.mustPut("k", value)
		}
		waiting := follower.group.raft.CommitIndex() - follower.group.applied.index.Load()
		// What a single append brings counts for nothing; the library alone would take
		// 128 appends of one entry.
		if most := uint64(freeBacklog + 8); waiting > most {
			t.Errorf("%d committed entries of 4 KiB wait, more than %d", waiting, most)
		}
		if follower.host.backlog.Load() == 0 {
			t.Error("the backlog was not counted")
		}
		thaw()
		c.caughtUp()
		leader.mustPut("k", "2")
		c.caughtUp()
		if n := follower.host.backlog.Load(); n > 4<<10*freeBacklog {
			t.Errorf("a backlog of %d bytes when all is applied", n)
		}
	})
}
