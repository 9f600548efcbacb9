package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// chain makes each value of a key from the one before, by writing on condition
// that the version that was read still stands. So no writer may ever lose what
// another wrote. A slot stays with a key for a few operations: it reads, and goes
// on writing on top of what it saw or wrote itself until it is told that somebody
// else was faster.
type chain struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []string
	keys   *keys
	slots  []link
	// next makes a value from the one that stands there, "" if nothing does, and
	// says what it adds.
	next func(slot, n int, value string) (made, element string)
}

// link is what a slot knows.
type link struct {
	writes int
	// last is what it read or wrote, if the next operation is to build on it.
	last *history.Op
}

func newChain(workload string, c Config, opsPerKey int, next func(slot, n int, value string) (string, string)) *chain {
	return &chain{
		random: c.random(workload), nodes: c.Nodes, keys: newKeys(workload, c, c.eachPartition(), opsPerKey),
		slots: make([]link, c.Processes), next: next,
	}
}

func (c *chain) Next(slot int) (history.Op, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.slots[slot]
	last := s.last
	s.last = nil
	if last == nil || !c.keys.use(last.Key) {
		return history.Op{Func: history.Get, Level: history.Linearizable, Key: c.keys.pick(c.random)}, true
	}
	o := history.Op{Func: history.Put, Level: history.Linearizable, Key: last.Key, Condition: history.IfAbsent}
	old := ""
	if last.Version != "" && (last.Found || last.Write()) {
		old = last.Value
		o.Condition, o.Expect, o.ExpectVersion = history.IfVersion, old, last.Version
	}
	o.Value, o.Element = c.next(slot, s.writes, old)
	s.writes++
	return o, true
}

func (c *chain) Done(slot int, op history.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A slot that always wrote on would starve the others of one key.
	if op.Outcome == history.OK && c.random.IntN(4) > 0 {
		c.slots[slot].last = &op
	}
}

// Final reads each key once, linearizably, at some node.
func (c *chain) Final() []history.Op {
	c.mu.Lock()
	defer c.mu.Unlock()
	return readOnce(c.keys, c.nodes)
}

func readOnce(k *keys, nodes []string) []history.Op {
	var ops []history.Op
	for i, key := range k.all() {
		ops = append(ops, history.Op{Func: history.Get, Level: history.Linearizable, Key: key, Node: nodes[i%len(nodes)]})
	}
	return ops
}

// element is a name that no other write has.
func element(slot, n int) string { return fmt.Sprintf("%d.%d", slot, n) }
