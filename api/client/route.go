package client

import (
	"context"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

const (
	// backoffFirst doubles with each attempt up to backoffMost; a wait is
	// drawn evenly from zero to that (full jitter).
	backoffFirst = 20 * time.Millisecond
	backoffMost  = time.Second
	// leastReadAttempt: with less time than twice that left, an attempt at a
	// read gets it all.
	leastReadAttempt = 50 * time.Millisecond
	// refusedRounds is how often a call tries every node it knows while none
	// accepts a connection: nobody is there, and waiting longer tells no more.
	refusedRounds = 4
	// probeTimeout bounds the question whether a node answers at all: some round
	// trips to another continent.
	probeTimeout = 500 * time.Millisecond
	// maxHints bounds how many hints at a leader one call follows.
	maxHints = 3
)

// call says what kind of call is routed.
type call struct {
	op    string
	write bool
	key   []byte // nil: any node does
	near  bool   // any replica does: it needs no leader
	waits bool   // it lasts as long as it was told to
	via   bool   // one node, one attempt
}

// route is the order in which nodes are asked.
type route struct {
	order []*node
	next  int
	hints int
	hint  *node
}

func (r *route) pick() (n *node, fresh bool) {
	if r.hint != nil {
		n, r.hint = r.hint, nil
		return n, true
	}
	n, fresh = r.order[r.next%len(r.order)], r.next < len(r.order)
	r.next++
	return n, fresh
}

// routeTo orders the nodes for a call: the leader of the key's partition, its
// other replicas, the other nodes, the endpoints. What needs no leader goes to
// the nearest replica. Nodes that refused a connection a moment ago come last.
func (c *Client) routeTo(ctx context.Context, what call, via string) (*route, *Error) {
	if what.via {
		n, err := c.resolve(ctx, what, via)
		if err != nil {
			return nil, err
		}
		return &route{order: []*node{n}}, nil
	}
	r := c.ring.Load()
	if r == nil {
		c.refreshSoon()
		return &route{order: c.anyNodes(0)}, nil
	}
	var order []*node
	if what.key != nil {
		id := partitionOf(what.key, len(r.partitions))
		p := r.partitions[id]
		switch {
		case what.near:
			order = nearFirst(p.replicas, c.home+id)
		case p.leader != nil:
			order = append([]*node{p.leader}, rotated(p.replicas)...)
		default:
			order = rotated(p.replicas)
		}
	}
	return &route{order: avoidLast(append(order, c.anyNodes(0)...))}, nil
}

// anyNodes lists the ring's nodes, from a random one on, then the endpoints; at
// most n if n is not 0. There is always one.
func (c *Client) anyNodes(n int) []*node {
	var all []*node
	if r := c.ring.Load(); r != nil {
		all = rotated(r.nodes)
	}
	all = avoidLast(append(all, c.seeds...))
	if n > 0 && len(all) > n {
		all = all[:n]
	}
	return all
}

func rotated(nodes []*node) []*node {
	if len(nodes) < 2 {
		return append([]*node(nil), nodes...)
	}
	at := rand.IntN(len(nodes))
	return append(append([]*node(nil), nodes[at:]...), nodes[:at]...)
}

// avoidLast drops repetitions and moves the nodes to avoid to the end.
func avoidLast(nodes []*node) []*node {
	seen := make(map[*node]bool, len(nodes))
	good := make([]*node, 0, len(nodes))
	var bad []*node
	for _, n := range nodes {
		switch {
		case seen[n]:
		case n.avoid():
			bad = append(bad, n)
		default:
			good = append(good, n)
		}
		seen[n] = true
	}
	return append(good, bad...)
}

// invoke sends a call until it succeeds, fails for good, or may not be tried
// again. send returns the name of the node that served, if the answer says so.
func invoke[T any](ctx context.Context, c *Client, what call, s settings, send func(context.Context, *node) (T, string, error)) (T, error) {
	var zero T
	if err := c.open(what.op); err != nil {
		return zero, err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if s.via == "" {
		s.via = c.via
	}
	what.via = s.via != ""
	if ctx.Err() != nil {
		return zero, contextError(ctx, what)
	}
	way, refused := c.routeTo(ctx, what, s.via)
	if refused != nil {
		return zero, refused
	}
	n, _ := way.pick()
	refusals := 0   // in a row
	var told *Error // the last definite refusal for want of a quorum
	for attempt := 1; ; attempt++ {
		one, done := attemptContext(ctx, what)
		answer, servedBy, err := send(one, n)
		done()
		if err == nil {
			n.worked()
			c.observe(what, n, servedBy)
			return answer, nil
		}
		e := errorOf(what, err)
		e.Endpoint, e.Attempts = n.base, attempt
		if e.Code == connect.CodeCanceled && e.Info == nil && ctx.Err() == nil {
			e.Code = connect.CodeUnavailable // it was the connection that ended
		}
		if e.Info == nil {
			e.Message = n.base + ": " + e.Message // the way there, or what stands in the way
		}
		n.note(e)
		if !what.via {
			c.refreshSoon()
		}
		if refusals++; !e.unsent {
			refusals = 0
		}
		if e.Reason == capstanv1.Reason_REASON_NO_QUORUM && e.Outcome == capstanv1.Outcome_OUTCOME_NOT_APPLIED {
			told = e
		} else if told != nil && !what.write && e.Info == nil {
			e = told // it says more than that another node does not answer
		}
		if attempt >= c.maxAttempts || refusals >= refusedRounds*len(way.order) || !retryable(what, e, ctx.Err() == nil) {
			return zero, e
		}
		hinted := c.follow(way, e)
		next, fresh := way.pick()
		// The node that was named is asked at once, and so is one not yet
		// asked if this one could not be reached, or if each can answer by
		// itself; else the cluster gets time to settle.
		if atOnce := hinted || (fresh && (e.unsent || what.near)); !atOnce && !wait(ctx, attempt) {
			return zero, e
		}
		if told != nil && what.write {
			if next = c.answering(ctx, way, next, told.Endpoint); next == nil {
				return zero, told
			}
		}
		n = next
	}
}

// answering is next, or one behind it, that answers a question: after a definite
// refusal for want of a quorum the other nodes may be frozen or cut off, and a
// write that is sent to one of those has an unknown outcome. refused has just
// answered. Nil if none answers in time.
func (c *Client) answering(ctx context.Context, way *route, next *node, refused string) *node {
	for range len(way.order) + 1 {
		if next.base == refused {
			return next
		}
		one, cancel := context.WithTimeout(ctx, probeTimeout)
		_, err := next.cluster.GetStatus(one, &capstanv1.GetStatusRequest{})
		cancel()
		if err == nil {
			return next
		}
		if ctx.Err() != nil {
			return nil
		}
		next.note(errorOf(call{op: "status"}, err))
		next, _ = way.pick()
	}
	return nil
}

// follow takes an error's hint at the leader, if there is one.
func (c *Client) follow(way *route, e *Error) bool {
	if e.Leader == "" || way.hints == maxHints {
		return false
	}
	base, err := baseURL(e.Leader)
	if err != nil || base == e.Endpoint {
		return false
	}
	way.hints++
	way.hint = c.nodeAt(base)
	return true
}

// observe learns from an answer: if another node served than the one asked,
// the ring has changed.
func (c *Client) observe(what call, n *node, servedBy string) {
	if what.via || what.key == nil || servedBy == "" {
		return
	}
	if r := c.ring.Load(); r != nil && r.byName[servedBy] != n {
		c.refreshSoon()
	}
}

// attemptContext leaves an attempt at a read half of the time that is left, so
// that a node that hangs does not use up the whole call.
func attemptContext(ctx context.Context, what call) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	left := time.Until(deadline)
	if !ok || what.write || what.waits || what.via || left < 2*leastReadAttempt {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, left/2)
}

// backoff is the longest wait after so many attempts.
func backoff(attempt int) time.Duration {
	d := backoffFirst
	for i := 1; i < attempt && d < backoffMost; i++ {
		d *= 2
	}
	return min(d, backoffMost)
}

// leastAttempt is the time below which no further attempt begins: its deadline
// would most likely end it, and make an unknown outcome of a definite one.
const leastAttempt = 50 * time.Millisecond

// wait reports whether there is time for another attempt after a backoff.
func wait(ctx context.Context, attempt int) bool {
	d := rand.N(backoff(attempt))
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d+leastAttempt {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// note remembers a node that cannot be reached, for longer each time: an
// advertised address that no client reaches costs a dial per avoidMost then.
func (n *node) note(e *Error) {
	if !e.unsent && (e.Info != nil || e.Code != connect.CodeUnavailable) {
		return
	}
	if !n.avoid() { // many calls may fail at once; that counts as one failure
		n.failures.Add(1)
	}
	n.failedAt.Store(time.Now().UnixNano())
}

// worked forgets the failures of a node that has answered.
func (n *node) worked() {
	if n.failures.Load() != 0 {
		n.failures.Store(0)
		n.failedAt.Store(0)
	}
}

func (n *node) avoid() bool {
	at := n.failedAt.Load()
	return at != 0 && time.Since(time.Unix(0, at)) < avoidance(n.failures.Load())
}

// avoidance is how long a node is asked last after so many failures in a row.
func avoidance(failures int32) time.Duration {
	d := avoidFor
	for ; failures > 1 && d < avoidMost; failures-- {
		d *= 2
	}
	return min(d, avoidMost)
}
