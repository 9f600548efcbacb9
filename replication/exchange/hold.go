package exchange

import (
	"context"
	"fmt"
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
	own      bool // this node has it on disk
	unsure   bool // some node may have it, or get it yet, that is not in held
	refusals error
	answers  chan heldBy
}

// heldBy is one node's answer.
type heldBy struct {
	node   partition.NodeID
	unsure bool
	err    error
}

// run returns when enough nodes hold the write, or no more can be asked.
func (h *holding) run(ctx context.Context) ([]partition.NodeID, *replication.Error) {
	if h.order[0] == h.place.x.cfg.Self {
		// First, so that a refusal is definite: nothing was sent yet.
		if err := h.place.keep([]storage.TentativeWrite{h.write}); err != nil {
			return nil, storeError(err)
		}
		h.holdsIt()
		h.next = 1
	}
	if len(h.held) < h.acks {
		h.send(ctx)
	}
	if h.own {
		h.place.handInNow([]storage.TentativeWrite{h.write})
	}
	if len(h.held) >= h.acks {
		return h.held, nil
	}
	return h.held, h.tooFew(ctx)
}

// keep stores the write on this node, if there is room.
func (h *holding) keep() error {
	if err := h.place.x.room(); err != nil {
		return err
	}
	if err := h.place.keep([]storage.TentativeWrite{h.write}); err != nil {
		return err
	}
	h.holdsIt()
	return nil
}

// holdsIt notes that this node has stored the write.
func (h *holding) holdsIt() {
	h.own = true
	h.held = append(h.held, h.place.x.cfg.Self)
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
				h.unsure = h.unsure || a.unsure
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

// last keeps the write here if too few are known to hold it. Time does not
// matter any more: it is a write to the own disk, and better than to leave open
// whether the write is anywhere.
func (h *holding) last() {
	h.unsure = h.unsure || h.underWay > 0
	if h.own || len(h.held) >= h.acks {
		return
	}
	if err := h.keep(); err != nil {
		h.refusals = err
	}
}

// ask has the next node store the write, unless all were asked.
func (h *holding) ask(ctx context.Context) {
	for h.next < len(h.order) {
		node := h.order[h.next]
		// Somebody who holds it has to hand it in at once. If that is not this
		// node it is the first who was asked, and whoever is asked in its place.
		handIn := !h.own && (h.next == 0 || h.next >= h.acks)
		h.next++
		if node == h.place.x.cfg.Self {
			if err := h.keep(); err != nil {
				h.refusals = err
				continue
			}
			return
		}
		h.underWay++
		if !h.place.x.spawn(func() { h.answers <- h.place.give(ctx, node, h.write, handIn) }) {
			h.underWay--
		}
		return
	}
}

// give has another node store a write.
func (pl *place) give(ctx context.Context, node partition.NodeID, w storage.TentativeWrite, handIn bool) heldBy {
	s, err := pl.callStore(ctx, node, storeRequest{pl.partition, handIn, []storage.TentativeWrite{w}})
	switch {
	case err != nil:
		return heldBy{node: node, unsure: true, err: err}
	case s != statusDone:
		return heldBy{node: node, unsure: s == statusFailed, err: fmt.Errorf("%s: %v", node, s)}
	}
	return heldBy{node: node}
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
	if len(h.held) == 0 && !h.unsure {
		return storeError(h.refusals) // all refused, this node too
	}
	e := &replication.Error{Reason: replication.TooFewAcks, Outcome: replication.Unknown,
		Reachable: len(h.held), Needed: h.acks, Err: h.refusals,
		Message: fmt.Sprintf("acks %d were asked for, and %d nodes are known to hold the write", h.acks, len(h.held)),
		Try:     "await the write by its receipt"}
	if err := ctx.Err(); err != nil {
		e.Reason, e.Err = replication.Deadline, err
	}
	return e
}
