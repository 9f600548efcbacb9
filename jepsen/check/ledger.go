package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// What the ledger of availability makes of each operation, by the situation in which it
// was asked. What it makes of linearizable service as a whole stands in service.go.

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
	// own keys a node has taken an eventual write of in an epoch, and since when the
	// first was acknowledged.
	own map[ownKey]time.Duration
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
	// A node that reaches no replica can show no more than what it has taken itself, and a
	// session may have seen more than that.
	if s != stopped && o.Level == history.Eventual && !o.Write() && (o.Session != "" || !l.tookBefore(o, at)) &&
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

// tookBefore: the node had acknowledged an eventual write of the key, in this epoch, when
// the operation began. One that was under way then need not be seen.
func (l *ledger) tookBefore(o *history.Op, at int) bool {
	first, some := l.own[ownKey{at, o.Node, o.Key}]
	return some && first < o.Invoke
}

// lonely: what a node without a replica says of those that it reaches is true, by the
// contract. None has applied what became of a write that the node has held: then it
// answers no more from what was before (rule 22), until a replica has caught up: where
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
	if o.Func == history.Scan || s == alone || l.excused(o, at, s) {
		return
	}
	l.judged(&l.eventual, s)
	if o.Write() && o.Acks > 1 {
		l.enterAcks(o, at)
		return
	}
	if o.Outcome == history.OK {
		if o.Write() {
			k := ownKey{at, o.Node, o.Key}
			if first, some := l.own[k]; !some || o.Return < first {
				l.own[k] = o.Return
			}
		}
		return
	}
	if timedOut(o) && o.Return-o.Invoke < eventualAllowance || l.starved(o) || l.unregistered(o, at) {
		return
	}
	l.find(o.Node, fmt.Sprintf("an eventual %s was not answered by %s, which was up and in reach, since %v: %s",
		o.Func, o.Node, e, failure(o)), o)
}

// unregistered: the node refused, has answered nothing since it was last started, and a
// majority of the nodes has been within its reach for no longer than a start takes. The
// control group registers a start before the node serves.
func (l *ledger) unregistered(o *history.Op, at int) bool {
	if o.Outcome != history.Fail || o.Reason != "NO_REPLICA" {
		return false
	}
	started := time.Duration(-1)
	for i := range l.h.Faults {
		f := &l.h.Faults[i]
		if restarts[f.Kind] && f.Healed && f.Until <= o.Invoke && slices.Contains(f.Nodes, o.Node) {
			started = max(started, f.Until)
		}
	}
	if started < 0 || answeredBetween(l.h, o.Node, started, o.Invoke) {
		return false
	}
	first := at
	for first > 0 && l.epochs[first].from > started {
		if sure, _ := l.epochs[first-1].within(o.Node, l.h.Run.Nodes); sure <= len(l.h.Run.Nodes)/2 {
			break
		}
		first--
	}
	sure, _ := l.epochs[at].within(o.Node, l.h.Run.Nodes)
	return sure <= len(l.h.Run.Nodes)/2 || o.Invoke < max(l.epochs[first].from, started)+comeback
}

// behind: the node refused since it could not show what the session had seen or written.
func behind(o *history.Op) bool { return o.Outcome == history.Fail && o.Reason == "SESSION_BEHIND" }

// excused: what a session has seen or written may be on the other side of a cut, or on a
// node that is down. Once everything is in reach it has to be found, within the time for
// which service may be away.
func (l *ledger) excused(o *history.Op, at int, s situation) bool {
	return o.Session != "" && behind(o) && (s != whole || o.Invoke-l.epochs[at].from <= l.bound+serviceAllowance)
}

// enterAcks judges an eventual write that several nodes have to hold. It is acknowledged
// where so many are in reach, and refused where they are not.
func (l *ledger) enterAcks(o *history.Op, at int) {
	e := &l.epochs[at]
	sure, possible := e.within(o.Node, l.h.Run.Nodes)
	settled := o.Invoke-e.from > reunion+e.settles
	switch {
	case o.Outcome == history.OK && possible < o.Acks && settled:
		l.find(o.Node, fmt.Sprintf("an eventual %s that %d nodes have to hold was acknowledged by %s, which reached %d, since %v",
			o.Func, o.Acks, o.Node, possible, e), o)
	case o.Outcome == history.OK, timedOut(o) && o.Return-o.Invoke < eventualAllowance, l.starved(o):
	case sure >= o.Acks && settled:
		l.find(o.Node, fmt.Sprintf("an eventual %s that %d nodes have to hold was not acknowledged by %s, which reached %d, since %v: %s",
			o.Func, o.Acks, o.Node, sure, e, failure(o)), o)
	}
}

// enterLinearizable: where there is no quorum it is refused, in time.
func (l *ledger) enterLinearizable(o *history.Op, at int, s situation) {
	e := &l.epochs[at]
	if s == disturbed || l.excused(o, at, s) {
		return
	}
	l.judged(&l.linearizable, s)
	if behind(o) {
		l.find(o.Node, fmt.Sprintf("a linearizable %s was refused by %s, as it could not show what its session had seen or written, though everything was in reach since %v",
			o.Func, o.Node, e), o)
		return
	}
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
