package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/hlc"
)

const (
	// catchUpWait is how long an eventual read waits for this replica to apply
	// what its session has seen, before others are asked: a replica in touch with
	// its leader is behind by some milliseconds.
	catchUpWait = 250 * time.Millisecond
	// maxReplicasAsked bounds the replicas that one read asks.
	maxReplicasAsked = control.MaxReplicationFactor
)

// want is what the state and the tentative writes that answer an eventual read
// have to hold: everything up to index, and these writes or their fate.
type want struct {
	index uint64
	dots  []storage.DotRange
	// own are the writes of the key that the asking node holds itself: it is told
	// which of them are decided.
	own *storage.DotSet

	// What follows does not travel: it matters only where no replica answers.

	// highest is the session's highest timestamp.
	highest hlc.Timestamp
	// session says that the request has one, and known that its token says
	// something of the partition.
	session, known bool
}

// maxMissing bounds the runs of writes that others are asked for.
const maxMissing = 1024

// elsewhere is what others are asked for of the writes that are wanted: those
// that are missing here, unless what is held here leaves too many gaps between
// them. Then it is all, which is more than needed and never less.
func (w want) elsewhere(missing []storage.DotRange) []storage.DotRange {
	if len(missing) > maxMissing {
		return w.dots
	}
	return missing
}

// wanted is the session's past in the partition.
func wanted(p partition.ID, past *session.Token) want {
	return want{
		index: past.Index(p), dots: past.Undecided(p),
		highest: past.Highest(), session: !past.Empty(), known: past.Knows(p),
	}
}

// unsaid is an index that covers what the session may have seen of the partition
// without its token saying so, at a node that has heard of saved for good: tokens
// leave out what all members have heard of for good. It is asked of a node that
// reaches no replica, and shows t. If the token names t, there is nothing to cover:
// while it names a write it keeps the partition, and what it says of the partition
// is at least what it left out before (noteState).
func (w want) unsaid(t *storage.Tentative, saved uint64, covers bool) uint64 {
	switch {
	case !w.session || w.known && w.has(t.Dot):
		return 0
	case !covers: // this node has just joined: it was not asked when it was left out
		return math.MaxUint64
	}
	return saved
}

// has reports whether the session wrote or saw that undecided write.
func (w want) has(d storage.Dot) bool {
	return slices.ContainsFunc(w.dots, func(r storage.DotRange) bool {
		return r.Node == d.Node && r.Incarnation == d.Incarnation && r.First <= d.Sequence && d.Sequence <= r.Last
	})
}

// metBy reports whether t, held here, may answer by itself, elsewhere being what it
// leaves to be wanted of others. Its node had heard of all that the session has
// seen; but it need not have held that, so a version of the key that t does not
// win over has to be ruled out too.
func (w want) metBy(t *storage.Tentative, elsewhere want) bool {
	return len(elsewhere.dots) == 0 && elsewhere.index <= t.Base && (t.Timestamp >= w.highest || w.has(t.Dot))
}

// getEventual answers from the nearest replica, merged with what this node
// holds itself.
func (r *router) getEventual(ctx context.Context, req *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	past, err := r.sessions.past(req.GetSession())
	if err != nil {
		return nil, err
	}
	ring := r.ring()
	if !ring.Placed() {
		return nil, notInCluster()
	}
	p := partition.Of(req.GetKey(), len(ring.Partitions))
	found, err := r.near(ctx, ring, p, r.serving(p), req.GetKey(), wanted(p, past), int(min(max(req.GetReplicas(), 1), maxReplicasAsked)))
	if err != nil {
		return nil, err
	}
	return r.answer(ring, p, past, found)
}

// nearRead is what an eventual read has found, and where.
type nearRead struct {
	storage.LocalRead
	from partition.NodeID
	// Of the writes that the session has, and that the asking node holds: those that
	// are decided in the state that was read, and those that are undecided writes of
	// the key. nil for none.
	decided, ofKey *storage.DotSet
}

// vouches reports whether the answer says of a write that it is undecided.
func (n *nearRead) vouches(d storage.Dot, named *storage.DotSet) bool {
	return named.Has(d) || slices.ContainsFunc(n.Candidates, func(t storage.Tentative) bool { return t.Dot == d })
}

// answer tells what was found, and what the session has seen by it.
func (r *router) answer(ring *control.State, p partition.ID, past *session.Token, found nearRead) (resp *capstanv1.GetResponse, err error) {
	r.sessions.tidy(p, past)
	found.settle(p, past)
	note(p, past, &found.LocalEntry, found.Applied)
	resp = &capstanv1.GetResponse{Freshness: &capstanv1.Freshness{ServedBy: nameOf(ring, found.from), Tentative: found.Tentative != nil}}
	if found.Found {
		resp.Found, resp.Value, resp.Version = true, found.Bytes, versionMessage(found.Version)
	}
	resp.Session, err = r.sessions.token(past)
	return resp, err
}

