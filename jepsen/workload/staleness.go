package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var staleness = Workload{
	Name: "staleness",
	What: "a linearizable write, then eventual and bounded reads at every node until all show it: how old answers are, and bounds are kept",
	New:  newStaleness,
}

// rounds over all nodes after one write, if some node does not show it: in a cut it
// will not for long, and a second write tells how old its answers are by now.
const pollRounds = 4

// polls has a key a slot, which that slot alone writes: so what is newer than what
// is known without asking the cluster.
type polls struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []string
	most   int
	slots  []onePoll
	writes writes
	names  []string
}

type onePoll struct {
	key   string
	ops   int
	value string          // written last
	shown map[string]bool // by node: it shows value
	queue []string        // nodes to ask
	round int
}

func newStaleness(c Config) Generator {
	p := &polls{
		random: c.random("staleness"), nodes: c.Nodes, most: c.OpsPerKey,
		slots: make([]onePoll, c.Processes), writes: make(writes, c.Processes),
	}
	if p.most == 0 {
		p.most = 500
	}
	return p
}

func (p *polls) Next(slot int) (history.Op, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := &p.slots[slot]
	if len(at.queue) == 0 && at.round > 0 && at.round < pollRounds {
		at.fill(p)
	}
	at.ops++
	if len(at.queue) == 0 {
		if at.key == "" || at.ops > p.most {
			at.key, at.ops = fmt.Sprintf("staleness/%d", len(p.names)), 1
			p.names = append(p.names, at.key)
		}
		at.value, at.shown, at.round = p.writes.next(slot), map[string]bool{}, 0
		at.fill(p)
		return history.Op{Func: history.Put, Level: history.Linearizable, Key: at.key, Value: at.value}, true
	}
	o := history.Op{Func: history.Get, Level: history.Eventual, Key: at.key, Node: at.queue[0]}
	at.queue = at.queue[1:]
	if p.random.IntN(3) == 0 {
		o.Level, o.MaxStaleness = history.Bounded, time.Duration(100+p.random.IntN(2_000))*time.Millisecond
	}
	return o, true
}

// fill asks those that have not shown the value, in any order.
func (at *onePoll) fill(p *polls) {
	at.round++
	for _, i := range p.random.Perm(len(p.nodes)) {
		if !at.shown[p.nodes[i]] {
			at.queue = append(at.queue, p.nodes[i])
		}
	}
}

func (p *polls) Done(slot int, op history.Op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := &p.slots[slot]
	if op.Func == history.Get && op.Outcome == history.OK && op.Value == at.value {
		at.shown[op.Node] = true
	}
}

func (p *polls) Final() []history.Op {
	p.mu.Lock()
	defer p.mu.Unlock()
	return everywhere(p.names, p.nodes)
}
