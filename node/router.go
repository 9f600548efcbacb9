package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/storage/fault"
)

const (
	// firstRetry and lastRetry bound the pause between two attempts at an
	// operation that was definitely refused: an election takes about as long
	// as the larger one.
	firstRetry = 10 * time.Millisecond
	lastRetry  = 500 * time.Millisecond
)

// router takes any request to where it can be answered: to the replica here,
// or by one marked hop to another node. It tries again only after a definite
// refusal, or where trying again has no effect (reads), until the context ends.
//
// Safe for concurrent use.
type router struct {
	self  partition.NodeID
	ring  func() *control.State // without partitions before they are placed
	peers hopper
	local localReplicas

	exchange *exchange.Exchange
	sessions *sessions
	// heard says whether anything came from a node lately.
	heard func(partition.NodeID) bool
	// refuses is why this node answers no request on keys now, or nil.
	refuses func() error

	// closing is closed when the node is about to: what waits for something to
	// happen ends then.
	closing <-chan struct{}
	// scanning counts the scans under way, which pin the databases open. It is
	// waited for once no new one can begin.
	scanning sync.WaitGroup
	// scans bounds what scans hold.
	scans     *budget.Budget
	pageReads chan struct{}

	hintsMu sync.RWMutex
	hints   map[partition.ID]partition.NodeID // who was last seen to lead
}

func newRouter(self partition.NodeID, ring func() *control.State, peers hopper, local localReplicas) *router {
	return &router{
		self: self, ring: ring, peers: peers, local: local, sessions: &sessions{ring: ring}, hints: map[partition.ID]partition.NodeID{},
		heard: func(partition.NodeID) bool { return true }, scans: budget.New("scans", budget.Limits{}),
		pageReads: make(chan struct{}, maxPageReads),
		refuses:   func() error { return nil },
	}
}

// localReplicas are this node's own replicas.
type localReplicas interface {
	// replica is this node's replica of p; nil where there is none.
	replica(p partition.ID) *replica
	// lost is why the replica that the ring gives to this node is not open; nil if
	// it is, or will be soon.
	lost(p partition.ID) *outage
}

// hopper passes one frame to another node and brings back its answer.
// A refusal by the other node's replica comes as *replication.Error.
type hopper interface {
	hop(ctx context.Context, to partition.NodeID, frame []byte) ([]byte, error)
}

// errNotDelivered is a hop that surely did not reach the other node.
var errNotDelivered = errors.New("not delivered")

// call is one operation on one partition on its way.
type call[Resp any] struct {
	// write: the operation has an effect, and must not be repeated after an
	// outcome that is not known.
	write bool
	// order: an operation on the replica itself, which only "not leader" and an
	// unreachable node send elsewhere; any other refusal is the answer.
	order bool
	// eventually is what the same operation at the eventual level would do at the
	// node named, for the advice of a refusal; empty if there is no such thing.
	eventually string
	// here executes the operation at the local replica.
	here func(context.Context, *replica) (Resp, error)
	// frame is the operation as it travels, and decode its answer.
	frame  func() ([]byte, error)
	decode func(from partition.NodeID, answer []byte) (Resp, error)
}

// route carries out c at a replica of the partition that can.
func route[Resp any](ctx context.Context, r *router, p partition.ID, c call[Resp]) (Resp, error) {
	var none Resp
	pause := firstRetry
	unreached := map[partition.NodeID]bool{}
	var named partition.NodeID // as the leader, by a replica that was asked
	for {
		ring := r.ring()
		if int(p) >= len(ring.Partitions) {
			return none, notInCluster()
		}
		here := r.local.replica(p) // looked up once: the node may be closing
		if unreached[r.self] {
			here = nil // it has failed
		}
		target, ok := r.target(ring, p, here, c.write, unreached, named)
		if !ok {
			return none, noReplica(ring, r.self, p, c.eventually)
		}

		var resp Resp
		var err error
		switch {
		case target != r.self:
			resp, err = hopTo(ctx, r, p, target, c)
		case here == nil:
			err = notOpen(p)
		default:
			resp, err = c.here(ctx, here)
		}
		if err == nil {
			if c.write && !c.order && r.hint(p) != target {
				r.hintsMu.Lock()
				r.hints[p] = target // only who leads does that
				r.hintsMu.Unlock()
			}
			return resp, nil
		}

		var refusal *replication.Error
		if !errors.As(err, &refusal) {
			return none, err
		}
		next := verdict(refusal, c.write)
		if c.order && !refusal.NotLeader && !errors.Is(refusal, errNotDelivered) {
			next = giveUp
		}
		if next == giveUp {
			return none, r.explain(ring, p, c.eventually, refusal)
		}
		r.learn(p, target, refusal)
		if refusal.Leader != "" {
			named = refusal.Leader
		}
		if errors.Is(refusal, errNotDelivered) || refusal.Reason == replication.NoReplica && !refusal.NotLeader {
			unreached[target] = true
		} else {
			clear(unreached)
		}
		if next == tryLeader && pause == firstRetry {
			// The refusal may have named the leader: go there at once, the first time.
			if leader := r.hint(p); leader != "" && leader != target && !unreached[leader] {
				pause *= 2
				continue
			}
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return none, r.explain(ring, p, c.eventually, outOfTime(ctx, refusal))
		case <-timer.C:
		}
		pause = min(2*pause, lastRetry)
	}
}

