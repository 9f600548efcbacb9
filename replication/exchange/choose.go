package exchange

import (
	"slices"

	"github.com/capstan-kv/capstan/partition"
)

// surroundings are what the choice of holders looks at.
type surroundings struct {
	self      partition.NodeID
	replica   bool               // this node has a replica open
	leader    partition.NodeID   // best guess, or ""
	replicas  []partition.NodeID // of the partition, by the ring
	nodes     []partition.NodeID // members
	reachable func(partition.NodeID) bool
}

// choose is who may hold a write, the preferred first. All of them can be
// reached, as far as is known; this node is always among them.
//
// A node with a replica comes first itself: it needs nobody. Then come other
// replicas, the leader before the rest, since what it holds it need not be
// handed. A node without a replica has its copy as a hint, which counts only when
// there are not enough replicas; other nodes are asked to at the very last.
func choose(s surroundings) []partition.NodeID {
	order := make([]partition.NodeID, 0, len(s.nodes)+1)
	add := func(n partition.NodeID) {
		if n == s.self || !slices.Contains(order, n) && s.reachable(n) {
			order = append(order, n)
		}
	}
	replica := s.replica || slices.Contains(s.replicas, s.self)
	if replica {
		order = append(order, s.self)
	}
	if slices.Contains(s.replicas, s.leader) && s.leader != s.self {
		add(s.leader)
	}
	for _, n := range s.replicas {
		if n != s.self {
			add(n)
		}
	}
	if !replica {
		order = append(order, s.self)
	}
	for _, n := range s.nodes {
		if n != s.self {
			add(n)
		}
	}
	return order
}
