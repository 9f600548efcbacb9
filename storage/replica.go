package storage

import (
	"fmt"

	"github.com/capstan-kv/capstan/partition"
)

// GroupID names one Raft group: 0 is the control group, partition p is p+1.
type GroupID uint32

// ControlGroup is the group that holds the ring.
const ControlGroup GroupID = 0

// GroupOf is the group that replicates partition p.
func GroupOf(p partition.ID) GroupID { return GroupID(p) + 1 }

// Partition is the partition that g replicates; false for the control group.
func (g GroupID) Partition() (partition.ID, bool) {
	if g == ControlGroup {
		return 0, false
	}
	return partition.ID(g - 1), true
}

// Replica names one node's copy of a group. The control group gives out each
// generation once; a destroyed one is never opened again, so that a replica
// which was moved away and back can not be taken for the one that voted.
type Replica struct {
	Group      GroupID
	Generation uint32
}

func (r Replica) String() string { return fmt.Sprintf("g%d.%d", r.Group, r.Generation) }
