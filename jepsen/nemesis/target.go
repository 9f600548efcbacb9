package nemesis

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Network is links that follow rules; a lab of kind Namespaces is one.
type Network interface {
	Shape(lab.Link, lab.Rule) error
	Traffic(lab.Link) (lab.Traffic, error)
}

// Machine is one node's process, disk and clock; a *cluster.Node is one.
type Machine interface {
	State() cluster.State
	Start() error
	AwaitReady(context.Context) error
	Stop(context.Context) error
	Kill() error
	Pause() error
	Resume() error
	// Stands reports whether the process is stopped, as the kernel sees it.
	Stands() (bool, error)
	Wipe() error
	Bend(cluster.Control) error
	// Obeys reports whether the process follows what it was last told by Bend.
	Obeys() (bool, error)
	// Forgets reports whether its disk loses with the process what was not synced.
	Forgets() (bool, error)
	Bent() (cluster.Counters, error)
	// MayEnd says whether it is no trouble now that the process ends by itself.
	MayEnd(bool)
}

var _ Machine = (*cluster.Node)(nil)

// Target is what Run disturbs.
type Target struct {
	// Network is nil where links cannot be touched. Then Cut has a node talk to all
	// but those named; it replaces what it was told before.
	Network Network
	Cut     func(ctx context.Context, node string, from []string) error
	// Machines are the nodes, by name. All of them run.
	Machines map[string]Machine
	// Leader is the name of the node that leads a partition; empty if nobody knows
	// one. It is asked again, also after an error.
	Leader func(ctx context.Context, partition int) (string, error)
	// Events is told of each event when it is in force and when it is over; nil:
	// nobody is. One call at a time.
	Events func(Phase, Effect)
}

// Machines of a cluster.
func Machines(c *cluster.Cluster) map[string]Machine {
	all := map[string]Machine{}
	for _, n := range c.Nodes() {
		all[n.Name] = n
	}
	return all
}

func (t Target) nodes() []string { return slices.Sorted(maps.Keys(t.Machines)) }

// check says what a schedule needs and the target has not.
func (t Target) check(s Schedule) error {
	if err := s.Check(t.nodes(), math.MaxInt); err != nil {
		return err
	}
	for i, e := range s {
		k, _ := Find(e.Kind)
		clients := slices.ContainsFunc(e.Links, func(l lab.Link) bool { return l.From == lab.Clients || l.To == lab.Clients })
		if k.act == shape && t.Network == nil && (t.Cut == nil || k.need != needsCuts || clients) {
			return fmt.Errorf("event %d, %s: %w", i+1, e.Kind, lab.ErrNoLinks)
		}
		if e.Leader != nil && t.Leader == nil {
			return fmt.Errorf("event %d, %s: nobody tells who leads", i+1, e.Kind)
		}
	}
	return nil
}
