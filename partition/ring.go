package partition

import (
	"cmp"
	"iter"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// VirtualNodes is how many tokens each node has on the ring: enough that two
// nodes' arcs differ by little (about 1/sqrt(128), 9 %), few enough that a ring
// of 100 nodes is built in a millisecond.
const VirtualNodes = 128

// Ring is consistent hashing with virtual nodes: each node owns
// [VirtualNodes] tokens of the hash space. A node that comes or goes changes
// nothing in the order in which a walk meets the others. Safe for concurrent
// use.
type Ring struct {
	nodes  int
	tokens []token
}

type token struct {
	at   uint64
	node Node
}

// NewRing is the ring of the given nodes, in any order.
func NewRing(nodes []Node) *Ring {
	nodes = sorted(nodes)
	r := &Ring{nodes: len(nodes), tokens: make([]token, 0, len(nodes)*VirtualNodes)}
	for _, n := range nodes {
		for i := range VirtualNodes {
			r.tokens = append(r.tokens, token{xxhash.Sum64String(string(n.ID) + "#" + strconv.Itoa(i)), n})
		}
	}
	slices.SortFunc(r.tokens, func(a, b token) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.node.ID, b.node.ID))
	})
	return r
}

// Walk yields every node once, in the order in which their tokens are met from
// the given point of the hash space on.
func (r *Ring) Walk(from uint64) iter.Seq[Node] {
	return func(yield func(Node) bool) {
		start, _ := slices.BinarySearchFunc(r.tokens, from, func(t token, at uint64) int { return cmp.Compare(t.at, at) })
		seen := make(map[NodeID]bool, r.nodes)
		for i := range r.tokens {
			n := r.tokens[(start+i)%len(r.tokens)].node
			if seen[n.ID] {
				continue
			}
			seen[n.ID] = true
			if !yield(n) || len(seen) == r.nodes {
				return
			}
		}
	}
}
