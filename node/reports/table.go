package reports

import (
	"slices"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

// table is what the members have told, this one included. It is pure, and not
// safe for concurrent use.
type table struct {
	members map[partition.NodeID]*told
}

// told is what one member has told.
type told struct {
	start, sequence uint64
	epoch           uint64 // of the ring that it knew
	entries         map[partition.ID]Entry
}

// hear takes a report up, unless it is older than what is known already. It is
// false if something that the report builds on is missing. started says that
// the member has started again since it was last heard, or is heard for the
// first time.
func (t *table) hear(from partition.NodeID, r Report) (taken, started bool) {
	known := t.members[from]
	switch {
	case known != nil && r.Start < known.start:
		return true, false // on its way since before the restart
	case known == nil || r.Start > known.start:
		if r.After > 0 {
			return false, true
		}
		if t.members == nil {
			t.members = map[partition.NodeID]*told{}
		}
		known = &told{start: r.Start}
		t.members[from] = known
		started = true
	case r.Sequence <= known.sequence:
		return true, false
	case r.After > known.sequence:
		return false, false
	}
	if r.After == 0 {
		known.entries = make(map[partition.ID]Entry, len(r.Entries))
	}
	for _, e := range r.Entries {
		known.entries[e.Partition] = e
	}
	known.sequence, known.epoch = r.Sequence, r.Epoch
	return true, started
}

// keep forgets those who are no members.
func (t *table) keep(members []partition.NodeID) {
	for node := range t.members {
		if !slices.Contains(members, node) {
			delete(t.members, node)
		}
	}
}

// heardFromAll reports whether all other members of the ring have told of
// themselves since they knew of this one, and of every removal that the ring knows
// of. Then no index that a session token leaves out is above what this member has
// heard of. For such an index was left out by a member x that either
//
//   - counted this one, which had told that it has heard of the index; or
//   - did not know of this one. x had counted itself, so what x tells here, as it
//     does once it knows of this one, is at least that index; or
//   - was removed. x had counted another member, which tells x nothing since it
//     knows of the removal; what that member tells here is at least the index.
//
// The last one takes a member that x knew and that was not removed: as long as no
// partition loses all of its replicas, there is one.
func (t *table) heardFromAll(ring *control.State, self partition.NodeID) bool {
	members := ring.Members()
	var removals uint64
	for _, left := range ring.Removed() {
		removals = max(removals, left.Epoch)
	}
	for _, member := range members {
		if member == self {
			continue
		}
		if known := t.members[member]; known == nil || known.epoch < removals {
			return false
		}
	}
	return slices.Contains(members, self)
}

// appliedEverywhere is the index of p that all replicas have applied for good,
// and all members have heard of for good, but for nodes that were removed; 0 if one
// has not told.
func (t *table) appliedEverywhere(ring *control.State, p partition.ID) uint64 {
	if int(p) >= len(ring.Partitions) {
		return 0
	}
	lowest, any := ^uint64(0), false
	for _, r := range ring.Partitions[p].Replicas {
		if n, _ := ring.Node(r.Node); n.State == control.Left {
			continue
		}
		known := t.members[r.Node]
		if known == nil {
			return 0
		}
		// Of another generation is another replica.
		// Heard counts too: the replica may fail, and the member goes on without.
		if e := known.entries[p]; e.Generation == r.Generation {
			lowest, any = min(lowest, e.Durable, e.Heard), true
		} else {
			return 0
		}
	}
	if !any {
		return 0
	}
	// A member that reaches no replica answers with its own tentative writes,
	// and judges by what it has heard of whether a session may see them.
	for _, member := range ring.Members() {
		if _, has := ring.Replica(p, member); has {
			continue
		}
		known := t.members[member]
		if known == nil {
			return 0
		}
		lowest = min(lowest, known.entries[p].Heard)
	}
	return lowest
}
