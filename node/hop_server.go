package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/capstan-kv/capstan/api"
	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
)

// transportHopper carries operations to other nodes over the transport.
type transportHopper struct{ transport *transport.Transport }

// hop sends one operation on its marked hop. Its errors are *replication.Error:
// the other node's own refusal, or what is known of the way there.
func (h transportHopper) hop(ctx context.Context, to partition.NodeID, frame []byte) ([]byte, error) {
	answer, err := h.transport.Call(ctx, to, kindHop, frame)
	if err == nil {
		return answer, nil
	}
	var remote *transport.RemoteError
	switch {
	case errors.As(err, &remote):
		refusal, broken := decodeHopError(remote.Payload)
		if broken != nil {
			return nil, broken
		}
		return nil, refusal
	case errors.Is(err, transport.ErrBusy):
		return nil, &replication.Error{
			Reason: replication.Overloaded, Outcome: replication.NotApplied,
			Message: fmt.Sprintf("too many requests wait for %s", to), Try: "retry with a pause", Err: err,
		}
	case notDelivered(err):
		return nil, &replication.Error{
			Reason: replication.NoReplica, Outcome: replication.NotApplied,
			Message: fmt.Sprintf("%s cannot be reached", to), Try: "another node", Err: errors.Join(errNotDelivered, err),
		}
	case ctx.Err() != nil:
		return nil, &replication.Error{
			Reason: replication.Deadline, Outcome: replication.Unknown,
			Message: fmt.Sprintf("out of time while waiting for %s", to), Try: "read the key to see whether it was applied", Err: err,
		}
	}
	return nil, &replication.Error{
		Reason: replication.LeaderChanged, Outcome: replication.Unknown,
		Message: fmt.Sprintf("the connection to %s was lost before its answer", to), Try: "read the key to see whether it was applied", Err: err,
	}
}

// notDelivered tells the transport's definite errors: the call was not handled
// and never will be.
func notDelivered(err error) bool {
	if errors.Is(err, transport.ErrLost) {
		return false // sent, whatever the cause
	}
	for _, definite := range []error{transport.ErrUnreachable, transport.ErrNoHandler, transport.ErrTooLarge, transport.ErrClosed} {
		if errors.Is(err, definite) {
			return true
		}
	}
	return false
}

// hopServer answers operations on their marked hop: from the replica here, or
// not at all.
type hopServer struct {
	local   localReplicas
	cursors *cursors
	count   func() int // partitions; 0 before they are known
	// sessions reads and writes the tokens of what came by a hop.
	sessions *sessions

	// budget bounds what other nodes' requests take up; may be nil. backlog tells how
	// many bytes of answers wait to be sent to a node, which mostBacklog bounds.
	budget      *budget.Budget
	backlog     func(partition.NodeID) int64
	mostBacklog int64

	mu      sync.Mutex
	owners  map[partition.NodeID]*budget.Owner
	waiting map[partition.ID]int // operations under way here
}

// maxPartitionHops bounds the forwarded operations of one partition that are under way
// here: a quarter of what the transport handles at a time, so that a partition that is
// stuck does not have the operations of all others refused.
const maxPartitionHops = 256

// enter counts an operation of a partition in; leave counts it out.
func (s *hopServer) enter(p partition.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[p] >= maxPartitionHops {
		return overloaded(fmt.Errorf("%d forwarded requests wait for partition %d here", s.waiting[p], p))
	}
	if s.waiting == nil {
		s.waiting = map[partition.ID]int{}
	}
	s.waiting[p]++
	return nil
}

func (s *hopServer) leave(p partition.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[p]--; s.waiting[p] == 0 {
		delete(s.waiting, p)
	}
}

const (
	// forwardedWeight is what a forwarded request takes up while it is under way, in
	// its own sizes: the frame, the decoded message, and the command made of it.
	forwardedWeight = 3
	// smallAnswer needs no room in the backlog, in bytes. Answers to writes are smaller:
	// they must not be refused once the write is done.
	smallAnswer = 16 << 10
)

// owner is a node's part of the budget.
func (s *hopServer) owner(of partition.NodeID) *budget.Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.owners[of]
	if o == nil {
		if s.owners == nil {
			s.owners = map[partition.NodeID]*budget.Owner{}
		}
		o = new(budget.Owner)
		s.owners[of] = o
	}
	return o
}

func (s *hopServer) handle(ctx context.Context, from partition.NodeID, frame []byte) ([]byte, error) {
	answer, err := s.bounded(ctx, from, frame)
	if err == nil {
		return answer, nil
	}
	var refusal *replication.Error
	if !errors.As(err, &refusal) {
		// Not a refusal of the group's own: say as little as is certain.
		refusal = &replication.Error{Reason: replication.NoReplica, Outcome: replication.Unknown, Message: "the replica failed", Err: err}
	}
	return nil, &transport.RemoteError{Payload: encodeHopError(refusal)}
}

