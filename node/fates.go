package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// firstLook and lastLook bound the pause between two looks at the fate of a
	// write: most are decided within some milliseconds.
	firstLook = 2 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// AwaitWrite answers api.KV: as soon as the fate of the write is known, and at
// the end of the wait that it is pending.
func (r *router) AwaitWrite(ctx context.Context, req *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error) {
	receipt, err := r.sessions.receipt(req.GetReceipt())
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(req.GetWait().AsDuration())
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		resp, err := r.fate(ctx, receipt)
		left := time.Until(until)
		if err != nil || resp.GetFate() != capstanv1.Fate_FATE_PENDING || left <= 0 {
			return resp, err
		}
		timer := time.NewTimer(min(pause, left))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return resp, nil // pending, as far as is known
		}
	}
}

// fate asks the replicas, the one here first, until one knows that the write is
// decided. Pending is the answer only if a replica says so, or if this node
// holds the write itself.
func (r *router) fate(ctx context.Context, receipt session.Receipt) (*capstanv1.AwaitWriteResponse, error) {
	ring := r.ring()
	p := receipt.Partition
	var pending *capstanv1.AwaitWriteResponse
	if here := r.local.replica(p); here != nil && !here.failed() {
		resp, err := here.fate(receipt.Dot)
		if err != nil || resp.GetFate() != capstanv1.Fate_FATE_PENDING {
			return resp, err
		}
		pending = resp
	}
	held, err := r.exchange.Tentative(p)
	if err != nil {
		return nil, err
	}
	if pending == nil && held.Holds(receipt.Dot) {
		pending = &capstanv1.AwaitWriteResponse{Fate: capstanv1.Fate_FATE_PENDING, ServedBy: nameOf(ring, r.self)}
	}
	if pending != nil && held.Holds(receipt.Dot) && r.local.replica(p) != nil {
		return pending, nil // it leaves when the replica here has applied its fate
	}
	frame := appendDot(binary.BigEndian.AppendUint32([]byte{byte(hopFate)}, uint32(p)), receipt.Dot)
	for _, node := range r.nearest(ring, p) {
		answer, err := r.peers.hop(ctx, node, frame)
		if err != nil {
			continue // another one may know
		}
		resp := new(capstanv1.AwaitWriteResponse)
		if err := proto.Unmarshal(answer, resp); err != nil {
			return nil, fmt.Errorf("answer of %s: %w", node, err)
		}
		if resp.GetFate() != capstanv1.Fate_FATE_PENDING {
			return resp, nil
		}
		pending = resp
	}
	if pending == nil {
		return nil, noReplica(ring, r.self, p, "")
	}
	return pending, nil
}

// fate is what the replica here has applied of the write.
func (h *replica) fate(d storage.Dot) (*capstanv1.AwaitWriteResponse, error) {
	fate, err := h.state.Fate(d)
	if err != nil {
		return nil, fmt.Errorf("fate of a write of partition %d: %w", h.partition, err)
	}
	resp := &capstanv1.AwaitWriteResponse{Fate: capstanv1.Fate(fate.Kind), ServedBy: h.servedBy}
	if !fate.Version.IsZero() {
		resp.Version = versionMessage(fate.Version)
	}
	seen := new(session.Token)
	if fate.Kind != storage.FatePending {
		seen.Saw(h.partition, fate.Index)
		seen.Observe(fate.Version.Timestamp)
	}
	resp.Session, err = h.sessions.token(seen)
	return resp, err
}

func appendDot(b []byte, d storage.Dot) []byte {
	b = binary.BigEndian.AppendUint64(b, d.Incarnation)
	b = binary.BigEndian.AppendUint64(b, d.Sequence)
	return append(b, d.Node...)
}

func decodeDot(b []byte) (storage.Dot, error) {
	if len(b) < 17 || len(b) > 16+storage.MaxNodeIDBytes {
		return storage.Dot{}, errors.New("dot of a wrong length")
	}
	return storage.Dot{
		Incarnation: binary.BigEndian.Uint64(b), Sequence: binary.BigEndian.Uint64(b[8:]), Node: partition.NodeID(b[16:]),
	}, nil
}

func (s *hopServer) fate(body []byte) ([]byte, error) {
	if len(body) < 4 {
		return nil, badHop(errors.New("fate: cut short"))
	}
	d, err := decodeDot(body[4:])
	if err != nil {
		return nil, badHop(err)
	}
	here, err := s.replica(partition.ID(binary.BigEndian.Uint32(body)))
	if err != nil {
		return nil, err
	}
	resp, err := here.fate(d)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(resp)
}

// conflictPage is how many conflicts travel at a time; values of the largest
// size travel alone.
const conflictPage = 256

