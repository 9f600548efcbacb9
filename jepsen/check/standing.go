package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// What faults mean for who can answer whom. Between two changes there is an epoch, in
// which nothing about that changes.

// standing of a node.
type standing int

const (
	live standing = iota
	dead
	// unsure: it may stand or run, or be unable to do its work. Nothing is expected of
	// it, and nothing of what it may have a part in.
	unsure
)

// effect of a kind of fault on the nodes and links that it hits.
type effect int

const (
	stops     effect = iota // nodes are dead all the time
	wavers                  // nodes are so now and then
	hampers                 // nodes may not be able to do their work
	parts                   // links are cut, as Fault.Apart says
	disturbs                // links do something else, or not all the time
	bendsTime               // clocks: nothing rests on them
)

// effects of the kinds that package nemesis knows. One that is missing here is taken
// to hamper the nodes and disturb the links.
var effects = map[string]effect{
	"kill-all": stops, "kill-leader": stops, "kill-minority": stops, "kill-one": stops, "power-cut": stops,
	"pause-leader": stops, "pause-majority": stops, "pause-one": stops,
	"rolling-restart": wavers, "stutter": wavers, "wipe": wavers,
	"disk-full": hampers, "fsync-error": hampers, "slow-fsync": hampers,
	"cut-halves": parts, "cut-leader": parts, "cut-minority": parts, "cut-one": parts, "isolate": parts,
	"bridge": disturbs, "flapping": disturbs, "majorities-ring": disturbs, "one-way": disturbs, "one-way-leader": disturbs,
	"duplicate": disturbs, "lossy": disturbs, "narrow": disturbs, "slow": disturbs,
	"clock-drift": bendsTime, "clock-jump": bendsTime,
}

// restarts are the kinds after which a node's process is another one.
var restarts = map[string]bool{
	"kill-all": true, "kill-leader": true, "kill-minority": true, "kill-one": true, "power-cut": true, "rolling-restart": true,
	"wipe": true, "disk-full": true, "fsync-error": true,
}

func cutsLinks(kind string) bool {
	effect, known := effects[kind]
	return !known || effect == parts || effect == disturbs
}

// epoch is a stretch of time, from inclusive, until exclusive.
type epoch struct {
	from, until time.Duration
	// began is the fault that began with it; nil: something else did, or the run.
	began *history.Band
	// quiet: no fault was active, and all nodes were back from the last one.
	quiet bool
	// settles is how exact its beginning is.
	settles time.Duration
	// still: the machine stood still. resumed: it went on then.
	still, resumed bool
	standing       map[string]standing
	unreached      map[string]bool // by clients
	// wiped nodes came back as others, without replicas: whether they have been given
	// those again nobody says.
	wiped map[string]bool
	cuts  []map[string]int
	// vague: links were not just good or cut, so nobody can tell who reached whom.
	vague bool
}

// epochs of a history, without gaps, from 0 to its end.
func epochs(h *history.History) []epoch {
	type stretch struct {
		from, until time.Duration
		node        string
	}
	moments := []time.Duration{0}
	var returning []stretch // of nodes that were stopped and have not answered yet
	for i := range h.Faults {
		f := &h.Faults[i]
		moments = append(moments, f.From)
		if !f.Healed {
			continue
		}
		moments = append(moments, f.Until)
		if e, known := effects[f.Kind]; known && e != stops && e != wavers && e != hampers {
			continue
		}
		for _, node := range f.Nodes {
			at := back(h, node, f.Until)
			returning = append(returning, stretch{f.Until, at, node})
			moments = append(moments, at)
		}
	}
	for _, s := range h.Stalls {
		moments = append(moments, s.From, s.Until)
	}
	slices.Sort(moments)
	moments = slices.Compact(moments)
	var all []epoch
	for i, from := range moments {
		e := epoch{from: from, until: h.Length + 1, settles: changeSettles, quiet: true, standing: map[string]standing{}, unreached: map[string]bool{}, wiped: map[string]bool{}}
		if i+1 < len(moments) {
			e.until = moments[i+1]
		}
		for _, s := range h.Stalls {
			e.still = e.still || s.From <= from && from < s.Until
			e.resumed = e.resumed || s.Until == from
		}
		for _, r := range returning {
			if r.from <= from && from < r.until {
				e.standing[r.node], e.quiet = unsure, false
			}
		}
		for j := range h.Faults {
			f := &h.Faults[j]
			if h.Run.Lab == loopback && cutsLinks(f.Kind) && (f.From == from || f.Healed && f.Until == from) {
				e.settles = cutsSettle
			}
			if f.From <= from && f.Kind == "wipe" {
				for _, node := range f.Nodes {
					e.wiped[node], e.quiet = true, false
				}
			}
			if f.From > from || f.Healed && f.Until <= from {
				continue
			}
			if f.From == from {
				e.began = f
			}
			e.suffer(f, h.Run.Nodes)
		}
		all = append(all, e)
	}
	return all
}

