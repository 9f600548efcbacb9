package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

func (r *router) putEventual(ctx context.Context, req *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	return r.writeEventual(ctx, exchange.Write{Key: req.GetKey(), Value: req.GetValue()}, req.GetAcks(), req.GetSession())
}

func (r *router) deleteEventual(ctx context.Context, req *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	resp, err := r.writeEventual(ctx, exchange.Write{Delete: true, Key: req.GetKey()}, req.GetAcks(), req.GetSession())
	if err != nil {
		return nil, err
	}
	return &capstanv1.DeleteResponse{
		Version: resp.GetVersion(), Receipt: resp.GetReceipt(), Session: resp.GetSession(),
		ServedBy: resp.GetServedBy(), Base: resp.GetBase(),
	}, nil
}

// writeEventual has this node accept w: it makes the write what it is, and the
// exchange finds who is to hold it. So nothing that is lost on the way to another
// node can make two writes of one, or leave open whether there is any.
func (r *router) writeEventual(ctx context.Context, w exchange.Write, acks uint32, token string) (*capstanv1.PutResponse, error) {
	past, err := r.sessions.past(token)
	if err != nil {
		return nil, err
	}
	ring := r.ring()
	if !ring.Placed() {
		return nil, notInCluster()
	}
	if factor := ring.Settings.ReplicationFactor; acks > uint32(factor) {
		return nil, badOption("acks %d: the replication factor is %d", acks, factor)
	}
	if err := r.sessions.room(token, past); err != nil {
		return nil, err
	}
	codec, err := r.sessions.codec()
	if err != nil {
		return nil, err
	}
	p := partition.Of(w.Key, len(ring.Partitions))
	w.Partition, w.Acks, w.Base, w.After = p, int(max(acks, 1)), past.Index(p), past.Highest()
	done, err := r.accept(ctx, ring, past, w)
	if errors.Is(err, storage.ErrStateDamaged) {
		done, err = r.accept(ctx, ring, past, w) // without the replica, which has failed now
	}
	var refusal *replication.Error
	if err != nil && (!errors.As(err, &refusal) || refusal.Outcome == replication.NotApplied) {
		return nil, err
	}
	// From here on there may be a write, which an error must not deny.
	receipt, broken := codec.EncodeReceipt(session.Receipt{Partition: p, Dot: done.Dot, Base: done.Base, Timestamp: done.Timestamp})
	if broken != nil {
		return nil, untold(broken)
	}
	r.sessions.tidy(p, past)
	if len(done.Held) > 0 {
		past.Tentative(p, done.Dot, done.Base, done.Timestamp)
	} else { // perhaps nobody has it: a session that waited for it might wait forever
		past.Observe(done.Timestamp)
	}
	token, broken = r.sessions.token(past)
	switch {
	case err != nil:
		told := *refusal
		told.Receipt, told.Session, told.Try = receipt, token, "capstan await "+receipt
		return nil, &told
	case broken != nil:
		told := untold(broken)
		told.Receipt, told.Try = receipt, "capstan await "+receipt
		return nil, told
	}
	return &capstanv1.PutResponse{
		Version: versionMessage(storage.Version{Timestamp: done.Timestamp, Node: done.Dot.Node}),
		Receipt: receipt, Base: done.Base, Session: token, ServedBy: nameOf(ring, done.Held[0]),
	}, nil
}

// accept has the exchange accept w. Where no replica serves here, others are asked
// first what it should have heard of.
func (r *router) accept(ctx context.Context, ring *control.State, past *session.Token, w exchange.Write) (exchange.Accepted, error) {
	p := w.Partition
	if r.serving(p) == nil {
		heard, answered := r.heardThere(ctx, ring, p, w.Key)
		w.Base, w.After = max(w.Base, heard.index), max(w.After, heard.newest)
		if !answered && !past.Empty() && !past.Knows(p) {
			log, err := r.exchange.Tentative(p)
			if err != nil {
				return exchange.Accepted{}, err
			}
			if _, covers := log.Saved(); !covers {
				return exchange.Accepted{}, justJoined(p)
			}
		}
	}
	return r.exchange.Accept(ctx, w)
}

// justJoined refuses a write of a session that may have seen more than this node
// has heard of: with the base that the write would get it could lose to what the
// session has seen, or wrote before.
func justJoined(p partition.ID) *replication.Error {
	return &replication.Error{
		Reason: replication.SessionBehind, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("this node has just joined, reaches no replica of partition %d, "+
			"and has not heard yet of all that this session may have seen there", p),
		Try: "another node, again when this node reaches others, or without the session",
	}
}

// heardThere is what another node's replica of p has heard of: a write that is
// accepted here, where there is no replica, has heard of that too. If nobody
// answers soon, the write has heard of what this node has.
func (r *router) heardThere(ctx context.Context, ring *control.State, p partition.ID, key []byte) (found heard, answered bool) {
	nodes := r.nearest(ring, p)
	leader := r.hint(p) // it knows of more than the others
	slices.SortStableFunc(nodes, func(a, b partition.NodeID) int { return b2i(b == leader) - b2i(a == leader) })
	frame := append([]byte{byte(hopHeard)}, key...)
	answers, _ := askInTurn(ctx, asking{nodes, 1, askHedge}, func(ctx context.Context, node partition.NodeID) (heard, error) {
		answer, err := r.peers.hop(ctx, node, frame)
		if err != nil {
			return heard{}, err
		}
		return decodeHeard(answer)
	})
	for _, a := range answers {
		found.index, found.newest = max(found.index, a.answer.index), max(found.newest, a.answer.newest)
	}
	return found, len(answers) > 0
}

// nearest are the other nodes that hold a replica of p and are worth asking:
// a silent one would only use up the time of the request.
func (r *router) nearest(ring *control.State, p partition.ID) []partition.NodeID {
	var nodes []partition.NodeID
	for _, placed := range ring.Partitions[p].Replicas {
		if node, ok := ring.Node(placed.Node); ok && placed.Node != r.self && node.State != control.Left && r.heard(placed.Node) {
			nodes = append(nodes, placed.Node)
		}
	}
	return nodes
}

// heard is what a node with a replica has heard of: an index of the partition,
// and the highest timestamp of one key.
type heard struct {
	index  uint64
	newest hlc.Timestamp
}

// The frame: index (8) | timestamp (8), big endian. The question is a key.
func (h heard) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, h.index), uint64(h.newest))
}

func decodeHeard(b []byte) (heard, error) {
	if len(b) != 16 {
		return heard{}, errors.New("what a node has heard of: wrong length")
	}
	return heard{binary.BigEndian.Uint64(b), hlc.Timestamp(binary.BigEndian.Uint64(b[8:]))}, nil
}

// heard answers for the replica here.
func (s *hopServer) heard(key []byte) ([]byte, error) {
	if len(key) == 0 || len(key) > storage.MaxKeyBytes {
		return nil, badHop(fmt.Errorf("key of %d bytes", len(key)))
	}
	here, err := s.replica(partition.Of(key, max(s.count(), 1)))
	if err != nil {
		return nil, err
	}
	log, err := here.exchange.Tentative(here.partition)
	if err != nil {
		return nil, err
	}
	// The index before the timestamp: a version that comes up in between is one
	// that the write has not heard of, and still it is not below it.
	applied, _ := here.state.Applied()
	index := max(applied, log.Heard())
	newest, err := (storage.Local{State: here.state, Log: log}).Newest(key)
	if err != nil {
		return nil, here.unread(err)
	}
	return heard{index, newest}.encode(), nil
}
