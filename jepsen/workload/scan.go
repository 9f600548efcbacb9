package workload

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

var scan = Workload{
	Name: "scan",
	What: "writes to the few keys of one hash tag, and scans of it: each scan is the tag at one moment",
	New:  newScans,
}

// keysPerTag is few: a scan contradicts writes only if they meet.
const keysPerTag = 4

// scans uses a few tags at a time, each until it is used up.
type scans struct {
	mu     sync.Mutex
	random *rand.Rand
	nodes  []string
	keys   *keys // a key of it stands for a tag
	writes writes
}

func newScans(c Config) Generator {
	if of := c.PartitionOf; of != nil {
		c.PartitionOf = func(tag string) int { return of(prefix(tag)) }
	}
	if of := c.PartitionOf; of != nil {
		c.PartitionOf = func(tag string) int { return of(prefix(tag)) }
	}
	return &scans{
		random: c.random("scan"), nodes: c.Nodes, keys: newKeys("scan", c, c.Processes/3, 200),
		writes: make(writes, c.Processes),
	}
}

// prefix of the keys of a tag: what stands between braces decides alone where a
// key lives. scan/0 gives scan/{0}/.
func prefix(tag string) string { return strings.Replace(tag, "/", "/{", 1) + "}/" }

func (s *scans) Next(slot int) (history.Op, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := prefix(s.keys.pick(s.random))
	o := history.Op{Func: history.Scan, Level: history.Linearizable, Key: in}
	switch draw := s.random.IntN(20); {
	case draw < 7:
		return o, true
	case draw < 9:
		o.Level, o.MaxStaleness = history.Bounded, time.Duration(100+s.random.IntN(400))*time.Millisecond
		return o, true
	case draw < 11:
		o.Func = history.Get
	case draw < 12:
		o.Func = history.Delete
	default:
		o.Func, o.Value = history.Put, s.writes.next(slot)
	}
	o.Key = fmt.Sprintf("%s%c", in, 'a'+s.random.IntN(keysPerTag))
	return o, true
}

func (s *scans) Done(int, history.Op) {}

// Final scans each tag at every node.
func (s *scans) Final() []history.Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ops []history.Op
	for _, tag := range s.keys.all() {
		for _, node := range s.nodes {
			ops = append(ops, history.Op{Func: history.Scan, Level: history.Linearizable, Key: prefix(tag), Node: node})
		}
	}
	return ops
}
