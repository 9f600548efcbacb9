package partition

import (
	"cmp"
	"slices"
)

// Plan is the moves that lead from the current placement to one on the given
// nodes within [BoundsOf], and no fewer would do: as many of the current
// replicas stay as in any such placement. It is empty if the current placement
// is within the bounds. Partitions that hold the fewest replicas on the given
// nodes come first. Without nodes there is nowhere to go, and no move.
func Plan(current Assignment, nodes []Node, replicationFactor int) []Move {
	nodes = sorted(nodes)
	return planOn(NewRing(nodes), current, nodes, BoundsOf(len(current), replicationFactor, nodes))
}

func planOn(ring *Ring, current Assignment, nodes []Node, b Bounds) []Move {
	if len(nodes) == 0 {
		return nil
	}
	held := newHoldings(nodes, b)
	edges := make([][]int, len(current)) // by partition and node
	preferred := make([][]Node, len(current))
	for p, set := range current {
		preferred[p] = slices.Collect(ring.Walk(point(ID(p), len(current))))
		edges[p] = held.partition(set, preferred[p])
	}
	held.close(len(current))
	if !held.solve() {
		panic("partition: no placement within bounds that can always be met")
	}

	var moves []Move
	alive := make([]int, len(current))
	for p, set := range current {
		var gone, come []NodeID
		kept := map[NodeID]bool{}
		for i, n := range preferred[p] {
			had := slices.Contains(set, n.ID)
			has := held.carried(edges[p][i]) == 1
			kept[n.ID] = had && has
			if has && !had {
				come = append(come, n.ID)
			}
			if had {
				alive[p]++
			}
		}
		for _, n := range set {
			if !kept[n] {
				gone = append(gone, n)
			}
		}
		for i := range max(len(gone), len(come)) {
			m := Move{Partition: ID(p)}
			if i < len(gone) {
				m.From = gone[i]
			}
			if i < len(come) {
				m.To = come[i]
			}
			moves = append(moves, m)
		}
	}
	slices.SortStableFunc(moves, func(a, b Move) int {
		return cmp.Compare(alive[a.Partition], alive[b.Partition])
	})
	return moves
}

// holdings is the placement as a flow: each partition sends its replicas
// through its share of each zone to nodes, and each node on to one sink. A
// replica that is there costs nothing, a new one costs 1.
type holdings struct {
	flow
	bounds Bounds
	nodes  []Node
	node   int // vertex of nodes[0]
	sink   int
	index  map[NodeID]int
	loads  []int
}

func newHoldings(nodes []Node, b Bounds) *holdings {
	h := &holdings{bounds: b, nodes: nodes, index: map[NodeID]int{}, loads: make([]int, len(nodes))}
	h.sink = h.vertices(1)
	h.node = h.vertices(len(nodes))
	for i, n := range nodes {
		h.index[n.ID] = i
	}
	return h
}

// partition adds one partition and is its edges to the nodes, in their order.
func (h *holdings) partition(set ReplicaSet, order []Node) []int {
	self := h.vertices(1)
	h.excess[self] = h.bounds.Replicas
	inZone := map[string]int{}
	for _, n := range order {
		if slices.Contains(set, n.ID) {
			inZone[n.Zone]++
		}
	}
	zones := map[string]int{} // vertices
	edges := make([]int, len(order))
	for i, n := range order {
		zone, ok := zones[n.Zone]
		if !ok {
			zone = h.vertices(1)
			zones[n.Zone] = zone
			h.edge(self, zone, 0, h.bounds.ZoneLimit, min(inZone[n.Zone], h.bounds.ZoneLimit), 0)
		}
		at := h.index[n.ID]
		if slices.Contains(set, n.ID) {
			edges[i] = h.edge(zone, h.node+at, 0, 1, 1, 0)
			h.loads[at]++
		} else {
			edges[i] = h.edge(zone, h.node+at, 0, 1, 0, 1)
		}
	}
	return edges
}

// close joins the nodes to the sink, once all partitions are there.
func (h *holdings) close(partitions int) {
	for i, n := range h.nodes {
		s := h.bounds.Shares[n.ID]
		h.edge(h.node+i, h.sink, s.Low, s.High, max(s.Low, min(h.loads[i], s.High)), 0)
	}
	h.excess[h.sink] -= partitions * h.bounds.Replicas
}
