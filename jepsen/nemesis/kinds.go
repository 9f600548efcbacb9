package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Kind is one way to disturb a cluster.
type Kind struct {
	Name  string
	What  string // in one line
	Least int    // nodes that it needs

	act  act
	need need
	once bool // a run
	most bool // of the nodes do nothing meanwhile: nobody leads
	draw func(*dice) Event
}

// act is what is done for an event; the fields that it needs follow from it.
type act int

const (
	shape   act = iota // Links follow Rule, or those of Leader
	kill               // Nodes are gone, then started
	restart            // Nodes one after the other, in order
	pause              // Nodes stand
	bend               // clocks and disks of Nodes follow Bend
	wipe               // Nodes lose their disks
)

// need is what a kind cannot do without.
type need int

const (
	needsProcesses need = iota // any lab
	needsCuts                  // links that can be cut both ways: any lab, as nodes cut themselves off where links cannot be touched
	needsLinks                 // links that follow rules
	needsFaultBuild
)

// dice are what an event is drawn with.
type dice struct {
	*rand.Rand
	nodes      []string // shuffled
	partitions int
}

// minority is one node up to as many as can fail.
func (d *dice) minority() []string {
	return d.nodes[:1+d.IntN(max(1, (len(d.nodes)-1)/2))]
}

func (d *dice) some() []string { return d.nodes[:1+d.IntN(len(d.nodes))] }

func (d *dice) leader() *int {
	partition := d.IntN(d.partitions)
	return &partition
}

// between is a duration, short ones as likely as long ones.
func (d *dice) between(least, most time.Duration) time.Duration {
	for least < most && d.IntN(2) == 0 {
		least *= 2
	}
	return min(least, most)
}

func pick[T any](d *dice, of ...T) T { return of[d.IntN(len(of))] }

var cut = lab.Rule{Cut: true}

func cutting(links func([]string) []lab.Link) func(*dice) Event {
	return ruling(cut, links)
}

func ruling(rule lab.Rule, links func([]string) []lab.Link) func(*dice) Event {
	return func(d *dice) Event { return Event{Rule: rule, Links: links(d.nodes)} }
}

func halves(nodes []string) []lab.Link {
	return between(nodes[:len(nodes)/2], nodes[len(nodes)/2:])
}

func hitting(nodes func(d *dice) []string) func(*dice) Event {
	return func(d *dice) Event { return Event{Nodes: nodes(d)} }
}

// outage bounds how long all nodes are down: while they are, nobody learns
// anything.
const outage = 2 * time.Second

