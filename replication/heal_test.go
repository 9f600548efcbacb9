package replication

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/replication/memnet"
)

// wholeCluster is three whole nodes with one group that the first one leads.
func wholeCluster(t *testing.T) (*memnet.Network, []*wholeNode) {
	network := memnet.New()
	network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond})
	var members []Member
	for i := range 3 {
		members = append(members, Member{Node: nodeName(i), Generation: 1})
	}
	var nodes []*wholeNode
	for i := range 3 {
		nodes = append(nodes, startWhole(t, network, vfs.NewMem(), nodeName(i), members, 1))
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			n.close()
		}
	})
	for range 100 {
		if nodes[0].groups[0].Leads() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !nodes[0].groups[0].Leads() {
		t.Fatal("n0 does not lead")
	}
	return network, nodes
}

// A connection that is reset and made anew at once costs no heartbeat, so the
// library sees nothing: its pipelines are dead, and the one trigger that a
// lone write gives is spent on finding that out.
func TestLoneWriteAfterAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := wholeCluster(t)
		leader := nodes[0].groups[0]
		for i := range 20 {
			// At all phases of the heartbeats, and long enough after the last one.
			time.Sleep(3*time.Second + time.Duration(i)*17*time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, err := leader.Propose(ctx, fmt.Appendf(nil, "warm=%d", i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			network.Reset("n0", "n1")
			network.Reset("n0", "n2")
			time.Sleep(50 * time.Millisecond)
			start := time.Now()
			_, err := leader.Propose(ctx, fmt.Appendf(nil, "k=%d", i))
			cancel()
			if took := time.Since(start); err != nil || took > 500*time.Millisecond {
				t.Fatalf("write %d took %v: %v", i, took, err)
			}
		}
	})
}

// A follower that was away while others wrote reads again soon after the heal:
// the library's pauses after failed appends (up to 10 s) must not decide.
func TestReadAtAFollowerSoonAfterALongCut(t *testing.T) {
	for _, away := range []time.Duration{3 * time.Second, 30 * time.Second, 10 * time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network, nodes := wholeCluster(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				leader, follower := nodes[0].groups[0], nodes[2].groups[0]
				network.Isolate("n2")
				for start, i := time.Now(), 0; time.Since(start) < away; i++ {
					if _, err := leader.Propose(ctx, fmt.Appendf(nil, "k=%d", i)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond)
				}
				network.Heal()
				healed := time.Now()
				for {
					attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
					index, err := follower.ReadIndex(attempt)
					if err == nil {
						err = follower.WaitApplied(attempt, index)
					}
					cancel()
					if err == nil {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				if took := time.Since(healed); took > 3*time.Second {
					t.Errorf("cut for %v: the first read took %v", away, took)
				}
			})
		})
	}
}

// A write that is on its way when the connections break is sent again at once,
// although nothing new is proposed and no heartbeat has to fail.
func TestWriteCaughtByAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := wholeCluster(t)
		leader := nodes[0].groups[0]
		for i := range 40 {
			time.Sleep(3*time.Second + time.Duration(i)*17*time.Millisecond)
			go func() {
				time.Sleep(time.Millisecond + time.Duration(i%5)*200*time.Microsecond)
				network.Reset("n0", "n1")
				network.Reset("n0", "n2")
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			start := time.Now()
			_, err := leader.Propose(ctx, fmt.Appendf(nil, "k=%d", i))
			cancel()
			if took := time.Since(start); err != nil || took > 500*time.Millisecond {
				t.Fatalf("write %d took %v: %v", i, took, err)
			}
		}
	})
}

// Handing over to a voter that the leader does not reach fails, each time, and
// leaves the leader able to write: the library, asked twice, would refuse
// proposals until that voter is back.
func TestTransferToSomebodyUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := wholeCluster(t)
		leader := nodes[0].groups[0]
		network.Cut("n0", "n2")
		time.Sleep(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for i := range 3 {
			if _, err := leader.Propose(ctx, []byte("k=v")); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
			var refusal *Error
			if err := leader.TransferLeadership(ctx, "n2"); !errors.As(err, &refusal) || refusal.Outcome != NotApplied || refusal.NotLeader {
				t.Errorf("transfer %d: %v", i, err)
			}
		}
		if _, err := leader.Propose(ctx, []byte("k=v")); err != nil {
			t.Fatal(err)
		}
	})
}

// A leader that stops hands over to a voter that is there, also if the
// library would pick another one, since that lacks nothing either.
func TestCloseHandsOverToTheReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := wholeCluster(t)
		network.Cut("n0", "n1")
		time.Sleep(10 * time.Second)
		go func() { _ = nodes[0].groups[0].Close() }()
		time.Sleep(time.Second)
		if !nodes[2].groups[0].Leads() {
			t.Error("n2 does not lead a second later")
		}
		time.Sleep(20 * time.Second)
	})
}
