package workload

import (
	"fmt"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var availability = Workload{
	Name: "availability",
	What: "eventual and linearizable requests at every node all the time, also at those that are cut off: who is answered, who is refused, and how soon",
	Rate: 20,
	New:  newAvailability,
}

const (
	// candidates are the tags that are tried at first, to find one in each partition:
	// of 16 partitions one is missed in 3 % of the runs, of 8 none.
	candidates = 96
	// eventualDeadline is long: an eventual request is to be answered, not refused
	// in time.
	eventualDeadline = 2 * time.Second
)

// probes asks every node for a key of every partition, at both levels. What is
// refused keeps nobody waiting for long, so that it shows soon when it is served
// again; partitions that were not served last time are asked for first, every
// other time.
type probes struct {
	mu       sync.Mutex
	nodes    []string
	deadline time.Duration // linearizable
	both     bool          // too few slots for one a level at each node: each does both
	slots    []prober
	writes   writes

	tags  []int // in the order in which they are tried
	tried int
	known map[int]int // partition: a tag that lives in it
	order []int       // partitions, as they were found
}

type prober struct {
	asked  int
	turn   int // keys
	at     int // in order, of those that are asked for by turns
	tag    int
	level  history.Level
	failed map[int]bool // by partition: its last linearizable request here
}

func newAvailability(c Config) Generator {
	random := c.random("availability")
	p := &probes{
		nodes: c.Nodes, deadline: c.ElectionTimeout / 3, both: c.Processes < 2*len(c.Nodes),
		slots: make([]prober, c.Processes), writes: make(writes, c.Processes), known: map[int]int{},
	}
	if p.deadline <= 0 {
		p.deadline = 500 * time.Millisecond
	}
	p.tags = random.Perm(candidates)
	for i := range p.slots {
		p.slots[i].at = random.IntN(candidates) // not all at one partition at once
	}
	return p
}

// Next is a read and a write of one key by turns: first the write where it is
// eventual, since a node that reaches no replica can show no more than what it has
// taken itself.
func (p *probes) Next(slot int) (history.Op, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[slot]
	if s.asked%2 == 0 {
		s.level = history.Linearizable
		if p.both && s.asked%4 == 0 || !p.both && slot/len(p.nodes)%2 == 0 {
			s.level = history.Eventual
		}
		s.tag = p.tag(s)
	}
	o := history.Op{
		Func: history.Get, Level: s.level, Key: name(s.tag, s.level),
		Node: p.nodes[slot%len(p.nodes)], Deadline: p.deadline,
	}
	if o.Level == history.Eventual {
		o.Deadline = eventualDeadline
	}
	if (s.asked%2 == 0) == (o.Level == history.Eventual) {
		o.Func, o.Value = history.Put, p.writes.next(slot)
	}
	s.asked++
	return o, true
}

// name of the key of a tag and a level: those of one tag live in one partition.
func name(tag int, level history.Level) string {
	return fmt.Sprintf("availability/{%d}/%s", tag, level)
}

// tag to ask for next.
func (p *probes) tag(s *prober) int {
	if p.tried < candidates {
		p.tried++
		return p.tags[p.tried-1]
	}
	if len(p.order) == 0 {
		return p.tags[0]
	}
	if s.turn++; s.level == history.Linearizable && s.turn%2 == 0 {
		for i := range p.order {
			if partition := p.order[(s.turn/2+i)%len(p.order)]; s.failed[partition] {
				return p.known[partition]
			}
		}
	}
	s.at++
	return p.known[p.order[s.at%len(p.order)]]
}

func (p *probes) Done(slot int, op history.Op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[slot]
	if _, known := p.known[op.Partition]; !known {
		p.known[op.Partition] = s.tag
		p.order = append(p.order, op.Partition)
	}
	if op.Level == history.Linearizable {
		if s.failed == nil {
			s.failed = map[int]bool{}
		}
		s.failed[op.Partition] = op.Outcome != history.OK
	}
}

// Final asks every node for every partition once more.
func (p *probes) Final() []history.Op {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ops []history.Op
	for _, partition := range p.order {
		for _, node := range p.nodes {
			for _, level := range []history.Level{history.Linearizable, history.Eventual} {
				ops = append(ops, history.Op{
					Func: history.Get, Level: level, Key: name(p.known[partition], level), Node: node, Deadline: eventualDeadline,
				})
			}
		}
	}
	return ops
}
