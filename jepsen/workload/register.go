package workload

import (
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
// the slot saw last: at once, when it probably still stands, or when it comes by
// again and it has probably just been replaced.
type registers struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []string
	keys   *keys
	writes writes
	slots  []memory
}

// memory of a slot.
type memory struct {
	seen map[string]history.Op // by key: what it read or wrote last
	last string                // the key of its last operation, if that is answered
}

func newRegister(c Config) Generator {
	return &registers{
		random: c.random("register"), nodes: c.Nodes, keys: newKeys("register", c, c.eachPartition(), 300),
		writes: make(writes, c.Processes), slots: make([]memory, c.Processes),
	}
}

func (r *registers) Next(slot int) (history.Op, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[slot]
	o := history.Op{Func: history.Get, Level: history.Linearizable, Key: s.last}
	at := r.random.IntN(10)
	if s.last == "" || at < 7 || !r.keys.use(s.last) {
		o.Key = r.keys.pick(r.random)
		at = r.random.IntN(10)
	}
	s.last = ""
	if at < 6 {
		return o, true
	}
	o.Func, o.Value = history.Put, r.writes.next(slot)
	last, known := s.seen[o.Key]
	switch {
	case at < 8:
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
	s := &r.slots[slot]
	if s.seen == nil {
		s.seen = map[string]history.Op{}
	}
	s.seen[op.Key], s.last = op, op.Key
}

// Final reads each key once, linearizably, at some node.
func (r *registers) Final() []history.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return readOnce(r.keys, r.nodes)
}