// settle drops from the session the writes that are decided, and, if a committed
// version is shown, those that it was shown to beat: all that it has of the key. A
// node that holds one of them, and not that version, must not show it again as the
// session's own.
func (n *nearRead) settle(p partition.ID, past *session.Token) {
	if n.decided != nil {
		past.SettleAll(p, n.Applied, n.decided)
	}
	if n.Tentative == nil && n.ofKey != nil {
		index := n.Applied
		if n.Held != nil {
			index = n.Held.Version.Index
		}
		past.SettleAll(p, index, n.ofKey)
	}
}

// note takes what was read into the session. applied is the index of the state
// that was read.
func note(p partition.ID, past *session.Token, e *storage.LocalEntry, applied uint64) {
	switch {
	case e.Tentative != nil:
		noteState(past, p, applied)
		past.Tentative(p, e.Tentative.Dot, e.Tentative.Base, e.Tentative.Timestamp)
	case e.Held != nil:
		noteCommitted(past, p, e.Held.Version, applied)
	default:
		past.Saw(p, applied)
	}
}

// maxReadAttempts bounds how often a read begins anew because the write that
// wins was decided before its value was read.
const maxReadAttempts = 8

// serving is this node's replica of p if it serves, else nil.
func (r *router) serving(p partition.ID) *replica {
	if here := r.local.replica(p); here != nil && !here.failed() {
		return here
	}
	return nil
}

// settledBy is the index that this node's replica of p has applied, though it can
// not answer: it has settled writes that are nowhere else on this node. 0 if
// there is none. It is asked after the tentative log was read.
func (r *router) settledBy(p partition.ID) uint64 {
	here := r.local.replica(p)
	if here == nil {
		return 0
	}
	applied, _ := here.state.Applied()
	return applied
}

// near reads here, at this node's replica, unless that is nil or behind, else at
// others, and takes this node's own tentative writes into account in any case.
func (r *router) near(ctx context.Context, ring *control.State, p partition.ID, here *replica, key []byte, w want, replicas int) (found nearRead, err error) {
	for range maxReadAttempts {
		if found, err = r.nearOnce(ctx, ring, p, here, key, w, replicas); !errors.Is(err, storage.ErrUnread) {
			break
		}
	}
	return found, err
}

func (r *router) nearOnce(ctx context.Context, ring *control.State, p partition.ID, here *replica, key []byte, w want, replicas int) (nearRead, error) {
	log, err := r.exchange.Tentative(p)
	if err != nil {
		return nearRead{}, err
	}
	var reads []nearRead
	var refused error
	if here != nil {
		read, err := here.near(ctx, key, w, replicas > 1)
		if read.from = r.self; err == nil && replicas == 1 {
			return read, nil
		}
		if refused = err; err == nil {
			reads = append(reads, read)
		}
	}
	// This node's own writes come first: what leaves the log meanwhile raises
	// the fate floor, and is in a state that has applied that.
	local := storage.Local{Log: log}
	held := log.WritesOf(key)
	own, missing, err := local.ReadToMergeWith(key, w.dots)
	if err != nil {
		return nearRead{}, err
	}
	elsewhere := want{index: max(w.index, own.FateFloor), dots: w.elsewhere(missing), own: held}
	if len(reads) == 0 {
		elsewhere.index = max(elsewhere.index, r.settledBy(p))
	}
	others, err := r.nearElsewhere(ctx, ring, p, key, elsewhere, replicas-len(reads))
	reads = append(reads, others...)
	if len(reads) == 0 {
		if own.Tentative != nil {
			saved, covers := log.Saved()
			elsewhere.index = max(elsewhere.index, w.unsaid(own.Tentative, saved, covers))
		}
		switch {
		case own.Tentative != nil && w.metBy(own.Tentative, elsewhere):
			return nearRead{LocalRead: own, from: r.self}, nil
		case refused != nil:
			return nearRead{}, refused // what the replica here lacks, nobody had
		case isRefusal(err):
			return nearRead{}, err
		}
		return nearRead{}, noReplica(ring, r.self, p, "")
	}
	merged, state := mergeNear(reads)
	merged.ofKey = joinDots(merged.ofKey, among(held, w.dots))
	if local.Decided = merged.decided; local.Decided != nil {
		// What is held here, and decided there, is not shown; what it stood in the way of
		// is.
		if own, err = local.ReadToMerge(key); err != nil {
			return nearRead{}, err
		}
	}
	merged.LocalRead = storage.MergeReads(own, merged.LocalRead)
	if merged.Behind() { // something was forgotten here since the replica here was read
		return nearRead{}, fmt.Errorf("partition %d: %w: %w", p, storage.ErrBehind, storage.ErrUnread)
	}
	if t := merged.Tentative; t != nil && !state.vouches(t.Dot, held) {
		// Another replica holds it undecided, and is behind the one whose state is shown.
		decided, err := r.decidedAt(ctx, p, here, key, elsewhere, state.from, merged.Candidates)
		if err != nil {
			return nearRead{}, err
		}
		if decided != nil { // else that node has decided none of them
			merged.Drop(decided)
		}
	}
	return merged, local.Complete(&merged.LocalEntry)
}