func hopTo[Resp any](ctx context.Context, r *router, p partition.ID, to partition.NodeID, c call[Resp]) (Resp, error) {
	var none Resp
	frame, err := c.frame()
	if err != nil {
		return none, err
	}
	answer, err := r.peers.hop(ctx, to, frame)
	if err != nil {
		if refusal := (*replication.Error)(nil); errors.As(err, &refusal) && refusal.Session != "" {
			told := *refusal
			told.Session = r.heardBy(p, told.Session)
			err = &told
		}
		return none, err
	}
	return c.decode(to, answer)
}

// onKey carries out an operation on one key whose messages travel as they are.
func onKey[Resp proto.Message](ctx context.Context, r *router, kind hopKind, key []byte, request proto.Message,
	resp Resp, here func(context.Context, *replica) (Resp, error),
) (Resp, error) {
	ring := r.ring()
	if !ring.Placed() {
		var none Resp
		return none, notInCluster()
	}
	p := partition.Of(key, len(ring.Partitions))
	return route(ctx, r, p, call[Resp]{
		write:      kind == hopPut || kind == hopDelete,
		eventually: eventually(request),
		here:       here,
		frame:      func() ([]byte, error) { return encodeHop(kind, request) },
		decode: func(from partition.NodeID, answer []byte) (Resp, error) {
			if err := proto.Unmarshal(answer, resp); err != nil {
				return resp, fmt.Errorf("answer of %s: %w", from, err)
			}
			r.hear(p, resp)
			return resp, nil
		},
	})
}

// hear takes note of the index that an answer passed on tells of: what this
// node accepts from now on has heard of it. The client is told what it has to
// remember.
func (r *router) hear(p partition.ID, answer proto.Message) {
	told, ok := answer.(interface{ GetSession() string })
	if !ok {
		return
	}
	token := r.heardBy(p, told.GetSession())
	switch answer := answer.(type) {
	case *capstanv1.GetResponse:
		answer.Session = token
	case *capstanv1.PutResponse:
		answer.Session = token
	case *capstanv1.DeleteResponse:
		answer.Session = token
	case *capstanv1.AwaitWriteResponse:
		answer.Session = token
	}
}

// heardBy takes note of a token that another node has given, and is the token
// for the client: without what every replica holds.
func (r *router) heardBy(p partition.ID, token string) string {
	if r.exchange == nil || token == "" {
		return token
	}
	seen, err := r.sessions.read(token)
	if err != nil {
		return token
	}
	index := seen.Index(p)
	r.exchange.Hear(p, index)
	if r.sessions.everywhere == nil || index == 0 || index > r.sessions.everywhere(p) {
		return token
	}
	if smaller, err := r.sessions.token(seen); err == nil {
		return smaller
	}
	return token
}

// target chooses who should execute an operation: for writes the leader, for
// reads the replica here or else the leader; and where that is not known, or
// could not be reached, any replica, which will know better. Where there is no
// replica here nobody tells that a leader has fallen silent and another one was
// elected: of those silent ones are asked last, but for the one whom a replica
// has just named.
func (r *router) target(ring *control.State, p partition.ID, here *replica, write bool, unreached map[partition.NodeID]bool, named partition.NodeID) (partition.NodeID, bool) {
	if here != nil && here.failed() {
		here = nil
	}
	if here != nil && !write {
		return r.self, true
	}
	if here != nil {
		leader := here.leader()
		if leader == "" || unreached[leader] || here.group.Refuses() != nil {
			return r.self, true // it waits for a leader, and knows when to refuse
		}
		return leader, true
	}
	candidates := []partition.NodeID{r.hint(p)}
	for _, replica := range ring.Partitions[p].Replicas {
		candidates = append(candidates, replica.Node)
	}
	var silent partition.NodeID
	for _, node := range candidates {
		switch {
		case node == "", node == r.self, unreached[node]:
		case node == named, r.heard(node):
			return node, true
		case silent == "":
			silent = node
		}
	}
	if silent != "" {
		return silent, true
	}
	// If it is one of the replicas it is not open yet or any more, or has failed.
	return r.self, slices.Contains(candidates[1:], r.self) && r.local.lost(p) == nil
}

// next is what to do after a refusal.
type next uint8

const (
	giveUp next = iota
	tryAgain
	tryLeader
)

