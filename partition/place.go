package partition

import "slices"

// PlaceInput is what a first placement rests on.
type PlaceInput struct {
	Partitions        int // valid by [ValidCount]
	ReplicationFactor int
	Nodes             []Node // distinct ids, any order
}

// Place is a placement of all partitions on the nodes within [BoundsOf], the
// preferred leaders evenly spread. Without nodes all sets are empty.
func Place(in PlaceInput) Assignment {
	nodes := sorted(in.Nodes)
	ring := NewRing(nodes)
	b := BoundsOf(in.Partitions, in.ReplicationFactor, nodes)
	walked := make(Assignment, in.Partitions)
	loads := map[NodeID]int{}
	for p := range walked {
		zones := map[string]int{}
		for n := range ring.Walk(point(ID(p), in.Partitions)) {
			if len(walked[p]) == b.Replicas {
				break
			}
			if loads[n.ID] < b.Shares[n.ID].High && zones[n.Zone] < b.ZoneLimit {
				walked[p] = append(walked[p], n.ID)
				loads[n.ID]++
				zones[n.Zone]++
			}
		}
	}
	placed, err := walked.Moved(planOn(ring, walked, nodes, b)...)
	if err != nil {
		panic("partition: the planner's own moves do not fit: " + err.Error())
	}
	spreadPreferred(placed, nodes)
	return placed
}

// spreadPreferred puts an evenly chosen leader first in each set.
func spreadPreferred(a Assignment, nodes []Node) {
	if len(nodes) == 0 {
		return
	}
	leaders := make([]NodeID, len(a))
	for p, set := range a {
		leaders[p] = set[0]
	}
	even := len(a) / len(nodes)
	chosen, ok := spreadLeaders(leaders, a, Share{even, (len(a) + len(nodes) - 1) / len(nodes)})
	for high := even; !ok; high++ {
		chosen, ok = spreadLeaders(leaders, a, Share{0, high})
	}
	for p, set := range a {
		i := slices.Index(set, chosen[p])
		set[0], set[i] = set[i], set[0]
	}
}
