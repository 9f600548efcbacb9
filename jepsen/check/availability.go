package check

import (
	"cmp"
	"fmt"
	"maps"
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

// Availability is the ledger of a run: of the operations without a session that began
// and ended between two changes of who can reach whom.
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
		rows: map[rowKey]*tally{}, service: map[serviceKey][]*history.Op{}, own: map[ownKey]bool{},
	}
	if len(h.Run.Placement) == 0 || l.bound <= 0 {
		return Judgement{Void: []string{"availability: where the replicas are, or the election timeout, is not recorded"}}
	}
	for i := range h.Ops {
		if o := &h.Ops[i]; !o.Final && o.Session == "" && o.Acks <= 1 && o.Partition >= 0 && slices.Contains(h.Run.Nodes, o.Node) {
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

type rowKey struct {
	node  string
	level history.Level
	situation
}

type tally struct {
	AvailabilityRow
	answered, refused []time.Duration
}

type serviceKey struct {
	epoch     int
	partition int
	node      string
}

type ownKey struct {
	epoch     int
	node, key string
}

// ledger is being written, operation by operation in order of invocation.
type ledger struct {
	h      *history.History
	epochs []epoch
	bound  time.Duration
	rows   map[rowKey]*tally
	// service are the linearizable operations where there was a quorum.
	service map[serviceKey][]*history.Op
	// own keys a node has taken an eventual write of in an epoch.
	own map[ownKey]bool
	// slow has an entry for each partition that a fault interrupted.
	slow []slow

	underWay, eventual, linearizable, duringFaults int
	judgement                                      Judgement
	findings                                       []*Finding
}

func (l *ledger) enter(o *history.Op) {
	at, exact := slices.BinarySearchFunc(l.epochs, o.Invoke, func(e epoch, t time.Duration) int { return cmp.Compare(e.from, t) })
	if !exact {
		at--
	}
	e := &l.epochs[at]
	if o.Outcome == "" || at+1 < len(l.epochs) && o.Return >= e.until-l.epochs[at+1].settles {
		l.underWay++ // or the change came before it was told of
		return
	}
	replicas := l.h.Run.Placement[o.Partition]
	s := e.at(o.Node, replicas)
	// A node that reaches no replica can show no more than what it has taken itself.
	if s != stopped && o.Level == history.Eventual && !o.Write() && !l.own[ownKey{at, o.Node, o.Key}] &&
		(!e.reaches(o.Node, replicas) || l.lonely(o, at, s)) {
		s = alone
	}
	l.count(o, s)
	if s == stopped {
		return
	}
	switch o.Level {
	case history.Eventual:
		l.enterEventual(o, at, s)
	case history.Linearizable:
		l.enterLinearizable(o, at, s)
	case history.Bounded: // it may be refused, once its bound is used up
	}
}

// lonely: what a node without a replica says of those that it reaches is true, by the
// contract. None has applied what became of a write that the node has held: then it
// answers no more from what was before (rule 7), until a replica has caught up: where
// they have a quorum, that takes no longer than service may be away. Or they were out
// of its reach a moment ago, and it has not found them again.
func (l *ledger) lonely(o *history.Op, at int, s situation) bool {
	replicas := l.h.Run.Placement[o.Partition]
	if o.Outcome != history.Fail || slices.Contains(replicas, o.Node) {
		return false
	}
	switch o.Reason {
	case "SESSION_BEHIND":
		return s != whole && s != majority || o.Invoke-l.epochs[at].from <= l.bound+serviceAllowance
	case "NO_REPLICA":
		for at--; at >= 0 && l.epochs[at].until > o.Invoke-reunion; at-- {
			if !l.epochs[at].reaches(o.Node, replicas) {
				return true
			}
		}
	}
	return false
}

func (l *ledger) judged(n *int, s situation) {
	*n++
	l.judgement.Seen++
	if s != whole {
		l.duringFaults++
	}
}

// enterEventual: it is answered, whatever the network does.
func (l *ledger) enterEventual(o *history.Op, at int, s situation) {
	e := &l.epochs[at]
	if o.Func == history.Scan || s == alone {
		return
	}
	l.judged(&l.eventual, s)
	if o.Outcome == history.OK {
		if o.Write() {
			l.own[ownKey{at, o.Node, o.Key}] = true
		}
		return
	}
	if timedOut(o) && o.Return-o.Invoke < eventualAllowance || l.starved(o) {
		return
	}
	l.find(o.Node, fmt.Sprintf("an eventual %s was not answered by %s, which was up and in reach, since %v: %s",
		o.Func, o.Node, e, failure(o)), o)
}

// enterLinearizable: where there is no quorum it is refused, in time.
func (l *ledger) enterLinearizable(o *history.Op, at int, s situation) {
	e := &l.epochs[at]
	if s == disturbed {
		return
	}
	l.judged(&l.linearizable, s)
	if s != minority && (!served(o) || o.Invoke-e.from > e.settles) { // who led may still have been heard
		k := serviceKey{at, o.Partition, o.Node}
		l.service[k] = append(l.service[k], o)
	}
	switch {
	case silent(o) && !(timedOut(o) && o.Return-o.Invoke < o.Deadline+serviceAllowance) && !l.starved(o):
		l.find(o.Node, fmt.Sprintf("a linearizable %s was neither answered nor refused by %s, which was up and in reach, within %v, in the %s since %v: %s",
			o.Func, o.Node, rounded(o.Return-o.Invoke), s, e, failure(o)), o)
	case s == minority && served(o) && o.Invoke-e.from > e.settles:
		l.find(o.Node, fmt.Sprintf("a linearizable %s was answered by %s, %v after %v, though no quorum of partition %d was within its reach",
			o.Func, o.Node, rounded(o.Invoke-e.from), e, o.Partition), o)
	}
}

// starved: the operation timed out, nothing that its node was asked after the deadline
// was answered sooner, and something soon after: the node's process did not get to run,
// or was behind with everything, on a machine that is too busy. One request that
// hangs is overtaken by others, and a node that hangs does so for longer.
func (l *ledger) starved(o *history.Op) bool {
	late := o.Invoke + o.Deadline
	until := late + starvation
	if !timedOut(o) || o.Return > until {
		return false
	}
	at, _ := slices.BinarySearchFunc(l.h.Ops, o.Invoke-starvation, func(p history.Op, t time.Duration) int { return cmp.Compare(p.Invoke, t) })
	after := false
	for ; at < len(l.h.Ops) && l.h.Ops[at].Invoke < until; at++ {
		p := &l.h.Ops[at]
		if p.Node != o.Node || p.Outcome == "" || silent(p) {
			continue
		}
		if p.Invoke >= late && p.Return < o.Return {
			return false
		}
		after = after || p.Return >= o.Return && p.Return < until
	}
	return after
}

// starvation is for how long at most.
const starvation = 3 * time.Second

// served: a quorum must have had a part in the answer.
func served(o *history.Op) bool { return o.Outcome == history.OK || o.Mismatch }

// silent: no node said anything.
func silent(o *history.Op) bool { return !served(o) && o.Reason == "" }

// timedOut: the client, or the node, waited no longer.
func timedOut(o *history.Op) bool { return o.Code == "deadline_exceeded" }

func failure(o *history.Op) string {
	switch {
	case o.Reason != "":
		return o.Reason
	case o.Code != "":
		return o.Code
	}
	return "no answer"
}

// find adds a finding, as long as there are not too many.
func (l *ledger) find(key, why string, ops ...*history.Op) {
	if len(l.findings) < maxLedgerFindings {
		l.findings = append(l.findings, &Finding{Key: key, Why: why, Ops: show(ops...)})
	}
}

// maxStalledShare of a run may be stalls: a fifth.
const maxStalledShare = 5

// maxLedgerFindings of a run. A node that answers nothing would give thousands.
const maxLedgerFindings = 50

func (l *ledger) count(o *history.Op, s situation) {
	k := rowKey{o.Node, o.Level, s}
	t := l.rows[k]
	if t == nil {
		t = &tally{AvailabilityRow: AvailabilityRow{Node: o.Node, Level: o.Level, Situation: string(s)}}
		l.rows[k] = t
	}
	t.Asked++
	took := o.Return - o.Invoke
	switch {
	case served(o):
		t.Answered++
		t.answered = append(t.answered, took)
	case silent(o):
		t.Silent++
	case o.Outcome == history.Fail:
		t.Refused++
		t.refused = append(t.refused, took)
	default:
		t.Unknown++
		t.refused = append(t.refused, took)
	}
}

func (l *ledger) sum() *Availability {
	a := &Availability{Bound: l.bound, Allowance: serviceAllowance, Rows: []AvailabilityRow{}, Interruptions: []Interruption{}, UnderWay: l.underWay}
	for _, node := range l.h.Run.Nodes {
		for _, level := range []history.Level{history.Linearizable, history.Bounded, history.Eventual} {
			for _, s := range situations {
				t := l.rows[rowKey{node, level, s}]
				if t == nil {
					continue
				}
				slices.Sort(t.answered)
				slices.Sort(t.refused)
				t.P50, t.P99, t.Max = quantile(t.answered, 50), quantile(t.answered, 99), quantile(t.answered, 100)
				t.RefusedP50, t.RefusedMax = quantile(t.refused, 50), quantile(t.refused, 100)
				a.Rows = append(a.Rows, t.AvailabilityRow)
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(l.service), func(a, b serviceKey) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.partition, b.partition), cmp.Compare(a.node, b.node))
	})
	l.judgeSteadiness(keys)
	for len(keys) > 0 {
		at := keys[0].epoch
		n := slices.IndexFunc(keys, func(k serviceKey) bool { return k.epoch != at })
		if n < 0 {
			n = len(keys)
		}
		if i := l.interruption(&l.epochs[at], keys[:n]); i.Interrupted > 0 {
			a.Interruptions = append(a.Interruptions, i)
		}
		keys = keys[n:]
	}
	l.judgeAll()
	return a
}

// interruption of service in one epoch, by partition and node.
func (l *ledger) interruption(e *epoch, keys []serviceKey) Interruption {
	i := Interruption{Fault: -1, What: e.String(), At: e.from}
	if e.began != nil {
		i.Fault = e.began.Number
	}
	again := map[int]time.Duration{} // by partition: until somebody was served
	interrupted := map[int]bool{}
	slowest := map[int]slow{}
	for _, k := range keys {
		ops := l.service[k]
		first := slices.IndexFunc(ops, served)
		if first < 0 {
			first = len(ops)
		} else if after, was := again[k.partition]; !was || ops[first].Return-e.from < after {
			again[k.partition] = ops[first].Return - e.from
		}
		interrupted[k.partition] = interrupted[k.partition] || first > 0
		if first > 0 {
			last := ops[first-1]
			i.Refused = max(i.Refused, last.Invoke-e.from)
			if s := (slow{last.Invoke - e.from, e, k, []*history.Op{ops[0], last}}); s.away >= slowest[k.partition].away {
				s.ops = append(s.ops, ops[first:min(first+1, len(ops))]...)
				slowest[k.partition] = s
			}
		}
		l.judgeService(e, k, ops)
	}
	var times []time.Duration
	for partition, was := range interrupted {
		i.Partitions++
		if !was {
			continue
		}
		i.Interrupted++
		if after, served := again[partition]; served {
			times = append(times, after)
		} else {
			i.Open++
		}
	}
	if e.began != nil {
		for _, partition := range slices.Sorted(maps.Keys(slowest)) {
			l.slow = append(l.slow, slowest[partition])
		}
	}
	slices.Sort(times)
	i.P50, i.Max = quantile(times, 50), quantile(times, 100)
	return i
}

// slow is the longest that a partition was refused at a node with a quorum once a fault
// had begun.
type slow struct {
	away time.Duration
	at   *epoch
	key  serviceKey
	ops  []*history.Op
}

const (
	// A busy machine may have one interruption last longer than the bound, not a fifth
	// of them, and at least three.
	slowShare = 5
	slowLeast = 3
)

// judgeAll holds the interruptions of the whole run against the bound, without any
// allowance.
func (l *ledger) judgeAll() {
	late := 0
	var worst slow
	for _, s := range l.slow {
		if s.away > l.bound {
			late++
		}
		if s.away > worst.away {
			worst = s
		}
	}
	if late < slowLeast || late*slowShare <= len(l.slow) {
		return
	}
	l.find("", fmt.Sprintf("%d of %d times that a fault interrupted a partition it was refused for longer than %v by a node with a quorum of it within reach: more than a busy machine explains; at worst partition %d at %s, %v after %v",
		late, len(l.slow), l.bound, worst.key.partition, worst.key.node, rounded(worst.away), worst.at), worst.ops...)
}

// judgeService holds every stretch of refusals against the bound: the one with which an
// epoch begins from that beginning on, later ones from their first refusal. It lasted
// at least until the last request began that was refused.
func (l *ledger) judgeService(e *epoch, k serviceKey, ops []*history.Op) {
	since, first := e.from, -1
	for n, o := range ops {
		if served(o) {
			since, first = -1, -1
			continue
		}
		if first < 0 {
			first = n
		}
		if since < 0 {
			since = o.Invoke
		}
		ends := n+1 == len(ops) || served(ops[n+1])
		if away := o.Invoke - since; ends && away > l.bound+serviceAllowance {
			shown := []*history.Op{ops[first], o}
			if n+1 < len(ops) {
				shown = append(shown, ops[n+1])
			}
			l.find(k.node, fmt.Sprintf("partition %d was not served at %s for at least %v, with a quorum of it within reach, since %v: %v are allowed; last %s",
				k.partition, k.node, rounded(away), e, l.bound, failure(o)), shown...)
		}
	}
}
