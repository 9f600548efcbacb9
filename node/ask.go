package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

const (
	// askHedge is how long nobody may have answered before one more node is asked:
	// far above a healthy round trip, and short beside a request's deadline.
	askHedge = 100 * time.Millisecond
	// askPatience is how long the last of the nodes is waited for. Those that wait
	// for their own replica first (catchUpWait) have answered by then; who has not
	// is silent, which is found out much later by itself.
	askPatience = 750 * time.Millisecond
)

// asking is how nodes are asked for what any of them may know.
type asking struct {
	nodes    []partition.NodeID // the preferred first
	count    int                // that many answers are wanted
	patience time.Duration      // how long the last of the nodes is waited for
}

// answered is one node's answer.
type answered[A any] struct {
	from   partition.NodeID
	answer A
}

// askInTurn asks as many nodes as answers are wanted, one more for each that
// refuses, and one more each time nobody has answered for a while: a node that
// is silent must not use up the time of a request. The answers are in the order
// in which they came, and may be fewer than wanted; there is one more than wanted if
// two came at the same time.
//
// refused is why a node refused, if one did, rather than that it could not be
// reached.
func askInTurn[A any](ctx context.Context, a asking, ask func(context.Context, partition.NodeID) (A, error)) (found []answered[A], refused error) {
	type result struct {
		answered[A]
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(a.nodes))
	var calls sync.WaitGroup
	next, underWay := 0, 0
	begin := func() {
		if next == len(a.nodes) {
			return
		}
		node := a.nodes[next]
		next++
		underWay++
		calls.Go(func() {
			answer, err := ask(ctx, node)
			results <- result{answered[A]{node, answer}, err}
		})
	}
	take := func(r result) {
		underWay--
		switch {
		case r.err == nil:
			found = append(found, r.answered)
		case refused == nil || !isRefusal(refused) && isRefusal(r.err):
			refused = r.err
		}
	}
	defer func() {
		cancel()
		calls.Wait() // at once: what they wait for is the network
		for underWay > 0 {
			take(<-results)
		}
	}()
	for range a.count {
		begin()
	}
	pause := time.NewTimer(a.pause(next))
	defer pause.Stop()
	for len(found) < a.count && underWay > 0 {
		select {
		case r := <-results:
			take(r)
			if r.err == nil {
				continue
			}
			begin()
		case <-pause.C:
			if next == len(a.nodes) {
				return found, refused
			}
			begin()
		case <-ctx.Done():
			return found, refused
		}
		pause.Reset(a.pause(next))
	}
	return found, refused
}

// pause is how long there is patience once so many were asked.
func (a asking) pause(asked int) time.Duration {
	if asked < len(a.nodes) {
		return askHedge
	}
	return a.patience
}

// isRefusal tells a node's own refusal from what happened on the way to it.
func isRefusal(err error) bool {
	var e *replication.Error
	return errors.As(err, &e) && e.Outcome == replication.NotApplied && !errors.Is(err, errNotDelivered)
}
