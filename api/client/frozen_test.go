package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

// A definite "no quorum" is the answer: a call does not become one of unknown
// outcome at nodes that are frozen.
func TestNoQuorumBesideFrozenNodes(t *testing.T) {
	f := newFakeCluster(3, 1)
	thaw := make(chan struct{})
	defer f.close()
	defer close(thaw)
	f.nodes[0].failWith(func(op string) error {
		if op == "status" {
			return nil
		}
		return failure(connect.CodeUnavailable, "no quorum", notApplied(capstanv1.Reason_REASON_NO_QUORUM))
	})
	for _, n := range f.nodes[1:] {
		n.failWith(func(string) error {
			<-thaw
			return errors.New("thawed")
		})
	}
	c, err := client.New(client.Options{Endpoints: f.endpoints(), NoRing: true, NoSession: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.Put(ctx, []byte("k"), []byte("v")); !errors.Is(err, client.ErrNoQuorum) || !client.IsNotApplied(err) {
		t.Errorf("put: %v, not applied %v", err, client.IsNotApplied(err))
	}
	if a, b := f.nodes[1].count("put"), f.nodes[2].count("put"); a+b != 0 {
		t.Errorf("the write was sent to frozen nodes: %d, %d", a, b)
	}
	again, cancelAgain := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancelAgain()
	if _, err := c.Get(again, []byte("k")); !errors.Is(err, client.ErrNoQuorum) {
		t.Errorf("get: %v", err)
	}
}
