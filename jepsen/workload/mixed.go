package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var mixed = Workload{
	Name: "mixed",
	What: "linearizable and eventual operations on the same keys: one order explains all answers (rule 29 of docs/consistency.md), and no eventual write replaces a linearizable one it had not heard of (rule 19)",
	New: func(c Config) Generator {
		return newLevels("mixed", c, 200, []choice{
			{25, history.Op{Func: history.Put, Level: history.Eventual}},
			{4, history.Op{Func: history.Put, Level: history.Eventual, Acks: 2}},
			{4, history.Op{Func: history.Delete, Level: history.Eventual}},
			{17, history.Op{Func: history.Get, Level: history.Eventual}},
			{16, history.Op{Func: history.Get, Level: history.Linearizable}},
			{14, history.Op{Func: history.Put, Level: history.Linearizable}},
			{5, history.Op{Func: history.Delete, Level: history.Linearizable}},
			{6, history.Op{Func: history.Put, Level: history.Linearizable, Condition: history.IfVersion}},
			{2, history.Op{Func: history.Put, Level: history.Linearizable, Condition: history.IfAbsent}},
			{2, history.Op{Func: history.Put, Level: history.Linearizable, Condition: history.IfPresent}},
			{3, history.Op{Func: history.Get, Level: history.Bounded, MaxStaleness: 100 * time.Millisecond}},
			{2, history.Op{Func: history.Get, Level: history.Bounded, MaxStaleness: time.Second}},
		})
	},
}

// choice is an operation that comes so often, relative to others.
type choice struct {
	weight int
	op     history.Op
}

// levels draws operations of all kinds, without regard to what is answered but
// for the versions that conditions name.
type levels struct {
	workload string
	nodes    []string
	choices  []choice
	weights  int

	mu     sync.Mutex
	random *rand.Rand
	keys   *keys
	writes []int                   // by slot
	seen   []map[string]history.Op // by slot, by key: the committed value it saw last
}

func newLevels(workload string, c Config, opsPerKey int, choices []choice) *levels {
	l := &levels{
		workload: workload, nodes: c.Nodes, choices: choices, random: c.random(workload),
		keys: newKeys(workload, c, c.eachPartition(), opsPerKey), writes: make([]int, c.Processes), seen: make([]map[string]history.Op, c.Processes),
	}
	for _, o := range choices {
		l.weights += o.weight
	}
	return l
}

func (l *levels) Next(slot int) (history.Op, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.draw()
	o.Key = l.keys.pick(l.random)
	if o.Func == history.Put {
		o.Value = fmt.Sprintf("v%d-%d", slot, l.writes[slot])
		l.writes[slot]++
	}
	if o.Condition == history.IfVersion {
		last, known := l.seen[slot][o.Key]
		if !known {
			return history.Op{Func: history.Get, Level: history.Linearizable, Key: o.Key}, true
		}
		o.Expect, o.ExpectVersion = last.Value, last.Version
	}
	return o, true
}

func (l *levels) draw() history.Op {
	at := l.random.IntN(l.weights)
	for _, c := range l.choices {
		if at -= c.weight; at < 0 {
			return c.op
		}
	}
	panic("the weights are more than their sum")
}

func (l *levels) Done(slot int, op history.Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if op.Outcome != history.OK || op.Level != history.Linearizable || op.Version == "" || op.Func == history.Delete || op.Func == history.Get && !op.Found {
		return
	}
	if l.seen[slot] == nil {
		l.seen[slot] = map[string]history.Op{}
	}
	l.seen[slot][op.Key] = op
}

// Final reads each key linearizably, and then eventually at every node, in a
// session: the nodes know what they are to show, however far behind they are.
func (l *levels) Final() []history.Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ops []history.Op
	for i, key := range l.keys.all() {
		o := history.Op{Func: history.Get, Level: history.Linearizable, Key: key, Session: "final " + key, Node: l.nodes[i%len(l.nodes)]}
		ops = append(ops, o)
		o.Level = history.Eventual
		for _, o.Node = range l.nodes {
			ops = append(ops, o)
		}
	}
	return ops
}
