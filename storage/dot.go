package storage

import (
	"cmp"
	"fmt"

	"github.com/capstan-kv/capstan/partition"
)

// Dot names one eventual write of a partition for ever. The accepting node
// gives it out before the write is stored anywhere, so that every copy, every
// retry and every hand-in of the write is known to be the same one. The
// partition is that of the place where the dot is kept.
//
// Incarnation is random at each start of the node: one that comes up on an
// older image of its disk counts its sequence numbers a second time, but never
// gives out a dot a second time.
type Dot struct {
	Node        partition.NodeID
	Incarnation uint64
	Sequence    uint64 // from 1, without gaps, in each partition and incarnation
}

// IsZero reports whether d names no write.
func (d Dot) IsZero() bool { return d == Dot{} }

// Compare orders dots by node, incarnation and sequence number. Only the order
// within one incarnation is an order in time.
func (d Dot) Compare(e Dot) int {
	return cmp.Or(
		cmp.Compare(d.Node, e.Node),
		cmp.Compare(d.Incarnation, e.Incarnation),
		cmp.Compare(d.Sequence, e.Sequence),
	)
}

// String is "node/incarnation:sequence", the incarnation in hexadecimal.
func (d Dot) String() string {
	return fmt.Sprintf("%s/%x:%d", d.Node, d.Incarnation, d.Sequence)
}

// check refuses what no node gives out.
func (d Dot) check() error {
	switch {
	case len(d.Node) == 0 || len(d.Node) > MaxNodeIDBytes:
		return fmt.Errorf("dot with a node id of %d bytes", len(d.Node))
	case d.Sequence == 0:
		return fmt.Errorf("dot of %s without a sequence number", d.Node)
	}
	return nil
}

// DotRange is the dots First to Last, both included, of one incarnation.
type DotRange struct {
	Node        partition.NodeID
	Incarnation uint64
	First, Last uint64
}

// RangeOf is the range of d alone.
func RangeOf(d Dot) DotRange {
	return DotRange{Node: d.Node, Incarnation: d.Incarnation, First: d.Sequence, Last: d.Sequence}
}

// String is "node/incarnation:first-last", or a dot's text if it is one.
func (r DotRange) String() string {
	if r.First == r.Last {
		return Dot{r.Node, r.Incarnation, r.First}.String()
	}
	return fmt.Sprintf("%s/%x:%d-%d", r.Node, r.Incarnation, r.First, r.Last)
}

func (r DotRange) check() error {
	if err := (Dot{r.Node, r.Incarnation, r.First}).check(); err != nil {
		return err
	}
	if r.Last < r.First {
		return fmt.Errorf("range of dots from %d down to %d", r.First, r.Last)
	}
	return nil
}
