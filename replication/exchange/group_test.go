package exchange

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// group stands in for the Raft group of one partition: a log that is always
// right, and a leader that writes to it while it reaches a majority.
type group struct {
	w         *world
	partition partition.ID
	replicas  []partition.NodeID

	mu      sync.Mutex
	log     []storage.ApplyEntry
	grown   chan struct{} // closed when log grows or the leader changes
	leader  partition.NodeID
	term    uint64
	unknown int // so many proposals from now on are committed and answered with an error
	// promoted are the dots of all promotions in the log: the truth.
	promoted map[storage.Dot]bool
}

func (g *group) majority(of partition.NodeID) bool {
	n := 0
	for _, r := range g.replicas {
		if g.w.net.reaches(of, r) {
			n++
		}
	}
	return n > len(g.replicas)/2
}

// tend elects a leader where there is none, and dismisses one without a majority.
func (g *group) tend() {
	g.mu.Lock()
	before := g.leader
	if g.leader != "" && !g.majority(g.leader) {
		g.leader = ""
	}
	if before == "" { // not at once
		for _, r := range g.replicas {
			if g.majority(r) {
				g.leader = r
				g.term++
				break
			}
		}
	}
	changed, leader := g.leader != before, g.leader
	if changed {
		g.tell()
	}
	g.mu.Unlock()
	if changed && leader != "" {
		for _, n := range g.w.up() {
			n.x.Kick(g.partition)
		}
	}
}

// tell wakes who follows the log. The caller holds mu.
func (g *group) tell() {
	close(g.grown)
	g.grown = make(chan struct{})
}

func (g *group) leads() partition.NodeID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leader
}

func (g *group) hasPromoted(d storage.Dot) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.promoted[d]
}

func (g *group) transfer(to partition.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leader = to
	g.term++
	g.tell()
}

// append commits a command, and gives its index.
func (g *group) append(leader partition.NodeID, command []byte) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leader != leader {
		return 0, &replication.Error{Reason: replication.LeaderChanged, Outcome: replication.NotApplied, NotLeader: true, Leader: g.leader}
	}
	if !g.majority(leader) {
		return 0, errCutOff
	}
	e := storage.ApplyEntry{Index: uint64(len(g.log) + 1), Term: g.term, Commands: [][]byte{command}}
	g.log = append(g.log, e)
	if p, err := storage.DecodePromotion(command); err == nil {
		for _, t := range p.Writes {
			g.promoted[t.Dot] = true
		}
	}
	g.tell()
	return e.Index, nil
}

var errCutOff = errors.New("no majority")

// replica is one node's copy of a group.
type replica struct {
	group *group
	node  *node
	state *storage.ReplicaState

	mu      sync.Mutex
	applied chan struct{} // closed when more was applied
	frozen  bool
	unaware atomic.Int64
	results map[uint64]storage.CommandResult // of the latest entries
	// beforeApplied, if set, is called after an entry is applied and before the
	// exchange is told.
	beforeApplied func()
}

func (r *replica) freeze(frozen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = frozen
}

// follow applies the log as it grows, while the leader can be heard.
func (r *replica) follow(stop <-chan struct{}) {
	for {
		r.group.mu.Lock()
		grown, leader := r.group.grown, r.group.leader
		index, _ := r.state.Applied()
		next := r.group.log[index:]
		r.group.mu.Unlock()
		r.mu.Lock()
		frozen := r.frozen
		r.mu.Unlock()
		if len(next) > 0 && !frozen && leader != "" && r.node.w.net.reaches(leader, r.node.id) {
			r.apply(next[:1])
			continue
		}
		select {
		case <-grown:
		case <-time.After(20 * time.Millisecond):
		case <-stop:
			return
		}
	}
}

func (r *replica) apply(entries []storage.ApplyEntry) {
	results, err := r.state.Apply(entries)
	if err != nil {
		r.node.w.t.Errorf("%s: %v", r.node.id, err)
		return
	}
	var promoted []storage.PromotionResult
	for _, of := range results {
		for _, c := range of {
			if c.Promoted != nil {
				promoted = append(promoted, *c.Promoted)
			}
		}
	}
	index, _ := r.state.Applied()
	if r.beforeApplied != nil {
		r.beforeApplied()
	}
	r.node.x.Applied(r.group.partition, index, promoted)
	if index%8 == 0 {
		if err := r.state.Sync(); err != nil {
			r.node.w.t.Errorf("%s: %v", r.node.id, err)
		}
		r.node.x.Durable(r.group.partition, r.state.Durable())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[index] = results[0][0]
	delete(r.results, index-64)
	close(r.applied)
	r.applied = make(chan struct{})
}

func (r *replica) result(index uint64) (result storage.CommandResult, ok bool, change <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	result, ok = r.results[index]
	return result, ok, r.applied
}

// PromotedHas says no as often as unaware says: what is asked then is just being
// applied.
func (r *replica) PromotedHas(d storage.Dot) bool {
	return r.unaware.Add(-1) < 0 && r.state.PromotedHas(d)
}

func (r *replica) Leads() bool { return r.group.leads() == r.node.id }

func (r *replica) Propose(ctx context.Context, command []byte) (any, error) {
	time.Sleep(time.Millisecond) // an fsync and a round trip
	index, err := r.group.append(r.node.id, command)
	if errors.Is(err, errCutOff) {
		<-ctx.Done()
		return nil, &replication.Error{Reason: replication.Deadline, Outcome: replication.Unknown}
	}
	if err != nil {
		return nil, err
	}
	r.group.mu.Lock()
	unknown := r.group.unknown > 0
	if unknown {
		r.group.unknown--
	}
	r.group.mu.Unlock()
	if unknown {
		return nil, &replication.Error{Reason: replication.LeaderChanged, Outcome: replication.Unknown}
	}
	for {
		result, ok, change := r.result(index)
		if ok {
			return result, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, &replication.Error{Reason: replication.Deadline, Outcome: replication.Unknown}
		}
	}
}

func (r *replica) WaitApplied(ctx context.Context, index uint64) error {
	for {
		_, _, change := r.result(0)
		if applied, _ := r.state.Applied(); applied >= index {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *replica) Applied() (index, term uint64)            { return r.state.Applied() }
func (r *replica) Lived() time.Duration                     { return r.state.Lived() }
func (r *replica) Promoted() *storage.DotSet                { return r.state.Promoted() }
func (r *replica) Forfeited(n partition.NodeID) bool        { return r.state.Forfeited(n) }
func (r *replica) Fate(d storage.Dot) (storage.Fate, error) { return r.state.Fate(d) }
func (r *replica) Newest(key []byte) (hlc.Timestamp, error) {
	v, _, err := r.state.Get(key)
	return v.Version.Timestamp, err
}
