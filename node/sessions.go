package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
)

// sessions reads the tokens and receipts of requests and writes those of
// answers. Safe for concurrent use.
type sessions struct {
	ring func() *control.State
	// everywhere is an index that every replica of the partition has applied, and
	// every node has heard of, for good: a token need not say what it says of the
	// partition up to there. 0 if it is not known.
	everywhere func(partition.ID) uint64
	// reached is what this node has heard of for good: no token leaves out more,
	// unless the node has just joined.
	reached func(partition.ID) uint64
	// exists says of dots of the partition whether they are those of writes.
	exists func(partition.ID) func(storage.Dot) bool
	// decided gives those of the writes that are not decided as far as this node
	// knows. State that has applied index knows of the others.
	decided func(partition.ID, []storage.DotRange) (index uint64, left []storage.DotRange)

	keyed atomic.Pointer[keyedCodec]
}

// relayed are sessions as they travel between nodes: no partition is left out of
// a token, for who passes on an answer has heard of its index, and what that
// node accepts from then on must have a base at or above it.
func (s *sessions) relayed() *sessions {
	return &sessions{ring: s.ring, reached: s.reached, exists: s.exists, decided: s.decided}
}

// keyedCodec is the codec of the cluster that this node belongs to.
type keyedCodec struct {
	cluster string
	*session.Codec
}

func (s *sessions) codec() (*session.Codec, error) {
	ring := s.ring()
	if !ring.Founded() {
		return nil, notInCluster()
	}
	if keyed := s.keyed.Load(); keyed != nil && keyed.cluster == ring.ClusterID {
		return keyed.Codec, nil
	}
	keyed := &keyedCodec{ring.ClusterID, session.NewCodec(ring.ClusterID, ring.SessionKey())}
	s.keyed.Store(keyed)
	return keyed.Codec, nil
}

// past is what the session of a request has seen and written; empty for a
// request without one.
func (s *sessions) past(token string) (*session.Token, error) {
	if fault.On(fault.SessionIgnored) {
		return new(session.Token), nil
	}
	return s.read(token)
}

// read is what a token says.
func (s *sessions) read(token string) (*session.Token, error) {
	codec, err := s.codec()
	if err != nil {
		return nil, err
	}
	past, err := codec.Decode(token)
	if err != nil {
		return nil, badToken(sessionToken, err)
	}
	s.resolve(past)
	return past, nil
}

func (s *sessions) resolve(past *session.Token) {
	if s.reached != nil {
		past.Resolve(s.reached)
	}
}

// noteCommitted notes that a committed version was shown, by state that has
// applied that index.
func noteCommitted(past *session.Token, p partition.ID, v storage.Version, applied uint64) {
	noteState(past, p, applied)
	past.Saw(p, v.Index)
	past.Observe(v.Timestamp)
}

// noteState notes the index of the state that was shown, if the token does not know
// the partition: what it may have left out before is at most that.
func noteState(past *session.Token, p partition.ID, applied uint64) {
	if !past.Empty() && !past.Knows(p) {
		past.Saw(p, applied)
	}
}

// token is the session after an answer. What every replica holds is left out.
func (s *sessions) token(now *session.Token) (string, error) {
	codec, err := s.codec()
	if err != nil {
		return "", err
	}
	s.drop(now)
	text, err := codec.Encode(now)
	if errors.Is(err, session.ErrTooLarge) {
		s.shrink(now)
		text, err = codec.Encode(now)
	}
	if errors.Is(err, session.ErrTooLarge) {
		return "", tooMuchPast()
	}
	return text, err
}

// drop leaves out the partitions of which every replica holds the session's past.
func (s *sessions) drop(now *session.Token) {
	if s.everywhere == nil {
		return
	}
	for _, p := range slices.Collect(now.Partitions()) {
		if index := now.Index(p); index > 0 && index <= s.everywhere(p) && len(now.Undecided(p)) == 0 {
			now.Drop(p)
		}
	}
}

// shrink makes a large token smaller by what this node knows.
func (s *sessions) shrink(now *session.Token) {
	for _, p := range slices.Collect(now.Partitions()) {
		s.tidy(p, now)
		if s.exists != nil {
			now.Widen(p, s.exists(p))
		}
	}
	s.drop(now)
}

// tidy drops from the session those writes that this node knows to be decided,
// or lost.
func (s *sessions) tidy(p partition.ID, past *session.Token) {
	open := past.Undecided(p)
	if len(open) == 0 || s.decided == nil {
		return
	}
	index, left := s.decided(p, open)
	past.SettleAll(p, index, dots(slices.Collect(dots(open).Minus(dots(left)))))
}

// roomyToken is the length, in bytes, up to which a token can surely take up
// one more write: a dot of a node of which it has none yet, in a partition of
// which it has none.
const roomyToken = session.MaxTokenBytes - 1024