// mergeNear makes one answer of several, and gives the one whose state it shows.
func mergeNear(reads []nearRead) (merged, state nearRead) {
	merged, state = reads[0], reads[0]
	for _, read := range reads[1:] {
		if read.Applied > state.Applied {
			state = read
		}
		merged.LocalRead = storage.MergeReads(merged.LocalRead, read.LocalRead)
		merged.decided, merged.ofKey = joinDots(merged.decided, read.decided), joinDots(merged.ofKey, read.ofKey)
	}
	merged.from = state.from
	return merged, state
}

// decidedAt asks the node whose state is shown which of the writes it has decided.
func (r *router) decidedAt(ctx context.Context, p partition.ID, here *replica, key []byte, w want, node partition.NodeID, writes []storage.Tentative) (*storage.DotSet, error) {
	w.own = &storage.DotSet{}
	for i := range writes {
		if err := w.own.Add(writes[i].Dot); err != nil {
			return nil, err
		}
	}
	if node == r.self {
		read, err := here.near(ctx, key, w, true)
		return read.decided, err
	}
	read, err := r.nearAt(ctx, p, node, w.frame(p, key))
	return read.decided, err
}

// joinDots is a set with the dots of both; nil has none. It may be one of the two.
func joinDots(a, b *storage.DotSet) *storage.DotSet {
	switch {
	case a == nil || a.IsEmpty():
		return b
	case b == nil || b.IsEmpty():
		return a
	}
	both := a.Clone()
	_ = both.Merge(b) // both are parts of what fits into a message
	return both
}

// among are those of the dots that the ranges have.
func among(set *storage.DotSet, ranges []storage.DotRange) *storage.DotSet {
	found := &storage.DotSet{}
	if len(ranges) == 0 || set.IsEmpty() {
		return found
	}
	left := dots(slices.Collect(set.Minus(dots(ranges))))
	return dots(slices.Collect(set.Minus(left)))
}

// nearElsewhere asks other nodes with a replica, until count have answered: first
// those that have accepted what the session saw.
func (r *router) nearElsewhere(ctx context.Context, ring *control.State, p partition.ID, key []byte, w want, count int) ([]nearRead, error) {
	nodes := r.nearest(ring, p)
	slices.SortStableFunc(nodes, func(a, b partition.NodeID) int {
		return b2i(w.names(b)) - b2i(w.names(a))
	})
	frame := w.frame(p, key)
	answers, refused := askInTurn(ctx, asking{nodes, count, askPatience},
		func(ctx context.Context, node partition.NodeID) (nearRead, error) {
			return r.nearAt(ctx, p, node, frame)
		})
	found := make([]nearRead, len(answers))
	for i, a := range answers {
		found[i] = a.answer
	}
	return found, refused
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// names reports whether the session has seen an undecided write of that node.
func (w want) names(node partition.NodeID) bool {
	return slices.ContainsFunc(w.dots, func(r storage.DotRange) bool { return r.Node == node })
}

func (r *router) nearAt(ctx context.Context, p partition.ID, node partition.NodeID, frame []byte) (nearRead, error) {
	answer, err := r.peers.hop(ctx, node, frame)
	if err != nil {
		return nearRead{}, err
	}
	read, err := decodeNearRead(answer)
	if err != nil {
		return nearRead{}, fmt.Errorf("answer of %s: %w", node, err)
	}
	r.exchange.Hear(p, read.Applied)
	read.from = node
	return read, nil
}

// near reads at the replica here, once it holds what is wanted.
func (h *replica) near(ctx context.Context, key []byte, w want, merge bool) (read nearRead, err error) {
	log, err := h.exchange.Tentative(h.partition)
	if err != nil {
		return nearRead{}, err
	}
	if err := h.meets(ctx, log, w); err != nil {
		return nearRead{}, err
	}
	local := storage.Local{State: h.state, Log: log}
	if !merge && len(w.dots) == 0 {
		read.LocalRead, err = local.Read(key)
	} else {
		named := dots(w.dots)
		if w.own != nil {
			named = joinDots(named, w.own)
		}
		read.LocalRead, read.decided, read.ofKey, err = local.ReadNamed(key, named)
	}
	switch {
	case errors.Is(err, storage.ErrBehind):
		return nearRead{}, behind(h.partition, err, h.servedBy+" has shown more than it holds now")
	case err != nil:
		return nearRead{}, h.unread(err)
	}
	return read, nil
}

// meets returns nil once the replica here holds what is wanted, and refuses what
// it does not get soon.
func (h *replica) meets(ctx context.Context, log *storage.TentativeLog, w want) error {
	index := max(w.index, log.FateFloor())
	if fault.On(fault.SessionEarly) {
		return nil
	}
	if applied, _ := h.state.Applied(); applied < index {
		soon, cancel := context.WithTimeout(ctx, catchUpWait)
		err := h.group.WaitApplied(soon, index)
		cancel()
		if err != nil {
			applied, _ = h.state.Applied()
			return behind(h.partition, err, fmt.Sprintf("entry %d was seen, %s has applied %d", index, h.servedBy, applied))
		}
	}
	if len(w.dots) == 0 {
		return nil
	}
	if left := (storage.Local{State: h.state, Log: log}).Missing(w.dots); len(left) > 0 {
		return behind(h.partition, nil, fmt.Sprintf("%s does not hold its eventual writes %s", h.servedBy, dotNames(left)))
	}
	return nil
}

// The frame of an eventual read on its hop:
//
//	kind (1) | partition (4) | index (8) | dots | own | key
//
// with all numbers big endian; dots and own are sets: length (4), 0 for none | set.
// The answer is
//
//	decided | of the key | a [storage.LocalRead]
//
// with two sets of the same form.
const nearHeader = 4 + 8

func (w want) frame(p partition.ID, key []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(hopNear)}, uint32(p))
	b = binary.BigEndian.AppendUint64(b, w.index)
	b = appendDots(b, dots(w.dots))
	b = appendDots(b, w.own)
	return append(b, key...)
}

