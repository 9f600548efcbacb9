package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// blind is an eventual write on its way to the node that accepts it: a put or
// delete without a condition.
type blind struct {
	delete bool
	acks   uint8
	base   uint64        // the highest index of the partition that was heard of on the way
	after  hlc.Timestamp // the write gets a higher timestamp
	key    []byte
	value  []byte
}

func (r *router) putEventual(ctx context.Context, req *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	return r.writeEventual(ctx, blind{key: req.GetKey(), value: req.GetValue()}, req.GetAcks(), req.GetSession())
}

func (r *router) deleteEventual(ctx context.Context, req *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	resp, err := r.writeEventual(ctx, blind{delete: true, key: req.GetKey()}, req.GetAcks(), req.GetSession())
	if err != nil {
		return nil, err
	}
	return &capstanv1.DeleteResponse{
		Version: resp.GetVersion(), Receipt: resp.GetReceipt(), Session: resp.GetSession(),
		ServedBy: resp.GetServedBy(), Base: resp.GetBase(),
	}, nil
}

// writeEventual has w accepted by the replica here; by the first node with a
// replica that can be reached, if there is none; and by this node alone, as a
// hint, if no replica can be reached.
func (r *router) writeEventual(ctx context.Context, w blind, acks uint32, token string) (*capstanv1.PutResponse, error) {
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
	p := partition.Of(w.key, len(ring.Partitions))
	if err := r.sessions.room(token); err != nil {
		return nil, err
	}
	w.acks, w.base, w.after = uint8(max(acks, 1)), past.Index(p), past.Highest()
	resp, err := r.accept(ctx, ring, p, w)
	return r.written(p, past, resp, err)
}

// accept finds the node that accepts w.
func (r *router) accept(ctx context.Context, ring *control.State, p partition.ID, w blind) (*capstanv1.PutResponse, error) {
	if here := r.local.replica(p); here != nil && !here.failed() {
		return r.acceptHere(ctx, p, w)
	}
	held, err := r.exchange.Tentative(p)
	if err != nil {
		return nil, err
	}
	passed := w
	// Who accepts it on this node's behalf has heard of what this node has.
	passed.base, passed.after = max(w.base, held.Heard()), max(w.after, held.Newest(w.key))
	frame := passed.frame()
	for _, node := range r.nearest(ring, p) {
		answer, err := r.peers.hop(ctx, node, frame)
		var refusal *replication.Error
		switch {
		case err == nil:
			resp := new(capstanv1.PutResponse)
			if err := proto.Unmarshal(answer, resp); err != nil {
				return nil, fmt.Errorf("answer of %s: %w", node, err)
			}
			return resp, nil
		case errors.As(err, &refusal) && refusal.Outcome == replication.NotApplied && elsewhere(refusal):
			continue
		case errors.As(err, &refusal) && refusal.Outcome == replication.Unknown && refusal.Receipt == "":
			// The node may have accepted it, and gave no receipt. To accept it
			// once more would make two writes of one.
			told := *refusal
			told.Try = "read the key to see whether it was accepted"
			return nil, &told
		}
		return nil, err
	}
	return r.acceptHere(ctx, p, w)
}

// elsewhere says that a node refused for a reason that another need not have.
func elsewhere(e *replication.Error) bool {
	return errors.Is(e, errNotDelivered) || e.Reason == replication.NoReplica || e.Reason == replication.Stopping ||
		e.Reason == replication.Overloaded || e.Reason == replication.DiskFull
}

