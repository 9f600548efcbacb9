package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// heardWithin is how long ago a node was heard of that counts as reachable: as
// long as a follower waits for its leader.
const heardWithin = 1500 * time.Millisecond

// heardOf says whether a node is worth asking: it was heard of lately, or no
// connection to it was needed before and gossip believes in it.
func (n *Node) heardOf(node partition.NodeID) bool {
	if ago, ok := n.transport.LastHeard(node); ok {
		return ago < heardWithin
	}
	return n.alive()[node]
}

// openExchange opens what holds this node's tentative writes.
func (n *Node) openExchange() (err error) {
	n.router.heard = n.heardOf
	n.exchange, err = exchange.New(exchange.Config{
		Self: n.id, Log: n.log, Clock: n.clock, Peers: exchangePeers{n.serving(), n},
		Room: n.disk.check,
		Ring: func() exchange.Placement {
			if ring := n.ring(); ring.Placed() {
				return placement{ring, n.id, n.replicas.quarantined}
			}
			return nil
		},
		Replica: func(p partition.ID) exchange.Replica {
			if here := n.replicas.replica(p); here != nil && !here.failed() {
				return exchangeReplica{here}
			}
			return nil
		},
		Leader: n.leaderOf,
		Events: n.onExchange,
	})
	return err
}

// leaderOf is who leads p as far as this node knows. Without a replica, and
// without having heard lately, it is a replica that will know.
func (n *Node) leaderOf(p partition.ID) partition.NodeID {
	if here := n.router.serving(p); here != nil {
		return here.leader()
	}
	if hint := n.router.hint(p); hint != "" && n.heardOf(hint) {
		return hint
	}
	ring := n.ring()
	if int(p) >= len(ring.Partitions) {
		return ""
	}
	if nodes := n.router.nearest(ring, p); len(nodes) > 0 {
		return nodes[rand.IntN(len(nodes))]
	}
	return ""
}

// exchangePeers are the peers as the exchange sees them.
type exchangePeers struct {
	gated
	node *Node
}

// LastHeard believes in gossip as long as nothing was needed of a node: who has
// just started would else refuse what takes two, as if it were alone.
func (p exchangePeers) LastHeard(node partition.NodeID) (ago time.Duration, ok bool) {
	if ago, ok = p.peers.LastHeard(node); ok {
		return ago, true
	}
	return 0, p.node.alive()[node]
}

// onReplication has tentative writes handed in as soon as a partition has a leader.
func (n *Node) onReplication(e replication.Event) {
	n.journal.replication(e)
	var of storage.Replica
	switch e := e.(type) {
	case replication.ReplicaFailed:
		if e.Replica.Group == storage.ControlGroup {
			// Without it the node learns of no change of the cluster: no disk space for its
			// log, most often.
			n.fail(fmt.Errorf("control group: %w", e.Err))
			return
		}
		n.replicas.fail(e.Replica, e.Err)
		return
	case replication.LeaderObserved:
		of = e.Replica
	case replication.LeadershipProven:
		of = e.Replica
	default:
		return
	}
	if p, ok := of.Group.Partition(); ok {
		n.exchange.Kick(p)
	}
}

const (
	// settleEvery is how often the state is made durable while it changes. What was
	// decided can leave the tentative log then: until then it counts against its
	// bounds. It also bounds how old an index is that sessions drop, and what a
	// node that lost its process has forgotten when it starts again: only a leader
	// can tell it what of its log is committed, and on the wrong side of a cut
	// there is none.
	settleEvery = 2 * time.Second
	// settleLook is how often there is a look whether so many wait that it is to
	// be done at once.
	settleLook = time.Second
	maxSettled = 20_000
)

