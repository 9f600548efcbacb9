package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var session = Workload{
	Name: "session",
	What: "sessions that hop from node to node and from level to level: read your writes, monotonic reads and writes, writes follow reads",
	New:  newSessions,
}

// opsPerSession is how long one goes on: long enough to see a cut begin and end,
// short enough that many begin in one.
const opsPerSession = 40

// sessions has one session a slot at a time. A guarantee is about one key, so a
// session stays with two keys while they last, and these it shares with others, whose writes it then
// has to see no less than its own.
type sessions struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []string
	keys   *keys
	slots  []oneSession
	writes writes
}

type oneSession struct {
	name  string
	begun int // sessions of the slot
	ops   int
	keys  [2]string
}

func newSessions(c Config) Generator {
	return &sessions{
		random: c.random("session"), nodes: c.Nodes, keys: newKeys("session", c, c.eachPartition(), 300),
		slots: make([]oneSession, c.Processes), writes: make(writes, c.Processes),
	}
}

func (s *sessions) Next(slot int) (history.Op, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.slots[slot]
	if at.ops%opsPerSession == 0 {
		at.name = fmt.Sprintf("session-%d-%d", slot, at.begun)
		at.begun++
		at.keys = [2]string{s.keys.pick(s.random), s.keys.pick(s.random)}
	}
	at.ops++
	key := &at.keys[s.random.IntN(len(at.keys))]
	if !s.keys.use(*key) {
		*key = s.keys.pick(s.random)
	}
	o := history.Op{
		Func: history.Get, Key: *key, Session: at.name,
		Node: s.nodes[s.random.IntN(len(s.nodes))],
	}
	if s.random.IntN(2) == 0 {
		switch draw := s.random.IntN(10); {
		case draw < 6:
			o.Level = history.Eventual
		case draw < 8:
			o.Level = history.Linearizable
		default:
			o.Level, o.MaxStaleness = history.Bounded, time.Duration(200+s.random.IntN(2_000))*time.Millisecond
		}
		return o, true
	}
	o.Level = history.Eventual
	if s.random.IntN(10) < 4 {
		o.Level = history.Linearizable
	}
	o.Func, o.Value = history.Put, s.writes.next(slot)
	if s.random.IntN(10) == 0 {
		o.Func, o.Value = history.Delete, ""
	}
	return o, true
}

func (s *sessions) Done(int, history.Op) {}

// Final has each slot's last session read its keys at every node, at all levels.
func (s *sessions) Final() []history.Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ops []history.Op
	for i, at := range s.slots {
		if at.name == "" {
			continue
		}
		for _, key := range at.keys {
			for _, node := range s.nodes {
				ops = append(ops, history.Op{Func: history.Get, Level: history.Eventual, Key: key, Session: at.name, Node: node})
			}
			ops = append(ops, history.Op{Func: history.Get, Level: history.Linearizable, Key: key, Session: at.name, Node: s.nodes[i%len(s.nodes)]})
		}
	}
	return ops
}

// writes counts each slot's, so that no two values are equal.
type writes []int

func (w writes) next(slot int) string {
	w[slot]++
	return fmt.Sprintf("v%d-%d", slot, w[slot]-1)
}

// everywhere reads each key once linearizably, and eventually at every node.
func everywhere(names, nodes []string) []history.Op {
	var ops []history.Op
	for i, key := range names {
		ops = append(ops, history.Op{Func: history.Get, Level: history.Linearizable, Key: key, Node: nodes[i%len(nodes)]})
		for _, node := range nodes {
			ops = append(ops, history.Op{Func: history.Get, Level: history.Eventual, Key: key, Node: node})
		}
	}
	return ops
}