// comeback is how long a node that had been stopped may take to answer anything: it
// starts in seconds. Later it is to blame that it is not there.
const comeback = 20 * time.Second

// back is when a node that had been stopped answered again: the end of the first
// operation there, begun since, that was answered; or when it should have.
func back(h *history.History, node string, since time.Duration) time.Duration {
	first := min(h.Length+1, since+comeback)
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Node == node && o.Invoke >= since && o.Outcome == history.OK {
			first = min(first, o.Return)
		}
	}
	return first
}

// answeredBetween reports whether the node answered anything that began and ended between two
// moments.
func answeredBetween(h *history.History, node string, from, until time.Duration) bool {
	return slices.ContainsFunc(h.Ops, func(o history.Op) bool {
		return o.Node == node && o.Outcome == history.OK && o.Invoke >= from && o.Return <= until
	})
}

// suffer takes in one more fault.
func (e *epoch) suffer(f *history.Band, nodes []string) {
	e.quiet = false
	effect, known := effects[f.Kind]
	if !known {
		effect, e.vague = hampers, true
	}
	for _, node := range f.Nodes {
		if f.ClientsToo {
			e.unreached[node] = true
		}
		switch effect {
		case stops:
			e.standing[node] = dead
		case wavers, hampers:
			if e.standing[node] == live {
				e.standing[node] = unsure
			}
		case parts, disturbs, bendsTime:
		}
	}
	switch effect {
	case disturbs:
		e.vague = true
	case parts:
		side := map[string]int{}
		for i, group := range f.Apart {
			for _, node := range group {
				side[node] = i + 1
			}
		}
		for _, node := range nodes {
			e.vague = e.vague || side[node] == 0 // it is on both
		}
		e.cuts = append(e.cuts, side)
	case stops, wavers, hampers, bendsTime:
	}
}

// together: no cut is between two nodes.
func (e *epoch) together(a, b string) bool {
	return !slices.ContainsFunc(e.cuts, func(side map[string]int) bool { return side[a] != side[b] })
}

// situation of an operation: what can be expected for it.
type situation string

const (
	// whole: there is no fault.
	whole situation = "whole"
	// majority and minority: there is one; a quorum of the partition's replicas is, or
	// is not, within the node's reach.
	majority situation = "majority"
	minority situation = "minority"
	// alone: an eventual read, and no replica of the partition is.
	alone situation = "alone"
	// disturbed: nobody can tell.
	disturbed situation = "disturbed"
	// stopped: the node is stopped or on its way back, or clients do not reach it, or
	// the whole machine stood still.
	stopped situation = "stopped"
)

var situations = []situation{whole, majority, minority, alone, disturbed, stopped}

// at is the situation of a partition's operations at a node. replicas are those of
// the partition that have a vote.
func (e *epoch) at(node string, replicas []string) situation {
	if e.still || e.standing[node] != live || e.unreached[node] {
		return stopped
	}
	if e.quiet {
		return whole
	}
	if e.vague {
		return disturbed
	}
	sure, possible := 0, 0
	for _, r := range replicas {
		if !e.together(node, r) || e.standing[r] == dead {
			continue
		}
		possible++
		if e.standing[r] == live && !e.wiped[r] {
			sure++
		}
	}
	switch quorum := len(replicas)/2 + 1; {
	case sure >= quorum && sure == possible:
		return majority
	case possible < quorum:
		return minority
	}
	return disturbed
}

// reaches: a replica of the partition is sure to be within the node's reach.
func (e *epoch) reaches(node string, replicas []string) bool {
	return slices.ContainsFunc(replicas, func(r string) bool {
		return !e.wiped[r] && (r == node || !e.vague && e.standing[r] == live && e.together(node, r))
	})
}

// within counts the nodes within a node's reach, itself included: those that are sure to
// be, and those that may be. The node itself is live.
func (e *epoch) within(node string, nodes []string) (sure, possible int) {
	for _, n := range nodes {
		switch {
		case n == node:
			sure++
			possible++
		case e.standing[n] == dead || !e.together(node, n):
		default:
			possible++
			if e.standing[n] == live && !e.vague && !e.wiped[n] {
				sure++
			}
		}
	}
	return sure, possible
}

// String names the epoch's beginning to people.
func (e *epoch) String() string {
	switch {
	case e.began != nil:
		return fmt.Sprintf("fault %d (%s)", e.began.Number, e.began.Kind)
	case e.from == 0:
		return "the beginning"
	case e.resumed:
		return "the machine stood still"
	}
	return "a fault's end"
}