// settle makes the state durable from time to time. It ends with the node.
func (n *Node) settle() {
	look := time.NewTicker(settleLook)
	defer look.Stop()
	last, synced := time.Now(), map[partition.ID]uint64{}
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-look.C:
		}
		settled := 0
		for _, held := range n.exchange.Backlog() {
			settled += held.Settled
		}
		if settled < maxSettled && time.Since(last) < settleEvery {
			continue
		}
		last = time.Now()
		moved := false
		for _, here := range n.replicas.all() {
			applied, _ := here.state.Applied()
			moved = moved || applied > synced[here.partition]
			synced[here.partition] = applied
		}
		if !moved && settled == 0 {
			continue
		}
		if err := n.state.Sync(); n.ctx.Err() != nil {
			return
		} else if err != nil {
			n.journal.log.Warn("the state was not made durable, will be tried again", "err", err)
			clear(synced)
			continue
		}
		for _, here := range n.replicas.all() {
			n.exchange.Durable(here.partition, here.state.Durable())
		}
	}
}

func (n *Node) onExchange(e exchange.Event) {
	n.journal.exchange(e)
	if e, ok := e.(exchange.HandedIn); ok {
		for _, lag := range e.Lags {
			n.metrics.Promoted(lag)
		}
	}
}

// placement is the ring as the exchange asks for it. A node whose replica is
// quarantined has none, as far as that node is concerned: it holds hints.
type placement struct {
	ring        *control.State
	self        partition.NodeID
	quarantined func(partition.ID) bool // of self
}

func (p placement) Partitions() int { return len(p.ring.Partitions) }

func (p placement) Replicas(id partition.ID) []partition.NodeID {
	if int(id) >= len(p.ring.Partitions) {
		return nil
	}
	var nodes []partition.NodeID
	for _, placed := range p.ring.Partitions[id].Replicas {
		if placed.Node == p.self && p.quarantined(id) {
			continue
		}
		if node, ok := p.ring.Node(placed.Node); ok && node.State != control.Left {
			nodes = append(nodes, placed.Node)
		}
	}
	return nodes
}

// Nodes are all that belong to the cluster, dead ones included.
func (p placement) Nodes() []partition.NodeID {
	var nodes []partition.NodeID
	for _, node := range p.ring.Nodes {
		if node.State != control.Left {
			nodes = append(nodes, node.ID)
		}
	}
	return nodes
}

// Removed says of a node that it was taken out of the cluster for ever.
func (p placement) Removed(id partition.NodeID) bool {
	node, ok := p.ring.Node(id)
	return ok && node.State == control.Left
}

// ReplicationFactor is how many replicas a partition is to have.
func (p placement) ReplicationFactor() int { return p.ring.Settings.ReplicationFactor }

// exchangeReplica is a replica as the exchange uses it.
type exchangeReplica struct{ *replica }

func (h exchangeReplica) Leads() bool { return h.group.Leads() }

func (h exchangeReplica) Propose(ctx context.Context, command []byte) (any, error) {
	return h.group.Propose(ctx, command)
}

func (h exchangeReplica) WaitApplied(ctx context.Context, index uint64) error {
	return h.group.WaitApplied(ctx, index)
}

func (h exchangeReplica) Applied() (index, term uint64)            { return h.state.Applied() }
func (h exchangeReplica) Lived() time.Duration                     { return h.state.Lived() }
func (h exchangeReplica) Promoted() *storage.DotSet                { return h.state.Promoted() }
func (h exchangeReplica) PromotedHas(d storage.Dot) bool           { return h.state.PromotedHas(d) }
func (h exchangeReplica) Fate(d storage.Dot) (storage.Fate, error) { return h.state.Fate(d) }

func (h exchangeReplica) Forfeited(node partition.NodeID) bool { return h.state.Forfeited(node) }

// Newest is the timestamp of what the replica holds for key, be it a tombstone.
func (h exchangeReplica) Newest(key []byte) (hlc.Timestamp, error) {
	newest, err := (storage.Local{State: h.state}).Newest(key)
	return newest, h.unread(err)
}
