package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// The availability workload asks every node for every partition at both levels. Its
// ledger counts the other workloads' requests too: service is service.
var availability = Checker{
	Workload: "availability", Name: "ledger",
	What: "eventual requests are answered by every live node; linearizable ones are refused in time where there is no quorum, " +
		"and served within two election timeouts of a fault where there is one",
	Check: checkAvailability,
}

// loopback is the lab in which links cannot be touched.
const loopback = "loopback"

const (
	// serviceTimeouts are how many election timeouts service may be away.
	serviceTimeouts = 2
	// serviceAllowance is what a machine that runs all nodes, the clients and the
	// network may add to that, or to a deadline, before it counts as a violation.
	serviceAllowance = time.Second
	// eventualAllowance is for how long an eventual request may go without an answer
	// on such a machine: one that was given up earlier tells nothing.
	eventualAllowance = 2 * time.Second
	// reunion is for how long after a fault a node may not reach those that it was cut
	// off from: nodes dial each other once a second.
	reunion = time.Second + serviceAllowance
	// changeSettles is how far a fault's line in the history may be from its beginning
	// or end: a fault is told of once it is in force everywhere, or nowhere any more.
	changeSettles = 500 * time.Millisecond
	// cutsSettle is the same where nodes are told to cut themselves off, each by a
	// request that may have to be repeated.
	cutsSettle = 2500 * time.Millisecond
)

// Availability is the ledger of a run: of the operations that began and ended between two
// changes of who can reach whom.
type Availability struct {
	// Bound is for how long service may be away; Allowance what was added to it.
	Bound     time.Duration `json:"bound"`
	Allowance time.Duration `json:"allowance"`
	// Rows are by node, level and situation. Those of which nothing was asked are
	// left out.
	Rows []AvailabilityRow `json:"rows"`
	// Interruptions of linearizable service, a line for each time that who can reach
	// whom changed and somebody was then refused who had a quorum.
	Interruptions []Interruption `json:"interruptions"`
	// UnderWay operations were neither before nor after a change.
	UnderWay int `json:"under_way"`
	// Stalls of the machine, during which nothing is judged, and how long they were in
	// all.
	Stalls  int           `json:"stalls"`
	Stalled time.Duration `json:"stalled"`
}

// AvailabilityRow counts the operations at one node, at one level, in one situation:
// "whole" without any fault, "majority" with a quorum within the node's reach,
// "minority" without, "alone" for an eventual read where not even one replica is, or none that has caught up,
// "disturbed" where nobody can tell, "stopped" where the node was down, paused, on its
// way back, or cut off from clients, or where the whole machine stood still.
type AvailabilityRow struct {
	Node      string        `json:"node"`
	Level     history.Level `json:"level"`
	Situation string        `json:"situation"`
	Asked     int           `json:"asked"`
	// Answered with success, or with a condition that did not hold. Refused: nothing
	// was done. Unknown: the node said that it does not know. Silent: there was no
	// answer in time.
	Answered int `json:"answered"`
	Refused  int `json:"refused"`
	Unknown  int `json:"unknown"`
	Silent   int `json:"silent"`
	// How long answers took, and refusals.
	P50        time.Duration `json:"p50"`
	P99        time.Duration `json:"p99"`
	Max        time.Duration `json:"max"`
	RefusedP50 time.Duration `json:"refused_p50"`
	RefusedMax time.Duration `json:"refused_max"`
}

// Interruption is a time when linearizable requests were refused at nodes that had a
// quorum within reach.
type Interruption struct {
	// Fault that began then; -1: one ended, or the run began.
	Fault int           `json:"fault"`
	What  string        `json:"what"`
	At    time.Duration `json:"at"`
	// Partitions that were asked for where they had a quorum; Interrupted: those that
	// were refused somewhere at first.
	Partitions  int `json:"partitions"`
	Interrupted int `json:"interrupted"`
	// P50 and Max of the time until each of those was served again at some node.
	P50 time.Duration `json:"p50"`
	Max time.Duration `json:"max"`
	// Refused is after how long the last request began that some node refused before it
	// served its first. It is what is held against the bound.
	Refused time.Duration `json:"refused"`
	// Open: those that were not served before something else changed.
	Open int `json:"open"`
}

func checkAvailability(v *View) Judgement {
	h := v.History
	l := &ledger{
		h: h, epochs: epochs(h), bound: serviceTimeouts * h.Run.ElectionTimeout,
		rows: map[rowKey]*tally{}, service: map[serviceKey][]*history.Op{}, own: map[ownKey]time.Duration{},
	}
	if len(h.Run.Placement) == 0 || l.bound <= 0 {
		return Judgement{Void: []string{"availability: where the replicas are, or the election timeout, is not recorded"}}
	}
	for i := range h.Ops {
		if o := &h.Ops[i]; !o.Final && o.Partition >= 0 && slices.Contains(h.Run.Nodes, o.Node) {
			l.enter(o)
		}
	}
	a := l.sum()
	for _, s := range h.Stalls {
		a.Stalls++
		a.Stalled += s.Until - s.From
	}
	v.Stats.Availability = a
	for _, f := range l.findings {
		l.judgement.Findings = append(l.judgement.Findings, *f)
	}
	j := l.judgement
	hit := slices.ContainsFunc(h.Faults, func(f history.Band) bool { return effects[f.Kind] == stops || effects[f.Kind] == parts })
	if hit && l.duringFaults == 0 {
		j.Void = append(j.Void, "availability: nothing could be judged during any fault")
	}
	if a.Stalled > h.Length/maxStalledShare {
		j.Void = append(j.Void, fmt.Sprintf("availability: the machine stood still %d times, for %v of %v: nothing can be timed on it", a.Stalls, rounded(a.Stalled), rounded(h.Length)))
	}
	longest := Interruption{}
	for _, i := range a.Interruptions {
		if i.Fault >= 0 && i.Refused > longest.Refused {
			longest = i
		}
	}
	j.Detail = fmt.Sprintf("%d eventual and %d linearizable operations judged, %d of them during faults, %d left out as a fault began or ended meanwhile",
		l.eventual, l.linearizable, l.duringFaults, a.UnderWay)
	if longest.Refused > 0 {
		j.Detail += fmt.Sprintf("; last refused, with a quorum, %v after %s, where %v are allowed", rounded(longest.Refused), longest.What, l.bound)
	}
	if a.Stalls > 0 {
		j.Detail += fmt.Sprintf("; the machine stood still %d times, for %v", a.Stalls, rounded(a.Stalled))
	}
	return j
}

// maxStalledShare of a run may be stalls: a fifth.
const maxStalledShare = 5