func appendDots(b []byte, set *storage.DotSet) []byte {
	if set == nil || set.IsEmpty() {
		return binary.BigEndian.AppendUint32(b, 0)
	}
	at := len(b)
	b = storage.AppendDotSet(append(b, 0, 0, 0, 0), set)
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// cutDots takes a set off the front of b; nil for an empty one.
func cutDots(b []byte) (set *storage.DotSet, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errors.New("cut short")
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, errors.New("cut short")
	}
	if n == 0 {
		return nil, b, nil
	}
	set, err = storage.DecodeDotSet(b[:n])
	if err == nil && set.IsEmpty() {
		err = errors.New("an empty set of dots")
	}
	return set, b[n:], err
}

// decodeNear reads a frame without its kind.
func decodeNear(b []byte) (p partition.ID, key []byte, w want, err error) {
	if len(b) < nearHeader {
		return 0, nil, want{}, errors.New("eventual read: cut short")
	}
	p = partition.ID(binary.BigEndian.Uint32(b))
	w.index = binary.BigEndian.Uint64(b[4:])
	set, rest, err := cutDots(b[nearHeader:])
	if err != nil {
		return 0, nil, want{}, fmt.Errorf("eventual read: %w", err)
	}
	if set != nil {
		w.dots = slices.Collect(set.Ranges())
	}
	if w.own, key, err = cutDots(rest); err != nil {
		return 0, nil, want{}, fmt.Errorf("eventual read: %w", err)
	}
	if len(key) == 0 || len(key) > storage.MaxKeyBytes {
		return 0, nil, want{}, fmt.Errorf("eventual read: key of %d bytes", len(key))
	}
	return p, key, w, nil
}

func (n *nearRead) encode() []byte {
	return storage.AppendLocalRead(appendDots(appendDots(nil, n.decided), n.ofKey), &n.LocalRead)
}

func decodeNearRead(b []byte) (n nearRead, err error) {
	if n.decided, b, err = cutDots(b); err != nil {
		return nearRead{}, err
	}
	if n.ofKey, b, err = cutDots(b); err != nil {
		return nearRead{}, err
	}
	n.LocalRead, err = storage.DecodeLocalRead(b)
	return n, err
}

// near answers an eventual read that came by a hop.
func (s *hopServer) near(ctx context.Context, body []byte) ([]byte, error) {
	p, key, w, err := decodeNear(body)
	if err != nil {
		return nil, badHop(err)
	}
	here, err := s.replica(p)
	if err != nil {
		return nil, err
	}
	read, err := here.near(ctx, key, w, true)
	if err != nil {
		return nil, err
	}
	return read.encode(), nil
}
