package partition

import (
	"fmt"
	"slices"
	"strings"
)

// Node is a node as placement sees it. Nodes without a zone share the one
// named "".
type Node struct {
	ID   NodeID
	Zone string
}

// ReplicaSet names the nodes that hold one partition, the preferred leader
// first.
type ReplicaSet []NodeID

// Assignment is the ReplicaSet of each partition, indexed by its [ID].
type Assignment []ReplicaSet

// Clone is a deep copy.
func (a Assignment) Clone() Assignment {
	c := make(Assignment, len(a))
	for p, set := range a {
		c[p] = slices.Clone(set)
	}
	return c
}

// Loads counts the replicas of each node that has any.
func (a Assignment) Loads() map[NodeID]int {
	loads := map[NodeID]int{}
	for _, set := range a {
		for _, n := range set {
			loads[n]++
		}
	}
	return loads
}

// Move changes one replica of a partition: From gives it up and To takes it.
// One of the two may be empty: the set then grows or shrinks.
type Move struct {
	Partition ID
	From, To  NodeID
}

func (m Move) String() string {
	switch {
	case m.From == "":
		return fmt.Sprintf("partition %d: add %s", m.Partition, m.To)
	case m.To == "":
		return fmt.Sprintf("partition %d: remove %s", m.Partition, m.From)
	}
	return fmt.Sprintf("partition %d: %s -> %s", m.Partition, m.From, m.To)
}

// Moved is the assignment after the moves. A node that takes a replica over
// also takes its place in the set. Moves that do not fit are an error.
func (a Assignment) Moved(moves ...Move) (Assignment, error) {
	c := a.Clone()
	for _, m := range moves {
		if int(m.Partition) >= len(c) {
			return nil, fmt.Errorf("%s: there are %d partitions", m, len(c))
		}
		set := c[m.Partition]
		i := slices.Index(set, m.From)
		switch {
		case m.From == "" && m.To == "":
			return nil, fmt.Errorf("partition %d: a move of nothing", m.Partition)
		case m.From != "" && i < 0:
			return nil, fmt.Errorf("%s: %s holds no replica", m, m.From)
		case m.To != "" && slices.Contains(set, m.To):
			return nil, fmt.Errorf("%s: %s holds a replica already", m, m.To)
		case m.From == "":
			set = append(set, m.To)
		case m.To == "":
			set = slices.Delete(set, i, i+1)
		default:
			set[i] = m.To
		}
		c[m.Partition] = set
	}
	return c, nil
}

func (a Assignment) String() string {
	var b strings.Builder
	for p, set := range a {
		fmt.Fprintf(&b, "%d:", p)
		for _, n := range set {
			b.WriteString(" " + string(n))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// sorted is the nodes by id, each once.
func sorted(nodes []Node) []Node {
	s := slices.Clone(nodes)
	slices.SortFunc(s, func(a, b Node) int {
		return strings.Compare(string(a.ID)+"\x00"+a.Zone, string(b.ID)+"\x00"+b.Zone)
	})
	return slices.CompactFunc(s, func(a, b Node) bool { return a.ID == b.ID })
}
