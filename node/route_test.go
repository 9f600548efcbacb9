package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// noneOpen is a node whose replicas are not open yet, or any more.
type noneOpen struct{}

func (noneOpen) replica(partition.ID) *replica { return nil }
func (noneOpen) lost(partition.ID) *outage     { return nil }

// hops counts where operations were sent; nobody answers.
type hops map[partition.NodeID]int

func (h hops) hop(_ context.Context, to partition.NodeID, _ []byte) ([]byte, error) {
	h[to]++
	return nil, &replication.Error{Reason: replication.NoReplica, Outcome: replication.NotApplied, Message: "unreachable", Err: errNotDelivered}
}

// Between the placement and the opening of a replica, requests for it wait or
// go elsewhere.
func TestRequestsBeforeTheReplicaIsOpen(t *testing.T) {
	for _, others := range [][]partition.NodeID{nil, {"n2", "n3"}} {
		synctest.Test(t, func(t *testing.T) {
			replicas := []control.Replica{{Node: "n1", Generation: 1, Voter: true}}
			for _, other := range others {
				replicas = append(replicas, control.Replica{Node: other, Generation: 1, Voter: true})
			}
			ring := &control.State{ClusterID: "c", Partitions: []control.Partition{{Replicas: replicas}}}
			sent := hops{}
			r := newRouter("n1", func() *control.State { return ring }, sent, noneOpen{})
			r.hints[0] = "n1"
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, read := r.Get(ctx, &capstanv1.GetRequest{Key: []byte("k")})
			_, write := r.Put(ctx, &capstanv1.PutRequest{Key: []byte("k")})
			for _, err := range []error{read, write} {
				var refusal *replication.Error
				if !errors.As(err, &refusal) || refusal.Outcome != replication.NotApplied {
					t.Errorf("%v", err)
				}
			}
			for _, other := range others {
				if sent[other] == 0 {
					t.Errorf("%s was not asked", other)
				}
			}
		})
	}
}

// A scan that fits into its first page keeps no view open for a second trip.
func TestAScanOfOnePageLeavesNoCursor(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		fourth.mustPut("{t}a", "x")
		source, err := fourth.running().router.open(t.Context(), partition.Of([]byte("{t}"), 4), scanPart{start: []byte("{t}"), end: []byte("{u}")})
		if err != nil {
			t.Fatal(err)
		}
		w.noCursors()
		if page, err := source.next(t.Context()); err != nil || len(page) != 1 {
			t.Errorf("first page: %d entries, %v", len(page), err)
		}
		if page, err := source.next(t.Context()); err != nil || len(page) != 0 {
			t.Errorf("second page: %d entries, %v", len(page), err)
		}
		source.close()
	})
}