// acceptHere has this node accept w. On errors of unknown outcome the receipt
// is part of the error.
func (r *router) acceptHere(ctx context.Context, p partition.ID, w blind) (*capstanv1.PutResponse, error) {
	if err := r.diskFull(); err != nil {
		return nil, err
	}
	done, err := r.exchange.Accept(ctx, exchange.Write{
		Partition: p, Key: w.key, Value: w.value, Delete: w.delete, Acks: int(w.acks), Base: w.base, After: w.after,
	})
	var refusal *replication.Error
	if err != nil && (!errors.As(err, &refusal) || refusal.Outcome == replication.NotApplied) {
		return nil, err
	}
	codec, broken := r.sessions.codec()
	if broken != nil {
		return nil, broken
	}
	receipt, broken := codec.EncodeReceipt(session.Receipt{Partition: p, Dot: done.Dot, Base: done.Base, Timestamp: done.Timestamp})
	if broken != nil {
		return nil, broken
	}
	if err != nil {
		told := *refusal
		told.Receipt, told.Try = receipt, "capstan await "+receipt
		return nil, &told
	}
	return &capstanv1.PutResponse{
		Version: versionMessage(storage.Version{Timestamp: done.Timestamp, Node: done.Dot.Node}),
		Receipt: receipt, Base: done.Base, ServedBy: nameOf(r.ring(), r.self),
	}, nil
}

// written adds the write to the session, whether it is known to be where it
// was wanted or not.
func (r *router) written(p partition.ID, past *session.Token, resp *capstanv1.PutResponse, err error) (*capstanv1.PutResponse, error) {
	text := resp.GetReceipt()
	var refusal *replication.Error
	if errors.As(err, &refusal) {
		text = refusal.Receipt
	}
	if text == "" {
		return resp, err
	}
	receipt, broken := r.sessions.receipt(text)
	if broken != nil {
		return nil, fmt.Errorf("receipt of partition %d: %w", p, broken)
	}
	past.Tentative(p, receipt.Dot, receipt.Base, receipt.Timestamp)
	r.exchange.Hear(p, receipt.Base)
	token, broken := r.sessions.token(past)
	if broken != nil {
		return nil, broken
	}
	if err != nil {
		told := *refusal
		told.Session = token
		return nil, &told
	}
	resp.Session = token
	return resp, nil
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

// The frame of an eventual write on its marked hop:
//
//	kind (1) | flags (1) | acks (1) | base (8) | after (8) | key length (2) | key | value
//
// with all numbers big endian. The value runs to the end.
const (
	blindHeader      = 1 + 1 + 1 + 8 + 8 + 2
	blindDelete byte = 1 << 0
)

func (w blind) frame() []byte {
	b := make([]byte, 0, blindHeader+len(w.key)+len(w.value))
	var flags byte
	if w.delete {
		flags |= blindDelete
	}
	b = append(b, byte(hopBlind), flags, w.acks)
	b = binary.BigEndian.AppendUint64(b, w.base)
	b = binary.BigEndian.AppendUint64(b, uint64(w.after))
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.key)))
	b = append(b, w.key...)
	return append(b, w.value...)
}

// decodeBlind reads a frame without its kind. Key and value are parts of it.
func decodeBlind(b []byte) (blind, error) {
	if len(b) < blindHeader-1 {
		return blind{}, errors.New("eventual write: cut short")
	}
	w := blind{
		delete: b[0]&blindDelete != 0, acks: b[1],
		base: binary.BigEndian.Uint64(b[2:]), after: hlc.Timestamp(binary.BigEndian.Uint64(b[10:])),
	}
	n, rest := int(binary.BigEndian.Uint16(b[18:])), b[20:]
	switch {
	case b[0]&^blindDelete != 0:
		return blind{}, fmt.Errorf("eventual write: unknown flags %#x", b[0])
	case w.acks == 0:
		return blind{}, errors.New("eventual write: no acks")
	case n == 0 || n > storage.MaxKeyBytes || n > len(rest):
		return blind{}, fmt.Errorf("eventual write: key of %d bytes, %d left", n, len(rest))
	}
	w.key, w.value = rest[:n:n], rest[n:]
	if w.delete && len(w.value) > 0 {
		return blind{}, errors.New("eventual write: a delete with a value")
	}
	return w, nil
}

// blind accepts an eventual write that came by a hop, if there is a replica here.
func (s *hopServer) blind(ctx context.Context, body []byte) ([]byte, error) {
	w, err := decodeBlind(body)
	if err != nil {
		return nil, badHop(err)
	}
	p := partition.Of(w.key, max(s.count(), 1))
	here, err := s.replica(p)
	if err != nil {
		return nil, err
	}
	if here.failed() {
		return nil, here.group.Refuses()
	}
	resp, err := s.router.acceptHere(ctx, p, w)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(resp)
}