// bounded answers within the budgets.
func (s *hopServer) bounded(ctx context.Context, from partition.NodeID, frame []byte) ([]byte, error) {
	if s.budget == nil {
		return s.answer(ctx, frame)
	}
	claim, err := s.budget.Claim(s.owner(from), forwardedWeight*int64(len(frame)))
	if err != nil {
		return nil, overloaded(err)
	}
	defer claim.Close()
	ctx = api.WithAdmit(ctx, func(bytes int) error {
		if err := claim.Grow(int64(bytes)); err != nil {
			return overloaded(err)
		}
		return nil
	})
	answer, err := s.answer(ctx, frame)
	if len(answer) > smallAnswer && s.backlog(from)+int64(len(answer)) > s.mostBacklog {
		return nil, overloaded(fmt.Errorf("answers of over %d MiB wait to be sent to the node that asked", s.mostBacklog/mib))
	}
	return answer, err
}

// overloaded is the refusal of what does not fit into a budget: nothing was done, or
// only read.
func overloaded(err error) *replication.Error {
	return &replication.Error{
		Reason: replication.Overloaded, Outcome: replication.NotApplied, Message: err.Error(), Try: "again after a pause",
	}
}

func (s *hopServer) answer(ctx context.Context, frame []byte) ([]byte, error) {
	if len(frame) > 0 {
		switch hopKind(frame[0]) {
		case hopScanOpen:
			return s.scanOpen(ctx, frame[1:])
		case hopScanNext:
			return s.scanNext(ctx, frame[1:])
		case hopTransfer:
			return s.transfer(ctx, frame[1:])
		case hopHeard:
			return s.heard(frame[1:])
		case hopNear:
			return s.near(ctx, frame[1:])
		case hopFate:
			return s.fate(frame[1:])
		case hopConflicts:
			return s.conflicts(frame[1:])
		case hopCheck:
			return s.check(ctx, frame[1:])
		}
	}
	kind, request, err := decodeHop(frame)
	if err != nil {
		return nil, badHop(err)
	}
	id := partition.Of(keyOf(request), max(s.count(), 1))
	if err := s.enter(id); err != nil {
		return nil, err
	}
	defer s.leave(id)
	here, err := s.replica(id)
	if err != nil {
		return nil, err
	}
	var resp proto.Message
	switch req := request.(type) {
	case *capstanv1.GetRequest:
		resp, err = here.get(ctx, req)
	case *capstanv1.PutRequest:
		resp, err = here.put(ctx, req)
	case *capstanv1.DeleteRequest:
		resp, err = here.delete(ctx, req)
	default:
		return nil, badHop(fmt.Errorf("kind %d", kind))
	}
	if err != nil {
		return nil, err
	}
	return proto.Marshal(resp)
}

func keyOf(request proto.Message) []byte {
	if keyed, ok := request.(interface{ GetKey() []byte }); ok {
		return keyed.GetKey()
	}
	return nil
}

func (s *hopServer) replica(p partition.ID) (*replica, error) {
	if s.count() > 0 {
		if here := s.local.replica(p); here != nil {
			if here.failed() {
				return nil, failedHere(p)
			}
			if s.sessions != nil {
				here = here.relaying(s.sessions)
			}
			return here, nil
		}
		if s.local.lost(p) != nil {
			return nil, failedHere(p)
		}
	}
	return nil, &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied, NotLeader: true,
		Message: fmt.Sprintf("this node holds no replica of partition %d", p),
	}
}

// failedHere is the refusal of a replica that serves nothing any more.
func failedHere(p partition.ID) *replication.Error {
	return &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("the replica of partition %d at this node has failed", p), Try: "another node",
	}
}

func (s *hopServer) scanOpen(ctx context.Context, body []byte) ([]byte, error) {
	if len(body) < 4 {
		return nil, badHop(errors.New("scan: cut short"))
	}
	var req capstanv1.ScanRequest
	if err := proto.Unmarshal(body[4:], &req); err != nil {
		return nil, badHop(err)
	}
	here, err := s.replica(partition.ID(binary.BigEndian.Uint32(body)))
	if err != nil {
		return nil, err
	}
	part := partOf(&req)
	part.bytes = pageSize(len(partitionsOf(&req, s.count())))
	source, err := here.openPages(ctx, part)
	if err != nil {
		return nil, err
	}
	first, err := s.cursors.begin(ctx, source)
	if err != nil {
		return nil, err
	}
	return encodePage(first)
}

func (s *hopServer) scanNext(ctx context.Context, body []byte) ([]byte, error) {
	if len(body) != 9 {
		return nil, badHop(errors.New("next page of a scan: wrong length"))
	}
	id := binary.BigEndian.Uint64(body)
	if body[8] != 0 {
		s.cursors.drop(id)
		return encodePage(page{})
	}
	got, err := s.cursors.next(ctx, id)
	if err != nil {
		return nil, err
	}
	return encodePage(got)
}

func badHop(err error) *replication.Error {
	return &replication.Error{Reason: replication.BadOption, Outcome: replication.NotApplied, Message: "forwarded operation not understood", Err: err}
}
