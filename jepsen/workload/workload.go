package workload

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// Workload is something that clients do, for a checker to judge.
type Workload struct {
	Name string
	// What in one line: what it does and what it would find.
	What string
	// Routed: half of its slots ask with a client that finds its way through the
	// cluster by itself, and tries again what was definitely not done.
	Routed bool
	// Rate of operations a second for each node, if the workload measures and has to
	// ask so often; else it has its share of the run's.
	Rate float64
	// New makes a generator. It may be called concurrently, a generator's methods
	// too.
	New func(Config) Generator
}

// Config says for what cluster a generator is.
type Config struct {
	// Seed: the same seed and the same answers give the same operations.
	Seed uint64
	// Nodes by name, at least one.
	Nodes []string
	// Processes that the workload has; at least 1.
	Processes int
	// OpsPerKey after which a key is left for a new one. 0: what suits the
	// workload. Deciding linearizability gets slow with long histories of one key.
	OpsPerKey int
	// ElectionTimeout of the cluster's partitions.
	ElectionTimeout time.Duration
	// Partitions of the cluster, 0 if nobody knows; and which of them, from 0, a
	// key is in, nil likewise.
	Partitions  int
	PartitionOf func(key string) int
}

// Generator makes the operations of one workload. Its methods may be called
// concurrently. Slots are numbered from 0 to Config.Processes-1; each does one
// operation after the other.
type Generator interface {
	// Next is the next operation of a slot. It fills what the client asks: Func,
	// Level, Key, Value, Element, Condition, Expect, ExpectVersion, Session, Acks,
	// MaxStaleness; Deadline if it is not to be the run's; Node if it is not to be
	// the slot's own, which is slot modulo the number of nodes. False: the slot has
	// nothing to do for now, and is to ask again in a moment.
	Next(slot int) (history.Op, bool)
	// Done tells how an operation of Next ended.
	Done(slot int, op history.Op)
	// Final are operations for after the run, once all is healed and settled. They
	// have a Node each. Those of one session are done one after the other, in
	// their order; others at once, in any order.
	Final() []history.Op
}

// workloads of this package, a line each.
var workloads = []Workload{
	register,
	set,
	counter,
	mixed,
	eventual,
	session, staleness, deletion, scan, availability,
}

// All are the workloads, by name.
func All() []Workload {
	all := slices.Clone(workloads)
	slices.SortFunc(all, func(a, b Workload) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Find gives the workload of a name.
func Find(name string) (Workload, error) {
	var names []string
	for _, w := range All() {
		if w.Name == name {
			return w, nil
		}
		names = append(names, w.Name)
	}
	return Workload{}, fmt.Errorf("no workload %q: there are %s", name, strings.Join(names, ", "))
}

// random of a workload differs from those of others with the same seed.
func (c Config) random(workload string) *rand.Rand {
	name := fnv.New64a()
	name.Write([]byte(workload))
	return rand.New(rand.NewPCG(c.Seed, name.Sum64()))
}
