package node

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
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
	if err := r.refuses(); err != nil {
		return nil, err
	}
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
		case <-r.closing:
			timer.Stop()
			return resp, nil
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
	here := r.serving(p)
	if here != nil {
		switch resp, err := here.fate(receipt.Dot); {
		case errors.Is(err, storage.ErrStateDamaged):
			here = nil
		case err != nil || resp.GetFate() != capstanv1.Fate_FATE_PENDING:
			return resp, err
		default:
			pending = resp
		}
	}
	held, err := r.exchange.Tentative(p)
	if err != nil {
		return nil, err
	}
	if pending == nil && held.Holds(receipt.Dot) {
		pending = &capstanv1.AwaitWriteResponse{Fate: capstanv1.Fate_FATE_PENDING, ServedBy: nameOf(ring, r.self)}
	}
	if pending != nil && held.Holds(receipt.Dot) && here != nil {
		return pending, nil // it leaves when the replica here has applied its fate
	}
	decided, undecided, err := r.fateElsewhere(ctx, ring, receipt)
	switch {
	case decided != nil:
		return decided, nil
	case pending != nil:
		return pending, nil
	case undecided != nil:
		return undecided, nil
	case isRefusal(err):
		return nil, err
	}
	return nil, noReplica(ring, r.self, p, "")
}

var errPending = errors.New("pending")

// fateElsewhere asks the other replicas until one knows that the write is
// decided; undecided is the answer of one that does not.
func (r *router) fateElsewhere(ctx context.Context, ring *control.State, receipt session.Receipt) (decided, undecided *capstanv1.AwaitWriteResponse, err error) {
	p := receipt.Partition
	frame := appendDot(binary.BigEndian.AppendUint32([]byte{byte(hopFate)}, uint32(p)), receipt.Dot)
	var mu sync.Mutex
	found, err := askInTurn(ctx, asking{r.nearest(ring, p), 1, askPatience},
		func(ctx context.Context, node partition.NodeID) (*capstanv1.AwaitWriteResponse, error) {
			answer, err := r.peers.hop(ctx, node, frame)
			if err != nil {
				return nil, err // another one may know
			}
			resp := new(capstanv1.AwaitWriteResponse)
			if err := proto.Unmarshal(answer, resp); err != nil {
				return nil, fmt.Errorf("answer of %s: %w", node, err)
			}
			r.hear(p, resp)
			if resp.GetFate() == capstanv1.Fate_FATE_PENDING {
				mu.Lock()
				defer mu.Unlock()
				undecided = resp
				return nil, errPending
			}
			return resp, nil
		})
	if len(found) > 0 {
		return found[0].answer, undecided, nil
	}
	return nil, undecided, err
}