// room refuses a write, before it is stored, whose session could not be told
// of it. token is the text of past.
func (s *sessions) room(token string, past *session.Token) error {
	if len(token) <= roomyToken || past.Size() <= roomyToken {
		return nil
	}
	if s.shrink(past); past.Size() <= roomyToken {
		return nil
	}
	return tooMuchPast()
}

// untold is the end of a write that is done, and whose session can not be told.
func untold(err error) *replication.Error {
	return &replication.Error{
		Reason: replication.SessionBehind, Outcome: replication.Unknown, Err: err,
		Message: "the write is done, but its session could not be written down",
		Try:     "read the key, without the session",
	}
}

func tooMuchPast() *replication.Error {
	return &replication.Error{
		Reason: replication.SessionBehind, Outcome: replication.NotApplied,
		Message: "the session has more of unpromoted eventual writes than fits into a token",
		Try:     "again when they are promoted, or without the session",
	}
}

// merge makes one token of several.
func (s *sessions) merge(tokens []string) (string, error) {
	all := new(session.Token)
	for _, token := range tokens {
		past, err := s.read(token)
		if err != nil {
			return "", err
		}
		all.Merge(past)
	}
	s.resolve(all)
	return s.token(all)
}

// receipt reads one that this cluster has given.
func (s *sessions) receipt(text string) (session.Receipt, error) {
	codec, err := s.codec()
	if err != nil {
		return session.Receipt{}, err
	}
	receipt, err := codec.DecodeReceipt(text)
	if err != nil {
		return session.Receipt{}, badToken("receipt", err)
	}
	if ring := s.ring(); int(receipt.Partition) >= len(ring.Partitions) {
		return session.Receipt{}, badToken("receipt", session.ErrMalformed)
	}
	return receipt, nil
}

// sessionToken is what errors call it.
const sessionToken = "session token"

func badToken(what string, err error) *replication.Error {
	e := &replication.Error{Reason: replication.BadToken, Outcome: replication.NotApplied}
	if errors.Is(err, session.ErrForeign) {
		e.Message, e.Try = "the "+what+" is of another cluster", "at the cluster that gave it"
	} else {
		e.Message, e.Try = "the "+what+" was not given by this cluster, or is damaged", "the whole "+what+", as it was answered"
	}
	if what == sessionToken {
		e.Try = "without it, or " + e.Try
	}
	return e
}

// MergeSessions answers api.KV.
func (r *router) MergeSessions(_ context.Context, tokens []string) (string, error) {
	return r.sessions.merge(tokens)
}

// settle has the session's unpromoted writes in the partition promoted, so that
// what goes through the log comes after them, and returns the index by which
// they are decided.
func (h *replica) settle(ctx context.Context, past *session.Token) error {
	open := past.Undecided(h.partition)
	if len(open) == 0 {
		return nil
	}
	if err := h.group.Refuses(); err != nil {
		return err // at once: nothing can be promoted
	}
	ctx, cancel := inTimeToAnswer(ctx)
	defer cancel()
	index, err := h.exchange.AwaitDecided(ctx, h.partition, open, true)
	if err != nil {
		return err
	}
	past.SettleAll(h.partition, index, dots(open))
	return nil
}

// inTimeToAnswer ends a tenth before ctx, so that a refusal still reaches those
// who passed the request on, to whom silence would be an unknown outcome.
func inTimeToAnswer(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(deadline)*9/10)
}

// dots is ranges as a set.
func dots(ranges []storage.DotRange) *storage.DotSet {
	set := &storage.DotSet{}
	for _, r := range ranges {
		_ = set.AddRange(r) // they were those of a set
	}
	return set
}

// behind is the refusal of a request that must see more than has arrived here: its
// session's past, or what the node that was asked has shown before.
func behind(p partition.ID, cause error, what string) *replication.Error {
	var e *replication.Error
	if errors.As(cause, &e) && e.Reason != replication.Deadline {
		told := *e
		told.Message = fmt.Sprintf("what must be seen of partition %d is not here: %s: %s", p, what, e.Message)
		return &told
	}
	return &replication.Error{
		Reason: replication.SessionBehind, Outcome: replication.NotApplied, Err: cause,
		Message: fmt.Sprintf("what must be seen of partition %d is not here: %s", p, what),
		Try:     "again, another node, or without the session for any answer",
	}
}

// maxNamedDots bounds the writes that one refusal names.
const maxNamedDots = 4

func dotNames(dots []storage.DotRange) string {
	names := make([]string, 0, maxNamedDots)
	for i, r := range dots {
		if i == maxNamedDots {
			names = append(names, fmt.Sprintf("and %d more", len(dots)-i))
			break
		}
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}