// ListConflicts answers api.KV: partition by partition, each in the order of
// keys, from the replica here or the nearest one.
func (r *router) ListConflicts(ctx context.Context, req *capstanv1.ListConflictsRequest, emit func(*capstanv1.ListConflictsResponse) error) error {
	ring := r.ring()
	if !ring.Placed() {
		return notInCluster()
	}
	left := int(req.GetLimit())
	for _, p := range partitionsOf(&capstanv1.ScanRequest{Prefix: req.GetPrefix()}, len(ring.Partitions)) {
		ask := conflictsAsk{Partition: p, Prefix: req.GetPrefix(), Limit: conflictPage}
		for more := true; more; {
			if req.GetLimit() > 0 {
				ask.Limit = min(conflictPage, left)
			}
			page, err := r.conflicts(ctx, ring, ask)
			if err != nil {
				return err
			}
			if len(page.conflicts) > 0 {
				if err := emit(&capstanv1.ListConflictsResponse{Conflicts: page.conflicts}); err != nil {
					return err
				}
			}
			ask.After, more = page.next, page.next != nil
			if left -= len(page.conflicts); req.GetLimit() > 0 && left <= 0 {
				return nil
			}
		}
	}
	return nil
}

// conflictsAsk asks for a page of a partition's conflicts.
type conflictsAsk struct {
	Partition partition.ID
	After     []byte // where the last page ended; nil for the first
	Limit     int
	Prefix    []byte
}

type conflictsPage struct {
	next      []byte // nil: there is no more
	conflicts []*capstanv1.Conflict
}

func (r *router) conflicts(ctx context.Context, ring *control.State, ask conflictsAsk) (conflictsPage, error) {
	if here := r.local.replica(ask.Partition); here != nil && !here.failed() {
		return here.conflicts(ask)
	}
	for _, node := range r.nearest(ring, ask.Partition) {
		answer, err := r.peers.hop(ctx, node, ask.frame())
		if err != nil {
			continue
		}
		return decodeConflicts(answer)
	}
	return conflictsPage{}, noReplica(ring, r.self, ask.Partition, "")
}

func (h *replica) conflicts(ask conflictsAsk) (conflictsPage, error) {
	found, next, err := h.state.Conflicts(ask.Prefix, ask.After, ask.Limit)
	if err != nil {
		return conflictsPage{}, fmt.Errorf("conflicts of partition %d: %w", h.partition, err)
	}
	page := conflictsPage{next: next}
	for _, c := range found {
		page.conflicts = append(page.conflicts, &capstanv1.Conflict{
			Key: c.Key, LosingValue: c.Value, LosingVersion: versionMessage(c.Losing), WinningVersion: versionMessage(c.Winning),
			Time: timestamppb.New(c.Time.Time()), LosingDelete: c.Delete, Cause: capstanv1.ConflictCause(c.Cause), LosingBase: c.Base,
		})
	}
	return page, nil
}

// The frame: kind (1) | partition (4) | limit (2) | cursor length (2) | cursor |
// prefix, big endian.
func (a conflictsAsk) frame() []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(hopConflicts)}, uint32(a.Partition))
	b = binary.BigEndian.AppendUint16(b, uint16(a.Limit))
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.After)))
	return append(append(b, a.After...), a.Prefix...)
}

func decodeConflictsAsk(b []byte) (conflictsAsk, error) {
	if len(b) < 8 {
		return conflictsAsk{}, errors.New("conflicts: cut short")
	}
	a := conflictsAsk{Partition: partition.ID(binary.BigEndian.Uint32(b)), Limit: int(binary.BigEndian.Uint16(b[4:]))}
	n := int(binary.BigEndian.Uint16(b[6:]))
	if b = b[8:]; n > len(b) {
		return conflictsAsk{}, errors.New("conflicts: cut short")
	}
	a.After, a.Prefix = b[:n:n], b[n:]
	if a.Limit < 1 || a.Limit > conflictPage {
		return conflictsAsk{}, fmt.Errorf("conflicts: page of %d", a.Limit)
	}
	return a, nil
}

func (s *hopServer) conflicts(body []byte) ([]byte, error) {
	ask, err := decodeConflictsAsk(body)
	if err != nil {
		return nil, badHop(err)
	}
	here, err := s.replica(ask.Partition)
	if err != nil {
		return nil, err
	}
	page, err := here.conflicts(ask)
	if err != nil {
		return nil, err
	}
	b := append(binary.BigEndian.AppendUint16(nil, uint16(len(page.next))), page.next...)
	return proto.MarshalOptions{}.MarshalAppend(b, &capstanv1.ListConflictsResponse{Conflicts: page.conflicts})
}

func decodeConflicts(b []byte) (conflictsPage, error) {
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return conflictsPage{}, errors.New("page of conflicts: cut short")
	}
	n := int(binary.BigEndian.Uint16(b))
	var resp capstanv1.ListConflictsResponse
	if err := proto.Unmarshal(b[2+n:], &resp); err != nil {
		return conflictsPage{}, fmt.Errorf("page of conflicts: %w", err)
	}
	page := conflictsPage{conflicts: resp.GetConflicts()}
	if n > 0 {
		page.next = b[2 : 2+n]
	}
	return page, nil
}