// verdict decides whether an operation may be tried again: a write only after
// a definite refusal that another replica, or the same one a little later,
// need not repeat.
func verdict(e *replication.Error, write bool) next {
	if write && e.Outcome != replication.NotApplied && !fault.On(fault.RetryUnknown) {
		return giveUp
	}
	switch {
	case e.NotLeader:
		return tryLeader
	case errors.Is(e, errNotDelivered), e.Reason == replication.NoReplica:
		return tryAgain // elsewhere
	case e.Reason == replication.LeaderChanged, e.Reason == replication.Stopping:
		return tryAgain
	}
	return giveUp
}

// learn keeps who leads p, as far as a refusal tells.
func (r *router) learn(p partition.ID, from partition.NodeID, e *replication.Error) {
	r.hintsMu.Lock()
	defer r.hintsMu.Unlock()
	switch {
	case e.Leader != "":
		r.hints[p] = e.Leader
	case r.hints[p] == from:
		delete(r.hints, p)
	}
}

func (r *router) hint(p partition.ID) partition.NodeID {
	r.hintsMu.RLock()
	defer r.hintsMu.RUnlock()
	return r.hints[p]
}

// explain puts names in place of ids, where a refusal is about to leave.
func (r *router) explain(ring *control.State, p partition.ID, eventually string, e *replication.Error) *replication.Error {
	if e.Reason != replication.NoQuorum {
		return e
	}
	told := *e
	told.Message = fmt.Sprintf("no quorum for partition %d: %s reaches %d of %d replicas, %d needed",
		p, nameOf(ring, r.self), e.Reachable, len(ring.Partitions[p].Replicas), e.Needed)
	if e.Reachable >= e.Needed {
		told.Message = fmt.Sprintf("no leader for partition %d: %s reaches %d of %d replicas, but none was elected in time",
			p, nameOf(ring, r.self), e.Reachable, len(ring.Partitions[p].Replicas))
	}
	told.Err = nil
	var others []string
	for _, replica := range ring.Partitions[p].Replicas {
		if replica.Node != r.self {
			others = append(others, nameOf(ring, replica.Node))
		}
	}
	told.Try = advice(others, eventually, nameOf(ring, r.self))
	return &told
}

// What the same operation at the eventual level would do at a node.
const (
	writeEventually = "to write at %s now and merge when the cut heals"
	readEventually  = "to read what %s has now"
)

// eventually is empty for an operation that has no eventual form: a condition is
// judged where all writes are in order.
func eventually(request proto.Message) string {
	if conditional, ok := request.(interface {
		GetCondition() *capstanv1.Condition
	}); ok {
		if conditional.GetCondition().GetTest() != nil {
			return ""
		}
		return writeEventually
	}
	return readEventually
}

// advice is what to try after a refusal at self: the nodes named, or less
// consistency.
func advice(nodes []string, eventually, self string) string {
	slices.Sort(nodes)
	for i, node := range nodes {
		nodes[i] = "--via " + node
	}
	try := strings.Join(nodes, " or ")
	switch {
	case eventually == "":
		return try
	case try != "":
		try += ", or "
	}
	return try + "--ap " + fmt.Sprintf(eventually, self)
}

func notInCluster() *replication.Error {
	return &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied,
		Message: "this node does not belong to a cluster yet, or its cluster has placed no partitions yet",
		Try:     "again when /readyz answers 200",
	}
}

// notOpen is the refusal where the ring gives this node a replica that is not
// open, yet or any more.
func notOpen(p partition.ID) *replication.Error {
	return &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied, NotLeader: true,
		Message: fmt.Sprintf("the replica of partition %d at this node is not open", p), Try: "retry",
	}
}

func noReplica(ring *control.State, self partition.NodeID, p partition.ID, eventually string) *replication.Error {
	names := make([]string, 0, len(ring.Partitions[p].Replicas))
	for _, replica := range ring.Partitions[p].Replicas {
		names = append(names, nameOf(ring, replica.Node))
	}
	if eventually == readEventually {
		eventually = "" // it has nothing, at most a write of its own
	}
	return &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("no replica of partition %d can be reached: %s tried %s", p, nameOf(ring, self), strings.Join(names, ", ")),
		Try:     advice(slices.Clone(names), eventually, nameOf(ring, self)),
		Needed:  1,
	}
}

// outOfTime is the end of an operation that was refused, definitely, until its
// time was over.
func outOfTime(ctx context.Context, last *replication.Error) *replication.Error {
	if last.Reason == replication.NoQuorum {
		return last
	}
	return &replication.Error{
		Reason: replication.Deadline, Outcome: replication.NotApplied,
		Message: "out of time: " + last.Error(), Leader: last.Leader, Err: context.Cause(ctx),
	}
}

func namesOf(ring *control.State, ids []partition.NodeID) []string {
	var names []string
	for _, id := range ids {
		names = append(names, nameOf(ring, id))
	}
	slices.Sort(names)
	return names
}

func nameOf(ring *control.State, id partition.NodeID) string {
	if node, ok := ring.Node(id); ok {
		return node.Name
	}
	return string(id)
}
