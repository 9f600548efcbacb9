package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var deletion = Workload{
	Name: "delete",
	What: "puts and deletes of both levels, then a linearizable delete after which half of the keys are only read: nothing deleted comes back",
	New:  newDeletes,
}

// deletes leads each key through a life: writes of both levels through all nodes,
// among them deletes; then a linearizable delete, until one is acknowledged; then
// reads, for long, since what could come back is with a node that is cut off or
// down now. Half of the keys are written again meanwhile.
type deletes struct {
	mu     sync.Mutex
	random *rand.Rand
	most   int
	nodes  []string
	active []*life
	names  []string
	writes writes
	old    []string // deleted for good, in order
}

type life struct {
	key     string
	ops     int
	deleted bool
	again   bool // written after it was deleted
}

func newDeletes(c Config) Generator {
	d := &deletes{random: c.random("delete"), most: c.OpsPerKey, nodes: c.Nodes, writes: make(writes, c.Processes)}
	if d.most == 0 {
		d.most = 60
	}
	for range max(c.Processes/2, 1) {
		d.active = append(d.active, d.fresh())
	}
	return d
}

func (d *deletes) fresh() *life {
	l := &life{key: fmt.Sprintf("delete/%d", len(d.names)), again: len(d.names)%2 == 1}
	d.names = append(d.names, l.key)
	return l
}

func (d *deletes) Next(slot int) (history.Op, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.old) > 0 && d.random.IntN(8) == 0 {
		return d.read(d.old[d.random.IntN(len(d.old))]), true
	}
	i := d.random.IntN(len(d.active))
	if l := d.active[i]; l.ops >= d.most && l.deleted {
		if !l.again {
			d.old = append(d.old, l.key)
		}
		d.active[i] = d.fresh()
	}
	l := d.active[i]
	l.ops++
	switch {
	case !l.deleted && l.ops > d.most/3 && d.random.IntN(3) == 0:
		return history.Op{Func: history.Delete, Level: history.Linearizable, Key: l.key}, true
	case l.deleted && !l.again || d.random.IntN(3) == 0:
		return d.read(l.key), true
	}
	o := history.Op{Func: history.Put, Level: history.Eventual, Key: l.key}
	if d.random.IntN(3) == 0 {
		o.Level = history.Linearizable
	}
	if d.random.IntN(5) == 0 {
		o.Func = history.Delete
		if !l.again {
			o.Level = history.Eventual // it is not the one that ends the key's life
		}
		return o, true
	}
	o.Value = d.writes.next(slot)
	return o, true
}

func (d *deletes) read(key string) history.Op {
	o := history.Op{Func: history.Get, Level: history.Linearizable, Key: key}
	if d.random.IntN(2) == 0 {
		o.Level = history.Eventual
	}
	return o
}

func (d *deletes) Done(_ int, op history.Op) {
	if op.Func != history.Delete || op.Level != history.Linearizable || op.Outcome != history.OK {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.active {
		if l.key == op.Key {
			l.deleted = true
		}
	}
}

func (d *deletes) Final() []history.Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	return everywhere(d.names, d.nodes)
}
