package reports

import (
	"cmp"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// holdKey is one member that holds one floor back.
type holdKey struct {
	node      partition.NodeID
	partition partition.ID
}

// hold is since when, and where: a member that promises more with each poll is
// only a little behind. 0 is one that does not answer.
type hold struct {
	floor uint64
	since time.Time
}

// heldBack is who holds floors back. It is pure.
type heldBack struct {
	holds map[holdKey]hold
	told  map[partition.NodeID]time.Time
}

// set takes up what a poll has found. What it has not asked about stays if keep
// says so.
func (h *heldBack) set(now time.Time, found map[holdKey]uint64, keep func(partition.ID) bool) {
	next := make(map[holdKey]hold, len(found))
	for key, old := range h.holds {
		if _, again := found[key]; !again && keep(key.partition) {
			next[key] = old
		}
	}
	for key, floor := range found {
		if old, ok := h.holds[key]; ok && old.floor == floor {
			next[key] = old
		} else {
			next[key] = hold{floor: floor, since: now}
		}
	}
	h.holds = next
}

// list is the members that have been holding back for long enough.
func (h *heldBack) list(now time.Time) (all []HeldBack) {
	by := map[partition.NodeID]*HeldBack{}
	for key, hold := range h.holds {
		since := now.Sub(hold.since)
		if since < heldBackAfter {
			continue
		}
		if by[key.node] == nil {
			by[key.node] = &HeldBack{Node: key.node}
		}
		by[key.node].Partitions++
		by[key.node].Since = max(by[key.node].Since, since)
	}
	for _, held := range by {
		all = append(all, *held)
	}
	slices.SortFunc(all, func(a, b HeldBack) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

// due is what is to be told now: it is told once, and again from time to time.
func (h *heldBack) due(now time.Time) (due []HeldBack) {
	told := map[partition.NodeID]time.Time{}
	for _, held := range h.list(now) {
		last, before := h.told[held.Node]
		if !before || now.Sub(last) >= heldBackAgain {
			due, last = append(due, held), now
		}
		told[held.Node] = last
	}
	h.told = told
	return due
}
