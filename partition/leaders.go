package partition

import (
	"fmt"
	"slices"
)

// Transfer hands one partition's leadership over.
type Transfer struct {
	Partition ID
	From, To  NodeID
}

func (t Transfer) String() string {
	return fmt.Sprintf("partition %d: lead %s -> %s", t.Partition, t.From, t.To)
}

// LeaderLimit is how many partitions one node leads at most: an equal part of
// those that any willing node holds, rounded up, or, where the replica sets do
// not allow that, the smallest number that they do.
func LeaderLimit(a Assignment, willing map[NodeID]bool) int {
	_, limit, _ := placeLeaders(make([]NodeID, len(a)), a, willing)
	return limit
}

// PlanLeaders is the fewest transfers after which no node leads more than
// [LeaderLimit] and each leader is one of the willing (alive and not on its
// way out) in its partition's replica set; among equally few, those that make
// preferred leaders lead. leaders is who leads each partition now. A partition
// whose leader is not known ("") cannot be transferred and counts for nobody; nor
// can one without a willing replica.
func PlanLeaders(leaders []NodeID, a Assignment, willing map[NodeID]bool) []Transfer {
	led, _, chosen := placeLeaders(leaders, a, willing)
	var transfers []Transfer
	for i, p := range led {
		if from := leaders[p]; from != chosen[i] {
			transfers = append(transfers, Transfer{Partition: p, From: from, To: chosen[i]})
		}
	}
	return transfers
}

// placeLeaders is the partitions that have a leader and a willing replica, the
// limit, and who is to lead each of those partitions.
func placeLeaders(leaders []NodeID, a Assignment, willing map[NodeID]bool) (led []ID, limit int, chosen []NodeID) {
	var (
		all, sets Assignment // willing replicas: of every partition, of those led
		now       []NodeID
		nodes     = map[NodeID]bool{}
	)
	for p, set := range a {
		var candidates ReplicaSet
		for _, n := range set {
			if willing[n] {
				candidates = append(candidates, n)
				nodes[n] = true
			}
		}
		if len(candidates) == 0 {
			continue
		}
		all = append(all, candidates)
		if p < len(leaders) && leaders[p] != "" {
			led, sets, now = append(led, ID(p)), append(sets, candidates), append(now, leaders[p])
		}
	}
	if len(all) == 0 {
		return nil, 0, nil
	}
	limit = (len(all) + len(nodes) - 1) / len(nodes)
	for {
		// The limit is that of all partitions, also of those that have no
		// leader at the moment: it must not change with every election.
		if _, ok := spreadLeaders(make([]NodeID, len(all)), all, Share{0, limit}); ok {
			break
		}
		limit++
	}
	chosen, ok := spreadLeaders(now, sets, Share{0, limit})
	if !ok {
		panic("partition: fewer leaders do not fit where all did")
	}
	return led, limit, chosen
}

// Changing a leader outweighs any number of preferences.
const (
	transferCost    = 2 * MaxCount
	unpreferredCost = 1
)

// spreadLeaders chooses a leader from each set so that each node leads as many
// as the share says, with the fewest changes from the present leaders. It
// reports false if the sets do not allow that.
func spreadLeaders(leaders []NodeID, sets Assignment, share Share) ([]NodeID, bool) {
	var nodes []NodeID
	for _, set := range sets {
		nodes = append(nodes, set...)
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	var f flow
	sink := f.vertices(1)
	first := f.vertices(len(nodes))
	leads := make([]int, len(nodes))
	edges := make([][]int, len(sets))
	for p, set := range sets {
		self := f.vertices(1)
		f.excess[self] = 1
		for i, n := range set {
			at, _ := slices.BinarySearch(nodes, n)
			cost, now := transferCost, 0
			switch {
			case n == leaders[p]:
				cost, now = 0, 1
				leads[at]++
			case i > 0:
				cost += unpreferredCost
			}
			edges[p] = append(edges[p], f.edge(self, first+at, 0, 1, now, cost))
		}
	}
	for i := range nodes {
		f.edge(first+i, sink, share.Low, share.High, max(share.Low, min(leads[i], share.High)), 0)
	}
	f.excess[sink] -= len(sets)
	if !f.solve() {
		return nil, false
	}
	chosen := make([]NodeID, len(sets))
	for p, set := range sets {
		for i, n := range set {
			if f.carried(edges[p][i]) == 1 {
				chosen[p] = n
			}
		}
	}
	return chosen, true
}
