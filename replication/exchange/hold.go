package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// holdHedge is how long a node may take to store a write before another one
	// is asked as well: far above a healthy round trip with its fsync, and short
	// beside a request's deadline.
	holdHedge = 150 * time.Millisecond
	// holdTimeout bounds one call.
	holdTimeout = 2 * time.Second
)

// holding has one write stored by enough nodes.
type holding struct {
	place *place
	write storage.TentativeWrite
	order []partition.NodeID // who may hold it, this node among them
	acks  int

	next     int // in order
	underWay int
	held     []partition.NodeID
	unborn   bool       // nothing was stored or sent
	late     chan error // set if the request ended while this node was storing the write
	refusals error
	answers  chan heldBy
}

// heldBy is one node's answer.
type heldBy struct {
	node partition.NodeID
	err  error
}

// run returns when enough nodes hold the write, or no more can be asked.
func (h *holding) run(ctx context.Context) ([]partition.NodeID, *replication.Error) {
	// First, so that a refusal is definite: nothing was sent yet. This node keeps
	// the write also where it is not one of those that are asked for, having no
	// replica: what it has accepted it shows, whoever answers its reads.
	if failed := h.keepHere(ctx); failed != nil {
		return nil, failed
	}
	if h.order[0] == h.place.x.cfg.Self {
		h.held, h.next = append(h.held, h.order[0]), 1
	}
	if len(h.held) < h.acks {
		during, cancel := h.place.x.during(ctx)
		defer cancel()
		ctx = during
		h.send(ctx)
	}
	h.place.handInNow([]storage.TentativeWrite{h.write})
	if len(h.held) >= h.acks {
		return h.held, nil
	}
	return h.held, h.tooFew(ctx)
}

// keepHere stores the write at this node. A disk that hangs does not hold the
// request up beyond its end: the write may then be on the disk, now or later.
func (h *holding) keepHere(ctx context.Context) *replication.Error {
	stored := make(chan error, 1)
	if !h.place.x.spawn(func() { stored <- h.place.keep([]storage.TentativeWrite{h.write}) }) {
		h.unborn = true
		return closed()
	}
	select {
	case err := <-stored:
		if err == nil {
			return nil
		}
		h.unborn = errors.Is(err, storage.ErrTentativeFull)
		return storeError(err)
	case <-ctx.Done():
		h.late = stored
		return &replication.Error{Reason: replication.Deadline, Outcome: replication.Unknown, Err: ctx.Err(),
			Message: "out of time while this node's disk stored the write", Try: "await the write by its receipt"}
	}
}

// send asks nodes in order, as many at a time as are still needed, one more for
// each that fails, and one more each time none has answered for a while.
func (h *holding) send(ctx context.Context) {
	calls, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	h.answers = make(chan heldBy, len(h.order))
	hedge := time.NewTimer(holdHedge)
	defer hedge.Stop()
	for range h.acks - len(h.held) {
		h.ask(calls)
	}
	for len(h.held) < h.acks && h.underWay > 0 {
		select {
		case a := <-h.answers:
			h.underWay--
			if a.err != nil {
				h.refusals = a.err
				h.ask(calls)
				continue
			}
			h.held = append(h.held, a.node)
		case <-hedge.C:
			h.ask(calls)
			hedge.Reset(holdHedge)
		case <-calls.Done():
			h.last()
			return
		}
	}
	h.last()
}

// last counts this node too, if too few others are known to hold the write.
func (h *holding) last() {
	if self := h.place.x.cfg.Self; len(h.held) < h.acks && !slices.Contains(h.held, self) {
		h.held = append(h.held, self)
	}
}

// ask has the next node store the write, unless all were asked.
func (h *holding) ask(ctx context.Context) {
	if h.next == len(h.order) {
		return
	}
	node := h.order[h.next]
	// The first who is asked by a node without a replica hands the write in too: it
	// may reach a leader that this node does not.
	handIn := h.write.Hint && h.next == 0
	h.next++
	if node == h.place.x.cfg.Self {
		h.held = append(h.held, node) // it has it already
		return
	}
	h.underWay++
	if !h.place.x.spawn(func() { h.answers <- h.place.give(ctx, node, h.write, handIn) }) {
		h.underWay--
	}
}

// give has another node store a write.
func (pl *place) give(ctx context.Context, node partition.NodeID, w storage.TentativeWrite, handIn bool) heldBy {
	s, err := pl.callStore(ctx, node, storeRequest{pl.partition, handIn, []storage.TentativeWrite{w}})
	if err == nil && s != statusDone {
		err = fmt.Errorf("%s: %v", node, s)
	}
	return heldBy{node, err}
}

func (pl *place) callStore(ctx context.Context, node partition.NodeID, m storeRequest) (status, error) {
	b, err := pl.x.cfg.Peers.Call(ctx, node, KindStore, m.encode())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", node, err)
	}
	a, err := decodeStoreAnswer(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", node, err)
	}
	pl.log.Hear(a.heard)
	return a.status, nil
}

// tooFew is why the write is held by fewer nodes than asked for.
func (h *holding) tooFew(ctx context.Context) *replication.Error {
	e := &replication.Error{Reason: replication.TooFewAcks, Outcome: replication.Unknown,
		Reachable: len(h.held), Needed: h.acks, Err: h.refusals,
		Message: fmt.Sprintf("acks %d were asked for, and %d nodes are known to hold the write", h.acks, len(h.held)),
		Try:     "await the write by its receipt"}
	if err := ctx.Err(); err != nil {
		e.Reason, e.Err = replication.Deadline, err
	}
	return e
}