// fate is what the replica here has applied of the write.
func (h *replica) fate(d storage.Dot) (*capstanv1.AwaitWriteResponse, error) {
	fate, err := h.state.Fate(d)
	if err != nil {
		return nil, h.unread(err)
	}
	resp := &capstanv1.AwaitWriteResponse{Fate: capstanv1.Fate(fate.Kind), ServedBy: h.servedBy}
	if !fate.Version.IsZero() {
		resp.Version = versionMessage(fate.Version)
	}
	seen := new(session.Token)
	if fate.Kind != storage.FatePending {
		// Not the index of the fate: the session that this is added to may have
		// dropped a higher one.
		applied, _ := h.state.Applied()
		seen.Saw(h.partition, applied)
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
	d := storage.Dot{
		Incarnation: binary.BigEndian.Uint64(b), Sequence: binary.BigEndian.Uint64(b[8:]), Node: partition.NodeID(b[16:]),
	}
	if d.Incarnation == 0 || d.Sequence == 0 {
		return storage.Dot{}, fmt.Errorf("dot %s is none", d)
	}
	return d, nil
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

const (
	// conflictPage is how many conflicts travel at a time; values of the largest
	// size travel alone.
	conflictPage = 256
	// conflictsAtOnce bounds the partitions whose first pages are asked for side
	// by side.
	conflictsAtOnce = 16
)

// ListConflicts answers api.KV: it merges the partitions' lists in the order of
// keys, each from the replica here or the nearest one.
func (r *router) ListConflicts(ctx context.Context, req *capstanv1.ListConflictsRequest, emit func(*capstanv1.ListConflictsResponse) error) error {
	if err := r.refuses(); err != nil {
		return err
	}
	ring := r.ring()
	if !ring.Placed() {
		return notInCluster()
	}
	most := conflictPage
	if limit := int(req.GetLimit()); limit > 0 {
		most = min(most, limit)
	}
	from := partitionsOf(&capstanv1.ScanRequest{Prefix: req.GetPrefix()}, len(ring.Partitions))
	lists := make([]*conflictList, len(from))
	openers, opening := errgroup.WithContext(ctx)
	openers.SetLimit(conflictsAtOnce)
	for i, p := range from {
		lists[i] = &conflictList{ask: conflictsAsk{Partition: p, Prefix: req.GetPrefix(), Limit: most}, more: true}
		openers.Go(func() error { return lists[i].fill(opening, r, ring) })
	}
	if err := openers.Wait(); err != nil {
		return err
	}
	heads := conflictHeap(slices.DeleteFunc(slices.Clone(lists), func(l *conflictList) bool { return len(l.page) == 0 }))
	heap.Init(&heads)
	last := &capstanv1.ListConflictsResponse{}
	for _, l := range lists {
		last.Dropped += l.dropped
	}
	var page []*capstanv1.Conflict
	size := 0
	for sent := 0; len(heads) > 0 && (req.GetLimit() == 0 || sent < int(req.GetLimit())); sent++ {
		l := heads[0]
		c := l.page[0]
		l.page = l.page[1:]
		if page, size = append(page, c), size+len(c.GetKey())+len(c.GetLosingValue()); len(page) == conflictPage || size >= pageBytes {
			if err := emit(&capstanv1.ListConflictsResponse{Conflicts: page}); err != nil {
				return err
			}
			page, size = nil, 0
		}
		if err := l.fill(ctx, r, ring); err != nil {
			return err
		}
		if len(l.page) > 0 {
			heap.Fix(&heads, 0)
		} else {
			heap.Pop(&heads)
		}
	}
	if last.Conflicts = page; len(page) == 0 && last.Dropped == 0 {
		return nil
	}
	return emit(last)
}

// conflictList is the rest of one partition's list.
type conflictList struct {
	ask  conflictsAsk
	page []*capstanv1.Conflict
	more bool // behind the page
	// dropped is how many conflicts the partition has dropped, as of its latest page.
	dropped uint64
}

// fill fetches the next page if the one in hand is used up.
func (l *conflictList) fill(ctx context.Context, r *router, ring *control.State) error {
	for len(l.page) == 0 && l.more {
		page, err := r.conflicts(ctx, ring, l.ask)
		if err != nil {
			return err
		}
		l.page, l.ask.After, l.more, l.dropped = page.conflicts, page.next, page.next != nil, page.dropped
	}
	return nil
}

type conflictHeap []*conflictList

func (h conflictHeap) Len() int { return len(h) }
func (h conflictHeap) Less(i, j int) bool {
	return bytes.Compare(h[i].page[0].GetKey(), h[j].page[0].GetKey()) < 0
}
func (h conflictHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *conflictHeap) Push(x any)   { *h = append(*h, x.(*conflictList)) }
func (h *conflictHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
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
	dropped   uint64 // by the partition, ever
}

func (r *router) conflicts(ctx context.Context, ring *control.State, ask conflictsAsk) (conflictsPage, error) {
	if here := r.serving(ask.Partition); here != nil {
		if page, err := here.conflicts(ask); !errors.Is(err, storage.ErrStateDamaged) {
			return page, err
		}
	}
	frame := ask.frame()
	found, err := askInTurn(ctx, asking{r.nearest(ring, ask.Partition), 1, askPatience},
		func(ctx context.Context, node partition.NodeID) (conflictsPage, error) {
			answer, err := r.peers.hop(ctx, node, frame)
			if err != nil {
				return conflictsPage{}, err
			}
			return decodeConflicts(answer)
		})
	switch {
	case len(found) > 0:
		return found[0].answer, nil
	case isRefusal(err):
		return conflictsPage{}, err
	}
	return conflictsPage{}, noReplica(ring, r.self, ask.Partition, "")
}

func (h *replica) conflicts(ask conflictsAsk) (conflictsPage, error) {
	found, next, err := h.state.Conflicts(ask.Prefix, ask.After, ask.Limit)
	if err != nil {
		return conflictsPage{}, h.unread(err)
	}
	page := conflictsPage{next: next}
	_, page.dropped = h.state.ConflictCounts()
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
	return page.encode()
}

// The frame: cursor length (2), 0 if there is no more | cursor | conflicts, as a
// ListConflictsResponse.
func (c conflictsPage) encode() ([]byte, error) {
	b := append(binary.BigEndian.AppendUint16(nil, uint16(len(c.next))), c.next...)
	return proto.MarshalOptions{}.MarshalAppend(b, &capstanv1.ListConflictsResponse{Conflicts: c.conflicts, Dropped: c.dropped})
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
	page := conflictsPage{conflicts: resp.GetConflicts(), dropped: resp.GetDropped()}
	if n > 0 {
		page.next = b[2 : 2+n]
	}
	return page, nil
}
