package node

import (
	"context"
	"math"

	"github.com/capstan-kv/capstan/node/reports"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// openReports has this node tell the others how far its partitions are, and
// move the floors of those that it leads.
func (n *Node) openReports() error {
	reporter, err := reports.New(reports.Config{
		Self: n.id, Start: func() uint64 { return n.identity.Registered().Number }, Peers: n.serving(), Ring: n.ring, Alive: n.alive,
		Tentative: func(p partition.ID) (reports.Tentative, error) { return n.exchange.Tentative(p) },
		SaveHeard: n.log.SaveHeard,
		Replica: func(p partition.ID) reports.Replica {
			if here := n.replicas.replica(p); here != nil && !here.failed() {
				return reportsReplica{here}
			}
			if why := n.replicas.lost(p); why != nil && why.Quarantined {
				return quarantinedReplica{generation: why.Generation}
			}
			return nil
		},
		Events: n.journal.reports,
	})
	if err != nil {
		return err
	}
	n.reports.Store(reporter)
	n.sessions.everywhere = reporter.AppliedEverywhere
	n.background(func() {
		select {
		case <-n.gate.opened:
			reporter.Run(n.ctx)
		case <-n.ctx.Done():
		}
	})
	n.background(n.mendDamage)
	n.background(func() { n.comparer.digests.run(n.ctx) })
	n.background(func() { n.comparer.run(n.ctx) })
	return nil
}

// heldBack is how many partitions that this node leads have kept tombstones for
// long because of which nodes.
func (n *Node) heldBack() map[partition.NodeID]int {
	reporter := n.reports.Load()
	if reporter == nil {
		return nil
	}
	held := map[partition.NodeID]int{}
	for _, h := range reporter.HeldBack() {
		held[h.Node] = h.Partitions
	}
	return held
}

// exists says of dots of p whether they are those of writes: held here, or
// promoted.
func (n *Node) exists(p partition.ID) func(storage.Dot) bool {
	log, err := n.exchange.Tentative(p)
	if err != nil {
		return func(storage.Dot) bool { return false }
	}
	here := n.replicas.replica(p)
	return func(d storage.Dot) bool { return log.Holds(d) || here != nil && here.state.PromotedHas(d) }
}

// reached is the index of p that this node has heard of for good.
func (n *Node) reached(p partition.ID) uint64 {
	log, err := n.exchange.Tentative(p)
	if err != nil {
		return 0 // closing: nothing is answered any more
	}
	index, _ := log.Saved()
	return index
}

// reportsReplica is a replica as the reporter uses it.
type reportsReplica struct{ *replica }

func (h reportsReplica) Generation() uint32                   { return h.state.Replica().Generation }
func (h reportsReplica) Leads() bool                          { return h.group.Leads() }
func (h reportsReplica) Durable() uint64                      { return h.state.Durable() }
func (h reportsReplica) Floor() uint64                        { return h.state.Floor() }
func (h reportsReplica) Collectable(floor uint64) bool        { return h.state.Collectable(floor) }
func (h reportsReplica) Forfeited(node partition.NodeID) bool { return h.state.Forfeited(node) }

// quarantinedReplica is one that never serves again: sessions need not wait for it.
// What its node has heard of counts, as at any node without a replica.
type quarantinedReplica struct {
	reports.Replica
	generation uint32
}

func (q quarantinedReplica) Generation() uint32 { return q.generation }
func (quarantinedReplica) Leads() bool          { return false }
func (quarantinedReplica) Applied() uint64      { return 0 }
func (quarantinedReplica) Durable() uint64      { return math.MaxUint64 }

func (h reportsReplica) Applied() uint64 {
	applied, _ := h.state.Applied()
	return applied
}

func (h reportsReplica) RaiseFloor(ctx context.Context, floor uint64) error {
	command, err := storage.AppendFloor(nil, floor)
	if err != nil {
		return err
	}
	_, err = h.group.Propose(ctx, command)
	return err
}

func (h reportsReplica) Forfeit(ctx context.Context, node partition.NodeID) error {
	command, err := storage.AppendForfeit(nil, node)
	if err != nil {
		return err
	}
	_, err = h.group.Propose(ctx, command)
	return err
}