// kinds are all there are, by name.
var kinds = []Kind{
	{Name: "bridge", What: "cut in halves, but for one node that both still reach", Least: 3, need: needsCuts, draw: cutting(bridge)},
	{Name: "clock-drift", What: "clocks of some nodes run fast or slow by up to a fifth", Least: 1, act: bend, need: needsFaultBuild, draw: func(d *dice) Event {
		return Event{Nodes: d.some(), Bend: cluster.Control{ClockDriftPPM: pick[int64](d, 1, -1) * pick[int64](d, 1_000, 10_000, 50_000, 200_000)}}
	}},
	{Name: "clock-jump", What: "clocks of some nodes jump, ahead or back, by up to a minute", Least: 1, act: bend, need: needsFaultBuild, draw: func(d *dice) Event {
		return Event{Nodes: d.some(), Bend: cluster.Control{ClockOffsetMillis: pick[int64](d, 1, -1) * pick[int64](d, 100, 1_000, 10_000, 60_000)}}
	}},
	{Name: "cut-halves", What: "half of the nodes, or nearly, cut off from the others", Least: 2, need: needsCuts, draw: cutting(halves)},
	{Name: "cut-leader", What: "who leads a partition cut off from all other nodes; clients reach it", Least: 2, need: needsCuts, draw: func(d *dice) Event {
		return Event{Rule: cut, Leader: d.leader()}
	}},
	{Name: "cut-minority", What: "one node, or as many as can fail, cut off from a majority", Least: 3, need: needsCuts, draw: func(d *dice) Event {
		some := d.minority()
		return Event{Rule: cut, Links: between(some, d.nodes[len(some):])}
	}},
	{Name: "cut-one", What: "one node cut off from all others", Least: 2, need: needsCuts, draw: cutting(func(nodes []string) []lab.Link { return between(nodes[:1], nodes[1:]) })},
	{Name: "disk-full", What: "disks of a minority take no more", Least: 1, act: bend, need: needsFaultBuild, draw: func(d *dice) Event {
		return Event{Nodes: d.minority(), Bend: cluster.Control{DiskFull: true}}
	}},
	{Name: "duplicate", What: "half of all frames arrive twice, out of order", Least: 2, need: needsLinks, draw: ruling(lab.Rule{Duplicate: 0.5, Jitter: 20 * time.Millisecond}, all)},
	{Name: "flapping", What: "half of the nodes, or nearly, cut off again and again, for 0.1 to 2 s", Least: 2, need: needsCuts, draw: func(d *dice) Event {
		return Event{Rule: cut, Links: halves(d.nodes), On: d.between(100*time.Millisecond, 2*time.Second), Off: d.between(100*time.Millisecond, 2*time.Second)}
	}},
	{Name: "fsync-error", What: "one node's disk fails to sync; it may end itself", Least: 1, act: bend, need: needsFaultBuild, draw: func(d *dice) Event {
		return Event{Nodes: d.nodes[:1], Bend: cluster.Control{SyncError: true}}
	}},
	{Name: "isolate", What: "one node cut off from all others and from clients", Least: 2, need: needsLinks, draw: cutting(func(nodes []string) []lab.Link {
		return between(nodes[:1], append(slices.Clone(nodes[1:]), lab.Clients))
	})},
	{Name: "kill-all", What: "all nodes killed at once, with kill -9", Least: 1, most: true, act: kill, draw: func(d *dice) Event {
		return Event{Nodes: d.nodes, For: outage}
	}},
	{Name: "kill-leader", What: "who leads a partition killed, with kill -9", Least: 1, act: kill, draw: func(d *dice) Event { return Event{Leader: d.leader()} }},
	{Name: "kill-minority", What: "as many nodes as can fail killed at once, with kill -9", Least: 3, act: kill, draw: hitting(func(d *dice) []string { return d.nodes[:(len(d.nodes)-1)/2] })},
	{Name: "kill-one", What: "one node killed, with kill -9", Least: 1, act: kill, draw: hitting(func(d *dice) []string { return d.nodes[:1] })},
	{Name: "lossy", What: "a fifth of all frames are lost", Least: 2, need: needsLinks, draw: ruling(lab.Rule{Loss: 0.2}, all)},
	{Name: "majorities-ring", What: "each node reaches a majority, and no two the same", Least: 4, need: needsCuts, draw: cutting(ring)},
	{Name: "narrow", What: "all links carry 64 KiB a second", Least: 2, need: needsLinks, draw: ruling(lab.Rule{Rate: 64 << 10}, all)},
	{Name: "one-way", What: "a minority hears nothing of a majority, which hears it", Least: 2, need: needsLinks, draw: cutting(func(nodes []string) []lab.Link {
		return oneWay(nodes[len(nodes)/2:], nodes[:len(nodes)/2])
	})},
	{Name: "one-way-leader", What: "who leads a partition hears no other node, or is heard by none", Least: 2, need: needsLinks, draw: func(d *dice) Event {
		return Event{Rule: cut, Leader: d.leader(), Way: pick(d, Inward, Outward)}
	}},
	{Name: "pause-leader", What: "who leads a partition stopped where it stands (SIGSTOP)", Least: 1, act: pause, draw: func(d *dice) Event { return Event{Leader: d.leader()} }},
	{Name: "pause-majority", What: "a majority stopped where it stands (SIGSTOP)", Least: 1, most: true, act: pause, draw: hitting(func(d *dice) []string { return d.nodes[:len(d.nodes)/2+1] })},
	{Name: "pause-one", What: "one node stopped where it stands (SIGSTOP)", Least: 1, act: pause, draw: hitting(func(d *dice) []string { return d.nodes[:1] })},
	{Name: "power-cut", What: "all nodes killed at once, and what their disks had not synced is lost", Least: 1, most: true, act: kill, need: needsFaultBuild, draw: func(d *dice) Event {
		return Event{Nodes: d.nodes, For: outage}
	}},
	{Name: "rolling-restart", What: "all nodes end in order and start again, one after the other", Least: 1, act: restart, draw: hitting(func(d *dice) []string { return d.nodes })},
	{Name: "slow", What: "all links take 50 to 150 ms", Least: 2, need: needsLinks, draw: ruling(lab.Rule{Delay: 50 * time.Millisecond, Jitter: 100 * time.Millisecond}, all)},
	{Name: "slow-fsync", What: "disks of some nodes take 20 to 500 ms more for each sync", Least: 1, act: bend, need: needsFaultBuild, draw: func(d *dice) Event {
		return Event{Nodes: d.some(), Bend: cluster.Control{SyncDelayMillis: pick[int64](d, 20, 100, 500)}}
	}},
	{Name: "stutter", What: "who leads a partition stopped for 2 to 3 s, then who leads it next, again and again", Least: 1, act: pause, draw: func(d *dice) Event {
		return Event{Leader: d.leader(), On: pick(d, 2*time.Second, 2500*time.Millisecond, 3*time.Second), Off: pick(d, 100*time.Millisecond, time.Second)}
	}},
	{Name: "wipe", What: "one node killed, its disk emptied, and started: a new node", Least: 3, act: wipe, once: true, draw: func(d *dice) Event {
		return Event{Nodes: d.nodes[:1], For: outage}
	}},
}

// Kinds are all there are, by name.
func Kinds() []Kind { return slices.Clone(kinds) }

// Find is the kind of a name.
func Find(name string) (Kind, error) {
	if i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name }); i >= 0 {
		return kinds[i], nil
	}
	return Kind{}, fmt.Errorf("no nemesis %q: there are %q, and %q for several of them", name, called(kinds), called(Groups()))
}

func called[T interface{ name() string }](of []T) (all []string) {
	for _, k := range of {
		all = append(all, k.name())
	}
	return all
}

func (k Kind) name() string { return k.Name }

// Needs says what the kind needs of a cluster, in one line; empty: nothing.
func (k Kind) Needs() string {
	switch k.need {
	case needsLinks:
		return "links that follow rules: a lab of namespaces"
	case needsFaultBuild:
		return "a fault build of capstan"
	default:
		return ""
	}
}

// possible says why the kind cannot be done.
func (k Kind) possible(l lab.Kind, faultBuild bool) error {
	if k.need == needsLinks && l != lab.Namespaces || k.need == needsFaultBuild && !faultBuild {
		return fmt.Errorf("nemesis %s needs %s", k.Name, k.Needs())
	}
	return nil
}
