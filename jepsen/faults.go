package jepsen

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
)

// learnPause is between two questions who the node is that came with an empty disk.
const learnPause = 100 * time.Millisecond

// faults carries out a schedule, and has the record and the progress hear of each
// fault.
type faults struct {
	run      *running
	face     face
	schedule nemesis.Schedule

	learning sync.WaitGroup

	mu     sync.Mutex
	active map[int]string
	failed error // of the record
}

// target is what a schedule disturbs: the nodes of a cluster, and the links between
// its hosts or, where these cannot be touched, what the nodes say to each other.
func (f *faults) target(ctx context.Context, hosts lab.Lab, nodes *cluster.Cluster) nemesis.Target {
	t := nemesis.Target{
		Machines: nemesis.Machines(nodes),
		Leader: func(ctx context.Context, partition int) (string, error) {
			return leads(ctx, f.face, f.run.nodes, partition)
		},
		Events: func(p nemesis.Phase, e nemesis.Effect) { f.hear(ctx, p, e) },
	}
	if hosts.Kind() == lab.Namespaces {
		t.Network = hosts
	} else {
		t.Cut = f.face.cut
	}
	return t
}

func (f *faults) carryOut(ctx context.Context, target nemesis.Target) error {
	defer f.learning.Wait()
	_, err := nemesis.Run(ctx, target, f.schedule)
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(err, f.failed)
}

// hear notes what becomes of a fault.
func (f *faults) hear(ctx context.Context, p nemesis.Phase, e nemesis.Effect) {
	about := history.Fault{Number: e.Number, Kind: e.Event.Kind, What: e.Hit(), Nodes: e.Nodes, Apart: e.Apart, ClientsToo: e.ClientsToo()}
	what := history.TypeFault
	if p == nemesis.End {
		what, about.Felt, about.Effect = history.TypeHealed, e.Felt(), e.Did()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == nil {
		f.active = map[int]string{}
	}
	if f.active[e.Number] = about.What; p == nemesis.End {
		delete(f.active, e.Number)
	}
	if err := f.run.write(history.Event{Type: what, Fault: &about}); f.failed == nil {
		f.failed = err
	}
	if about.Kind != "wipe" {
		return
	}
	for _, n := range e.Nodes {
		if p == nemesis.Begin {
			f.run.ids.wiped(n)
			continue
		}
		f.learning.Go(func() { learn(ctx, f.face, f.run.ids, n) })
	}
}

// learn asks a node that came with an empty disk who it is, until it says so.
func learn(ctx context.Context, f face, ids *identities, name string) {
	for {
		era := ids.of(name).era
		status, err := f.status(ctx, name)
		for _, n := range status.GetNodes() {
			if err == nil && n.GetName() == name && n.GetState() == capstanv1.NodeState_NODE_STATE_ALIVE && !ids.gone(name, n.GetId()) {
				ids.learn(name, era, n.GetId())
				return
			}
		}
		if !sleepUntil(ctx, time.Now().Add(learnPause)) {
			return
		}
	}
}

// leads asks all nodes who leads a partition, and believes the one that knows the
// highest term: others may not have heard yet. Empty, if nobody knows one.
func leads(ctx context.Context, f face, nodes []string, partition int) (string, error) {
	type answer struct {
		leader string
		term   uint64
		err    error
	}
	answers := make(chan answer, len(nodes))
	ctx, cancel := context.WithTimeout(ctx, leadPatience)
	defer cancel()
	for _, n := range nodes {
		go func() {
			var a answer
			status, err := f.status(ctx, n)
			a.err = err
			for _, p := range status.GetPartitions() {
				if int(p.GetId()) == partition {
					a.leader, a.term = p.GetLeader(), p.GetTerm()
				}
			}
			answers <- a
		}()
	}
	var best answer
	var failed error
	for range nodes {
		a := <-answers
		failed = errors.Join(failed, a.err)
		if a.err == nil && a.leader != "" && (best.leader == "" || a.term > best.term) {
			best = a
		}
	}
	if best.leader != "" {
		return best.leader, nil
	}
	return "", failed
}

// leadPatience bounds how long those are waited for who may know who leads: some may
// be down, or paused.
const leadPatience = time.Second

// now are the faults that are active, in the order in which they began.
func (f *faults) now() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var numbers []int
	for n := range f.active {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var all []string
	for _, n := range numbers {
		all = append(all, f.active[n])
	}
	return all
}
