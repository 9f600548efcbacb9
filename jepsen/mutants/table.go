package mutants

import (
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
)

// all are the mutants that the harness answers for.
var all = []Mutant{
	{
		Fault: "ack-before-fsync",
		What:  "a node answers before what it answers for is on its disk",
		How:   "all nodes are killed at once, again and again",
		run:   run(12*time.Second, "register"),
		schedule: func() nemesis.Schedule {
			return again(3, 2*time.Second, 4*time.Second, nemesis.Event{For: 500 * time.Millisecond, Kind: "kill-all", Nodes: nodes})
		},
	},
	{
		Fault: "read-unconfirmed",
		What:  "a leader answers reads without asking whether it still leads",
		How:   "who leads a partition is cut off from all other nodes, and clients reach it",
		run:   few(run(16*time.Second, "register")),
		schedule: func() nemesis.Schedule {
			return again(2, 2*time.Second, 7*time.Second, leads(nemesis.Event{For: 5 * time.Second, Kind: "cut-leader", Rule: cut}))
		},
	},
	{
		Fault: "verify-leader",
		What:  "a leader counts answers that its voters gave before the read came",
		How:   "what comes to a leader is late by more and more, up to 2.7 s; then no other node hears it, and while old answers still come in they elect another",
		run:   patient(crowded(few(run(26*time.Second, "set", "counter"))), 4*time.Second),
		schedule: func() (s nemesis.Schedule) {
			for _, begin := range []time.Duration{time.Second, 14 * time.Second} {
				for i := range 9 {
					later := time.Duration(i) * 400 * time.Millisecond
					s = append(s, leads(nemesis.Event{
						At: begin + later, For: 10*time.Second - later, Kind: "slow", Rule: lab.Rule{Delay: 300 * time.Millisecond}, Way: nemesis.Inward,
					}))
				}
				s = append(s, leads(nemesis.Event{At: begin + 5500*time.Millisecond, For: 4500 * time.Millisecond, Kind: "one-way-leader", Rule: cut, Way: nemesis.Outward}))
			}
			return s
		},
	},
	{
		Fault: "fresh-leader",
		What:  "a leader answers before an entry of its own term is committed",
		How:   "all disks are slow, and who leads a partition is heard by no other node: its last writes are acknowledged, and nobody else knows that they are committed",
		run:   crowded(few(run(20*time.Second, "set", "counter"))),
		schedule: func() nemesis.Schedule {
			s := again(3, 2*time.Second, 6*time.Second, leads(nemesis.Event{For: 4 * time.Second, Kind: "one-way-leader", Rule: cut, Way: nemesis.Outward}))
			slow := nemesis.Event{At: time.Second, For: 18 * time.Second, Kind: "slow-fsync", Nodes: nodes, Bend: cluster.Control{SyncDelayMillis: 80}}
			return append(nemesis.Schedule{slow}, s...)
		},
	},
	{
		Fault: "retry-unknown",
		What:  "a write whose answer was lost is sent a second time",
		How:   "two nodes hear nothing of the others for so long that what they wait for is lost, though it was done",
		run:   patient(run(20*time.Second, "set", "counter"), 6*time.Second),
		schedule: func() nemesis.Schedule {
			return again(4, 2*time.Second, 4*time.Second, nemesis.Event{For: 2500 * time.Millisecond, Kind: "one-way", Rule: cut, Links: ways(nodes[2:], nodes[:2])})
		},
	},
	{
		Fault: "skip-base",
		What:  "an eventual write replaces a linearizable one that it had not heard of",
		How:   "two nodes are cut off and take eventual writes, while the others go on",
		run:   run(16*time.Second, "mixed"),
		schedule: func() nemesis.Schedule {
			return again(2, 2*time.Second, 7*time.Second, nemesis.Event{For: 5 * time.Second, Kind: "cut-halves", Rule: cut, Links: both(nodes[:2], nodes[2:])})
		},
	},
	{
		Fault: "drop-hint",
		What:  "a node that keeps an eventual write for others loses it",
		How:   "one node after the other is cut off, and takes writes of keys that it holds no replica of",
		run:   run(16*time.Second, "eventual"),
		schedule: func() (s nemesis.Schedule) {
			for i, n := range nodes[:3] {
				s = append(s, nemesis.Event{At: time.Duration(2+4*i) * time.Second, For: 3 * time.Second, Kind: "cut-one", Rule: cut, Links: both([]string{n}, others(n))})
			}
			return s
		},
	},
	{
		Fault: "promote-twice",
		What:  "an eventual write that two nodes hand in is committed twice",
		How:   "nodes are cut off and come back again and again, with writes that others hold, too",
		run:   run(20*time.Second, "eventual", "mixed"),
		schedule: func() nemesis.Schedule {
			flap := nemesis.Event{At: 2 * time.Second, For: 16 * time.Second, Kind: "flapping", Rule: cut, Links: both(nodes[:2], nodes[2:]), On: 1500 * time.Millisecond, Off: 500 * time.Millisecond}
			kills := again(3, 4*time.Second, 5*time.Second, leads(nemesis.Event{For: time.Second, Kind: "kill-leader"}))
			return append(nemesis.Schedule{flap}, kills...)
		},
	},
	{
		Fault: "session-ignored",
		What:  "a node answers as if the request came without a session",
		How:   "sessions go from node to node, while two of the nodes are cut off",
		run:   run(12*time.Second, "session"),
		schedule: func() nemesis.Schedule {
			return again(2, 2*time.Second, 5*time.Second, nemesis.Event{For: 3 * time.Second, Kind: "cut-halves", Rule: cut, Links: both(nodes[:2], nodes[2:])})
		},
	},
	{
		Fault: "floor-ignored",
		What:  "a tombstone is dropped while a node may still hold an older write",
		How:   "two nodes are cut off and take eventual writes of keys that the others delete",
		run:   run(16*time.Second, "delete"),
		schedule: func() nemesis.Schedule {
			return again(2, 2*time.Second, 7*time.Second, nemesis.Event{For: 5 * time.Second, Kind: "cut-halves", Rule: cut, Links: both(nodes[:2], nodes[2:])})
		},
	},
	{
		Fault: "snapshot-without-dots",
		What:  "a snapshot lacks the record of which eventual writes were promoted",
		How:   "who leads a partition is killed again and again, and is sent a snapshot when it is back",
		run:   env(few(run(24*time.Second, "eventual")), "CAPSTAN_FAULT_SMALL_LOGS=1"),
		schedule: func() nemesis.Schedule {
			return again(4, 2*time.Second, 5500*time.Millisecond, leads(nemesis.Event{For: 4 * time.Second, Kind: "kill-leader"}))
		},
	},
}

