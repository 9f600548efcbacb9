package exchange

import (
	"context"
	"fmt"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

type handler = func(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error)

// handlers are who answers other nodes, by kind.
func (x *Exchange) handlers() map[uint8]handler {
	return map[uint8]handler{
		KindStore: x.guard(x.handleStore), KindHandIn: x.guard(x.handleHandIn),
		KindOffer: x.guard(x.handleOffer), KindDecide: x.guard(x.handleDecide),
	}
}

// guard makes Close wait for h, and h end with Close. What a removed node still
// says does not count: what it had accepted and handed to nobody is lost.
func (x *Exchange) guard(h handler) handler {
	return func(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
		if ring := x.cfg.Ring(); ring != nil && ring.Removed(from) {
			return nil, fmt.Errorf("%s was removed from the cluster", from)
		}
		if !x.enter() {
			return nil, closed()
		}
		defer x.leave()
		ctx, cancel := x.during(ctx)
		defer cancel()
		return h(ctx, from, payload)
	}
}

// addressed is the place of a partition that another node names; nil if there
// is no such partition.
func (x *Exchange) addressed(p partition.ID) (*place, error) {
	ring := x.cfg.Ring()
	if ring == nil || int64(p) >= int64(ring.Partitions()) {
		return nil, nil
	}
	return x.place(p)
}

func (x *Exchange) handleStore(_ context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeStoreRequest(payload)
	if err != nil {
		return nil, err
	}
	pl, err := x.addressed(m.partition)
	if err != nil {
		return nil, err
	}
	if pl == nil {
		return storeAnswer{status: statusElsewhere}.encode(), nil
	}
	if err := x.checkWrites(m.partition, m.writes); err != nil {
		return nil, err
	}
	s, fresh := pl.store(m.writes)
	if len(fresh) > 0 {
		x.emit(Received{pl.partition, from, len(fresh)})
		if m.handIn {
			pl.handInNow(fresh)
		}
	}
	return storeAnswer{s, pl.log.Heard()}.encode(), nil
}

// checkWrites refuses writes that no node accepts: a key of another partition, or a
// timestamp that no clock gives. What comes by a hand-in is judged where it is
// applied, for ever.
func (x *Exchange) checkWrites(p partition.ID, writes []storage.TentativeWrite) error {
	r := storage.Replica{Group: storage.GroupOf(p)}
	for i := range writes {
		if w := &writes[i].Tentative; !storage.TakesWrite(r, x.cfg.Ring().Partitions(), w) {
			return malformed("write %v is none of partition %d, or its timestamp is beyond %v", w.Dot, p, hlc.Horizon.Time().UTC())
		}
	}
	return nil
}

func (x *Exchange) handleHandIn(ctx context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeHandInRequest(payload)
	if err != nil {
		return nil, err
	}
	pl, err := x.addressed(m.partition)
	if err != nil {
		return nil, err
	}
	if pl == nil {
		return handInAnswer{status: statusElsewhere}.encode(), nil
	}
	return pl.lead.promote(ctx, m.writes).encode(), nil
}

func (x *Exchange) handleOffer(_ context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeOfferRequest(payload)
	if err != nil {
		return nil, err
	}
	pl, err := x.addressed(m.partition)
	if err != nil {
		return nil, err
	}
	if pl == nil {
		return offerAnswer{statusElsewhere, &storage.DotSet{}}.encode(), nil
	}
	return offerAnswer{statusDone, pl.offered(from, m.dots)}.encode(), nil
}

func (x *Exchange) handleDecide(ctx context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeDecideRequest(payload)
	if err != nil {
		return nil, err
	}
	pl, err := x.addressed(m.partition)
	if err != nil {
		return nil, err
	}
	if pl == nil {
		return decideAnswer{statusElsewhere, 0, m.dots}.encode(), nil
	}
	index, left := pl.decide(ctx, m.dots, m.promote)
	return decideAnswer{statusDone, index, left}.encode(), nil
}
