package formation

import (
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// PromiseLifetime is how long a promise keeps other founders out. It outlives an
// attempt (AttemptTimeout) so that a founder that is at work is not disturbed; no
// safety rests on it.
const PromiseLifetime = 10 * time.Second

// Promises is one node's side of the protocol without clock, lock or network: what
// it has promised, and how its own attempt stands. Not safe for concurrent use.
type Promises struct {
	self    partition.NodeID
	expect  int
	cluster string
	joining string // the cluster that this node is about to join

	// The promise to somebody else.
	founder   partition.NodeID
	formation string
	until     time.Time

	// The attempt of one's own; its formation is this node's promise to itself.
	own     string
	set     []partition.NodeID
	granted map[partition.NodeID]bool
}

// NewPromises starts with no promise; cluster is what the node belongs to, if any.
func NewPromises(self partition.NodeID, expect int, cluster string) *Promises {
	return &Promises{self: self, expect: expect, cluster: cluster}
}

// OnAsk answers a request.
func (p *Promises) OnAsk(now time.Time, r PromiseRequest) PromiseReply {
	reply := PromiseReply{Format: messageFormat, Formation: r.Formation, Node: p.self}
	switch {
	case r.check() != nil:
		reply.Reason = "malformed request"
	case r.To != p.self:
		reply.Reason = fmt.Sprintf("this is %s, not %s", p.self, r.To)
	case p.cluster != "":
		reply.ClusterID = p.cluster
	case p.joining != "":
		reply.Reason = "joining cluster " + p.joining
	case p.own != "":
		reply.Reason = "founding a cluster itself"
	case len(r.Set) != p.expect:
		reply.Reason = fmt.Sprintf("expects %d nodes, not %d", p.expect, len(r.Set))
	case p.founder != "" && p.founder != r.Founder && now.Before(p.until):
		reply.Reason = fmt.Sprintf("promised to %s for another %v", p.founder, p.until.Sub(now).Round(time.Millisecond))
	default:
		p.founder, p.formation, p.until = r.Founder, r.Formation, now.Add(PromiseLifetime)
		reply.Granted = true
	}
	return reply
}

// Begin starts an attempt of one's own and gives the requests to send, or says
// why it must wait. A formation id is never used twice.
func (p *Promises) Begin(now time.Time, set []partition.NodeID, formation string) ([]PromiseRequest, error) {
	switch {
	case p.cluster != "":
		return nil, fmt.Errorf("belongs to cluster %s already", p.cluster)
	case p.joining != "":
		return nil, fmt.Errorf("joining cluster %s", p.joining)
	case p.own != "":
		return nil, fmt.Errorf("formation %s is under way", p.own)
	case p.founder != "" && now.Before(p.until):
		return nil, fmt.Errorf("promised to %s for another %v", p.founder, p.until.Sub(now).Round(time.Millisecond))
	case len(set) != p.expect:
		return nil, fmt.Errorf("a set of %d where %d are expected", len(set), p.expect)
	}
	var requests []PromiseRequest
	for _, id := range set {
		r := PromiseRequest{Format: messageFormat, Formation: formation, Founder: p.self, To: id, Set: set}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMessage, err)
		}
		if id != p.self {
			requests = append(requests, r)
		}
	}
	p.own, p.set, p.granted = formation, slices.Clone(set), map[partition.NodeID]bool{p.self: true}
	p.founder, p.formation, p.until = "", "", time.Time{}
	return requests, nil
}

// OnReply takes an answer to one's own attempt; answers to others are ignored.
func (p *Promises) OnReply(r PromiseReply) {
	if p.own != "" && r.Formation == p.own && r.Granted && slices.Contains(p.set, r.Node) {
		p.granted[r.Node] = true
	}
}

// Complete says whether every promise is in: the node may found.
func (p *Promises) Complete() bool { return p.own != "" && len(p.granted) == len(p.set) }

// Abandon ends one's own attempt; never after founding has begun.
func (p *Promises) Abandon() { p.own, p.set, p.granted = "", nil, nil }

// Joining keeps the node from promising while it joins; empty ends that.
func (p *Promises) Joining(cluster string) { p.joining = cluster }

// Belong says that the node durably belongs to that cluster.
func (p *Promises) Belong(cluster string) {
	p.cluster, p.joining = cluster, ""
	p.Abandon()
}
