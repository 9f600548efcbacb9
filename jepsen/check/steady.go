package check

import (
	"fmt"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// Service that comes and goes is no service, though it is never away for long. So once
// the bound after a change is over, few requests may be refused of each partition,
// and few at each node.
const (
	// steadyLeast requests tell whether service is steady.
	steadyLeast = 40
	// steadyShare is one in how many may be refused: an election that nobody asked
	// for, on a busy machine, is not held against the cluster.
	steadyShare = 10
)

// steadiness counts the linearizable requests that had a quorum within reach, later
// than the bound after the last change.
type steadiness struct {
	asked, refused int
	example        *history.Op
}

// judgeSteadiness holds the whole run against steadyShare.
func (l *ledger) judgeSteadiness(keys []serviceKey) {
	partitions, nodes := map[int]*steadiness{}, map[string]*steadiness{}
	for _, k := range keys {
		if partitions[k.partition] == nil {
			partitions[k.partition] = &steadiness{}
		}
		if nodes[k.node] == nil {
			nodes[k.node] = &steadiness{}
		}
		from := l.epochs[k.epoch].from + l.bound + serviceAllowance
		for _, o := range l.service[k] {
			partitions[k.partition].count(o, from)
			nodes[k.node].count(o, from)
		}
	}
	for p := range l.h.Run.Placement {
		l.findUnsteady(fmt.Sprintf("partition %d", p), fmt.Sprintf("of partition %d", p), partitions[p])
	}
	for _, n := range l.h.Run.Nodes {
		l.findUnsteady(n, "at "+n, nodes[n])
	}
}

func (s *steadiness) count(o *history.Op, from time.Duration) {
	if o.Invoke <= from {
		return
	}
	if s.asked++; !served(o) {
		s.refused++
		s.example = o
	}
}

func (l *ledger) findUnsteady(key, where string, s *steadiness) {
	if s == nil || s.asked < steadyLeast || s.refused*steadyShare <= s.asked {
		return
	}
	l.find(key, fmt.Sprintf("%d of %d linearizable requests %s were not served, with a quorum within reach, and more than %v after any fault or its end; last %s",
		s.refused, s.asked, where, l.bound+serviceAllowance, failure(s.example)), s.example)
}
