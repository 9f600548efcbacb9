package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var register = Workload{
	Name:   "register",
	What:   "reads, writes and conditional writes of many keys through every node, all linearizable: each key is one register",
	Routed: true,
	New:    newRegister,
}

// registers write values that nobody writes twice, and condition writes on what
// the slot saw last: of the values that it may expect, that is the one most likely
// to be just replaced.
type registers struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []string
	keys   *keys
	writes []int                   // by slot
	seen   []map[string]history.Op // by slot, by key: what it read or wrote last
}

func newRegister(c Config) Generator {
	return &registers{
		random: c.random("register"), nodes: c.Nodes, keys: newKeys("register", c, c.eachPartition(), 300),
		writes: make([]int, c.Processes), seen: make([]map[string]history.Op, c.Processes),
	}
}

func (r *registers) Next(slot int) (history.Op, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := history.Op{Func: history.Get, Level: history.Linearizable, Key: r.keys.pick(r.random)}
	draw := r.random.IntN(10)
	if draw < 5 {
		return o, true
	}
	o.Func = history.Put
	o.Value = fmt.Sprintf("v%d-%d", slot, r.writes[slot])
	r.writes[slot]++
	last, known := r.seen[slot][o.Key]
	switch {
	case draw < 7:
	case !known || !last.Found && last.Func == history.Get:
		o.Condition = history.IfAbsent
	default:
		o.Condition, o.Expect, o.ExpectVersion = history.IfVersion, last.Value, last.Version
	}
	return o, true
}

func (r *registers) Done(slot int, op history.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if op.Outcome != history.OK {
		return
	}
	if r.seen[slot] == nil {
		r.seen[slot] = map[string]history.Op{}
	}
	r.seen[slot][op.Key] = op
}

// Final reads each key once, linearizably, at some node.
func (r *registers) Final() []history.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return readOnce(r.keys, r.nodes)
}
