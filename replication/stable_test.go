package replication

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A replica whose disk fails while others elect takes no part, and ends without
// taking the process along: it says that it has failed, and can be closed.
func TestATermThatCannotBeWrittenEndsTheReplica(t *testing.T) {
	for name, whose := range map[string]func(leader, other *testNode) *testNode{
		"a voter's":    func(_, other *testNode) *testNode { return other },
		"the leader's": func(leader, _ *testNode) *testNode { return leader },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var failed atomic.Int64
				c := newCluster(t, 5, func(c *cluster) {
					c.events = func(e Event) {
						if f, ok := e.(ReplicaFailed); ok && errors.Is(f.Err, errBroken) {
							failed.Add(1)
						}
					}
				})
				defer c.close()
				leader := c.leader()
				leader.mustPut("k", "v")
				other := c.nodes[0]
				if other == leader {
					other = c.nodes[1]
				}
				broken := whose(leader, other)
				broken.store.broken.Store(true)
				if broken == other {
					c.fabric.leave(leader.id) // so that there is an election
				} else {
					_, _ = leader.put("k", "w") // it gives up: it can store nothing
				}
				c.eventually("another leads, and the broken one has failed", func() bool {
					for _, n := range c.nodes {
						if n != leader && n != broken && n.group.Leads() {
							return failed.Load() == 1
						}
					}
					return false
				})
				if s := broken.group.Status(); s.State != "failed" || !errors.Is(s.Err, errBroken) {
					t.Errorf("%+v", s)
				}
				began := time.Now()
				broken.close()
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("it took %v to close it", took)
				}
			})
		})
	}
}