// nodes of every run, by name.
var nodes = []string{"n1", "n2", "n3", "n4", "n5"}

var cut = lab.Rule{Cut: true}

// run is what the runs have in common.
func run(limit time.Duration, workloads ...string) jepsen.Config {
	return jepsen.Config{Nodes: len(nodes), Workloads: workloads, TimeLimit: limit, Rate: 300}
}

// few puts all keys into one partition: that which is hit.
func few(c jepsen.Config) jepsen.Config {
	c.Partitions = 1
	return c
}

// crowded has many clients, so that many wait when something happens.
func crowded(c jepsen.Config) jepsen.Config {
	c.Concurrency, c.Rate = 4, 300
	return c
}

// patient lets clients wait for as long as slow links or an election take.
func patient(c jepsen.Config, timeout time.Duration) jepsen.Config {
	c.OpTimeout = timeout
	return c
}

func env(c jepsen.Config, variables ...string) jepsen.Config {
	c.Env = variables
	return c
}

// again repeats an event, first at that time, then every so often.
func again(times int, first, every time.Duration, e nemesis.Event) (s nemesis.Schedule) {
	for i := range times {
		e.At = first + time.Duration(i)*every
		s = append(s, e)
	}
	return s
}

// leads has an event hit who leads the first partition.
func leads(e nemesis.Event) nemesis.Event {
	e.Leader = new(int)
	return e
}

// ways are the links from each of some nodes to each of others.
func ways(from, to []string) (links []lab.Link) {
	for _, a := range from {
		for _, b := range to {
			links = append(links, lab.Link{From: a, To: b})
		}
	}
	return links
}

func both(some, others []string) []lab.Link {
	return append(ways(some, others), ways(others, some)...)
}

func others(than string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == than })
}
