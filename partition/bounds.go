package partition

import (
	"cmp"
	"slices"
)

// Share bounds how many replicas one node holds: its fair share, rounded down
// and up.
type Share struct{ Low, High int }

// Bounds is what every placement of some partitions on some nodes must keep.
type Bounds struct {
	// Replicas is the size of each replica set: the replication factor, or all
	// nodes where there are fewer.
	Replicas int
	// ZoneLimit is how many replicas of one partition may share a zone: the
	// smallest number with which the zones suffice.
	ZoneLimit int
	// Shares bounds each node's replicas.
	Shares map[NodeID]Share
}

// BoundsOf is the bounds for that many partitions and replicas on the nodes.
// They can always be met, all at once.
//
// The shares are those of water filling. Zone z can hold at most
// partitions * min(ZoneLimit, its nodes) replicas; a zone for which an equal
// share would be more than that holds just that, its nodes equally, and the
// rest is shared equally by the nodes of the other zones. Spreading every
// partition in these proportions is a fractional placement that keeps all
// bounds, and as a flow with whole capacities it has a whole solution.
func BoundsOf(partitions, replicationFactor int, nodes []Node) Bounds {
	nodes = sorted(nodes)
	sizes := map[string]int{}
	for _, n := range nodes {
		sizes[n.Zone]++
	}
	b := Bounds{Replicas: min(replicationFactor, len(nodes)), Shares: make(map[NodeID]Share, len(nodes))}
	room := func(limit int) (total int) {
		for _, size := range sizes {
			total += min(limit, size)
		}
		return total
	}
	for room(b.ZoneLimit) < b.Replicas {
		b.ZoneLimit++
	}

	type zone struct {
		name       string
		size, most int
	}
	zones := make([]zone, 0, len(sizes))
	for name, size := range sizes {
		zones = append(zones, zone{name, size, partitions * min(b.ZoneLimit, size)})
	}
	slices.SortFunc(zones, func(a, b zone) int { // the one that fills first
		return cmp.Or(cmp.Compare(a.most*b.size, b.most*a.size), cmp.Compare(a.name, b.name))
	})
	rest, left := partitions*b.Replicas, len(nodes)
	shares := map[string]Share{}
	for _, z := range zones {
		part, of := rest, left
		if z.most*left <= rest*z.size {
			part, of = z.most, z.size
			rest, left = rest-z.most, left-z.size
		}
		shares[z.name] = Share{Low: part / of, High: (part + of - 1) / of}
	}
	for _, n := range nodes {
		b.Shares[n.ID] = shares[n.Zone]
	}
	return b
}
