package node

import (
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// A router without a replica asks a silent node only where nobody else is left, or
// where a replica that was asked says that it leads.
func TestASilentLeaderIsAskedLast(t *testing.T) {
	named := refuses(replication.Error{Reason: replication.LeaderChanged, Outcome: replication.NotApplied, NotLeader: true, Leader: "a"})
	yes := answers(&capstanv1.PutResponse{})
	for _, c := range []struct {
		name   string
		silent []partition.NodeID
		script []func(partition.NodeID, []byte) ([]byte, error)
		asked  []partition.NodeID
	}{
		{"it led when last heard of", []partition.NodeID{"a"}, []func(partition.NodeID, []byte) ([]byte, error){yes}, []partition.NodeID{"b"}},
		{"two are silent", []partition.NodeID{"a", "b"}, []func(partition.NodeID, []byte) ([]byte, error){yes}, []partition.NodeID{"c"}},
		{"all are", []partition.NodeID{"a", "b", "c"}, []func(partition.NodeID, []byte) ([]byte, error){yes}, []partition.NodeID{"a"}},
		{"it is not reached, then none of them is silent", nil, []func(partition.NodeID, []byte) ([]byte, error){refuses(notReached), yes}, []partition.NodeID{"a", "b"}},
		{"another one says that it leads", []partition.NodeID{"a"}, []func(partition.NodeID, []byte) ([]byte, error){named, yes}, []partition.NodeID{"b", "a"}},
		{"another one says so, and it is not reached", []partition.NodeID{"a"}, []func(partition.NodeID, []byte) ([]byte, error){named, refuses(notReached), yes}, []partition.NodeID{"b", "a", "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, hopper := scripted(1, c.script...)
			r.hints[0] = "a"
			r.heard = func(node partition.NodeID) bool {
				for _, s := range c.silent {
					if s == node {
						return false
					}
				}
				return true
			}
			if _, err := r.Put(t.Context(), &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
				t.Error(err)
			}
			for i, want := range c.asked {
				if i >= len(hopper.asked) || hopper.asked[i] != want {
					t.Fatalf("asked %v, want %v", hopper.asked, c.asked)
				}
			}
		})
	}
}

// Requests with short deadlines at a node without a replica find the next leader as
// soon as there is one: none of them has the time to find out by itself that the last
// one is silent.
func TestANodeWithoutAReplicaFindsTheNextLeader(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const (
			p       = 0
			allowed = 3 * time.Second // two election timeouts
			patient = allowed / 6
		)
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		for range len(holders) {
			leader := w.leaderOf(p)
			m.mustPut(key, "before")
			began := time.Now()
			w.net.Isolate(leader.host)
			var last error
			for {
				if _, last = m.putWithin(patient, key, "after"); last == nil {
					break
				}
				if time.Since(began) > allowed {
					w.t.Fatalf("not served %v after the leader %s was cut off: %v", time.Since(began), leader.name, last)
				}
			}
			w.t.Logf("served %v after %s was cut off", time.Since(began), leader.name)
			w.heal()
			w.eventually(time.Minute, "all are back", func() error {
				for _, h := range holders {
					if _, _, err := h.get(key); err != nil {
						return err
					}
				}
				return nil
			})
		}
	})
}
