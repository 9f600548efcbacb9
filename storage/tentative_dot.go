package storage

import (
	"cmp"

	"github.com/capstan-kv/capstan/partition"
)

// Dot names one tentative write of a partition.
type Dot struct {
	Node                  partition.NodeID
	Incarnation, Sequence uint64
}

// Compare orders dots.
func (d Dot) Compare(o Dot) int {
	return cmp.Or(cmp.Compare(d.Node, o.Node), cmp.Compare(d.Incarnation, o.Incarnation), cmp.Compare(d.Sequence, o.Sequence))
}
