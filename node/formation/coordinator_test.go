package formation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// town is a set of nodes that see and reach each other unless told otherwise.
type town struct {
	mu    sync.Mutex
	nodes map[partition.NodeID]*citizen
	loss  float64
}

type citizen struct {
	member      Member
	coordinator *Coordinator
	outcome     Outcome
}

var errLost = errors.New("lost")

func (tn *town) add(t *testing.T, id partition.NodeID, expect int) *citizen {
	t.Helper()
	name, _, _ := strings.Cut(string(id), "-")
	c := &citizen{member: Member{ID: id, Name: name, Alive: true, Expect: expect}}
	var err error
	c.coordinator, err = NewCoordinator(Config{Self: id, Expect: expect,
		View: func() View {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			v := View{Self: c.member, Settled: true}
			for _, o := range tn.nodes {
				if rand.Float64() >= tn.loss { // views differ as messages are lost
					v.Members = append(v.Members, o.member)
				}
			}
			return v
		},
		Ask: func(ctx context.Context, to partition.NodeID, r PromiseRequest) (PromiseReply, error) {
			data, err := r.Encode()
			if err != nil {
				return PromiseReply{}, err
			}
			got, err := DecodeRequest(data)
			if err != nil {
				return PromiseReply{}, err
			}
			tn.mu.Lock()
			peer, loss := tn.nodes[to], tn.loss
			tn.mu.Unlock()
			if rand.Float64() < loss || peer == nil {
				return PromiseReply{}, errLost
			}
			reply := peer.coordinator.OnAsk(got)
			if rand.Float64() < loss {
				<-ctx.Done()
				return PromiseReply{}, ctx.Err()
			}
			if data, err = reply.Encode(); err != nil {
				return PromiseReply{}, err
			}
			return DecodeReply(data)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tn.mu.Lock()
	defer tn.mu.Unlock()
	tn.nodes[id] = c
	return c
}

// run brings the node to a cluster, and makes it belong to it.
func (tn *town) run(ctx context.Context, c *citizen) {
	outcome, err := c.coordinator.Run(ctx)
	if err != nil {
		return
	}
	c.coordinator.Belong(outcome.ClusterID)
	tn.mu.Lock()
	defer tn.mu.Unlock()
	c.member.ClusterID, c.outcome = outcome.ClusterID, outcome
}

func TestEverybodyComesToOneCluster(t *testing.T) {
	for _, loss := range []float64{0, 0.1, 0.3} {
		for n := 1; n <= 5; n++ {
			t.Run(fmt.Sprintf("%d nodes, loss %v", n, loss), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tn := &town{nodes: map[partition.NodeID]*citizen{}, loss: loss}
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
					defer cancel()
					var all []*citizen
					var running sync.WaitGroup
					for i := range n {
						c := tn.add(t, partition.NodeID(fmt.Sprintf("n%d-aaaa", i)), n)
						all = append(all, c)
						running.Go(func() { tn.run(ctx, c) })
					}
					running.Wait()
					founders := 0
					for _, c := range all {
						if c.outcome.ClusterID == "" || c.outcome.ClusterID != all[0].outcome.ClusterID {
							t.Fatalf("%s came to %q, %s to %q", c.member.ID, c.outcome.ClusterID, all[0].member.ID, all[0].outcome.ClusterID)
						}
						if c.outcome.Founded {
							founders++
						}
					}
					if founders != 1 {
						t.Fatalf("%d founders", founders)
					}
				})
			})
		}
	}
}

func TestAnAskedMemberOfAClusterIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := &town{nodes: map[partition.NodeID]*citizen{}}
		a, b := tn.add(t, "n1-aaaa", 2), tn.add(t, "n2-aaaa", 2)
		b.coordinator.Belong("c-old") // gossip does not show it yet
		tn.run(t.Context(), a)
		if a.outcome.Founded || a.outcome.ClusterID != "c-old" || a.outcome.Via[0] != "n2-aaaa" {
			t.Fatalf("%+v", a.outcome)
		}
	})
}

func TestAFounderAtWorkPromisesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := &town{nodes: map[partition.NodeID]*citizen{}}
		a := tn.add(t, "n1-aaaa", 1)
		outcome, err := a.coordinator.Run(t.Context())
		if err != nil || !outcome.Founded {
			t.Fatal(outcome, err)
		}
		r := PromiseRequest{Format: messageFormat, Formation: "c-x", Founder: "n0-aaaa", To: "n1-aaaa", Set: []partition.NodeID{"n0-aaaa", "n1-aaaa"}}
		time.Sleep(time.Hour)
		if reply := a.coordinator.OnAsk(r); reply.Granted || reply.ClusterID != "" {
			t.Fatalf("%+v", reply)
		}
		if _, err := a.coordinator.Run(t.Context()); err == nil {
			t.Fatal("founding twice")
		}
		a.coordinator.Belong(outcome.ClusterID)
		if reply := a.coordinator.OnAsk(r); reply.ClusterID != outcome.ClusterID {
			t.Fatalf("%+v", reply)
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"format":1,"formation":"c-1","founder":"n1-aaaa","to":"n2-aaaa","set":["n1-aaaa","n2-aaaa"]}`))
	f.Add([]byte(`{"format":1,"formation":"c-1","founder":"n1-aaaa","to":"n1-aaaa","set":["n1-aaaa","n1-aaaa"]}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRequest(data)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatal(err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeRequest(again); err != nil || fmt.Sprint(back) != fmt.Sprint(r) {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	f.Add([]byte(`{"format":1,"formation":"c-1","node":"n1-aaaa","granted":true,"cluster_id":"","reason":""}`))
	f.Add([]byte(`{"format":1,"formation":"c-1","node":"n1-aaaa","granted":true,"cluster_id":"c-2","reason":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeReply(data)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatal(err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeReply(again); err != nil || back != r {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}
