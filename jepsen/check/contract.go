package check

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// translated is a history of one workload in the words of package contract.
type translated struct {
	*contract.History
	// from finds back the operation that one of contract's was.
	from map[identity]*history.Op
}

// identity of an operation that contract copies about: a process does one after
// the other.
type identity struct {
	process int
	invoke  int64
	key     string
	kind    contract.Kind
}

func identify(o *contract.Op) identity {
	return identity{o.Process, int64(o.Invoke), o.Key, o.Kind}
}

// translate takes over gets, puts and deletes. Reads without an answer say nothing
// and are left out; a write without one may take effect at any time. An answer that is
// none, since its version can not be read, is a finding.
func translate(ops []*history.Op, end *contract.End) (*translated, *Finding) {
	t := &translated{History: &contract.History{End: end}, from: map[identity]*history.Op{}}
	for _, o := range ops {
		if o.Func == history.Scan || !o.Write() && o.Outcome != history.OK {
			continue
		}
		c := contract.Op{
			Process: o.Process, Node: o.NodeID, Key: o.Key, Value: o.Value, Found: o.Found, Expect: o.Expect,
			Tentative: o.Tentative, Base: o.Base, Receipt: o.Receipt, Session: o.Session,
			MaxStaleness: o.MaxStaleness, Staleness: o.Staleness, Invoke: o.Invoke, Return: o.Return,
		}
		switch o.Func {
		case history.Put:
			c.Kind = contract.Put
		case history.Delete:
			c.Kind = contract.Delete
		}
		switch o.Level {
		case history.Bounded:
			c.Level = contract.Bounded
		case history.Eventual:
			c.Level = contract.Eventual
		}
		switch o.Condition {
		case history.IfAbsent:
			c.Condition = contract.IfAbsent
		case history.IfPresent:
			c.Condition = contract.IfPresent
		case history.IfVersion:
			c.Condition = contract.IfValue
		}
		if c.Level == contract.Bounded && !o.StalenessKnown {
			c.Staleness = c.MaxStaleness // that is all it says
		}
		switch {
		case o.Outcome == history.OK:
		case o.Mismatch:
			c.Outcome = contract.Mismatch
			c.Absent = o.Version == "" && o.Reason == "CONDITION_FAILED"
		case o.Outcome == history.Fail:
			c.Outcome = contract.Failed
		default:
			c.Outcome = contract.Unknown
		}
		if o.Version != "" {
			v, err := version(o.Version)
			if err != nil {
				return nil, &Finding{Key: o.Key, Why: err.Error(), Ops: show(o)}
			}
			c.Version = v
		}
		t.Ops = append(t.Ops, c)
		t.from[identify(&c)] = o
	}
	return t, nil
}

// unstored: the node that was to take an eventual write could not write it down, and
// does not know how much of it reached the disk. If nothing did, nobody will ever
// hear of it, and its fate stays open.
func unstored(o *history.Op) bool {
	return o.Outcome == history.Info && o.Reason == "NO_REPLICA"
}

// ending is what the cluster ended with, nil if it was not asked for, or had not
// come to rest. What can not be read is a finding.
func ending(h *history.History) (*contract.End, *Finding) {
	if h.End == nil || !h.End.Asked || !h.End.Settled {
		return nil, nil
	}
	end := &contract.End{Fates: map[string]contract.Fate{}, Dropped: h.End.ConflictsDropped, Removed: h.End.Removed, Joined: h.End.Joined}
	for _, f := range h.Fates {
		fate := contract.Fate{Kind: fateKinds[f.Fate]}
		if fate.Kind == contract.Pending && unstored(&h.Ops[f.Op]) {
			continue
		}
		if fate.Kind == 0 {
			return nil, &Finding{Key: h.Ops[f.Op].Key, Why: fmt.Sprintf("%q is no fate", f.Fate), Ops: show(&h.Ops[f.Op])}
		}
		if f.Version != "" {
			v, err := version(f.Version)
			if err != nil {
				return nil, &Finding{Key: h.Ops[f.Op].Key, Why: "its fate: " + err.Error(), Ops: show(&h.Ops[f.Op])}
			}
			fate.Version = v
		}
		end.Fates[f.Receipt] = fate
	}
	for _, c := range h.Conflicts {
		losing, err1 := version(c.Losing)
		var winning contract.Version // none: it lost to the floor
		var err2 error
		if c.Winning != "" {
			winning, err2 = version(c.Winning)
		}
		if err := cmp.Or(err1, err2); err != nil {
			return nil, &Finding{Key: c.Key, Why: "a conflict: " + err.Error()}
		}
		end.Conflicts = append(end.Conflicts, contract.Conflict{
			Key: c.Key, Value: c.Value, Delete: c.Delete, Losing: losing, Winning: winning, StaleBase: c.Cause == "stale-base",
		})
	}
	return end, nil
}

var fateKinds = map[string]contract.FateKind{
	"pending": contract.Pending, "committed": contract.Committed, "superseded": contract.Superseded,
	"expired": contract.Expired, "lost": contract.Lost,
}

// version reads the text form, index-timestamp-node.
func version(s string) (contract.Version, error) {
	index, rest, _ := strings.Cut(s, "-")
	timestamp, node, _ := strings.Cut(rest, "-")
	i, err1 := strconv.ParseUint(index, 10, 64)
	t, err2 := strconv.ParseUint(timestamp, 10, 64)
	if err1 != nil || err2 != nil || node == "" {
		return contract.Version{}, fmt.Errorf("%q is no version", s)
	}
	return contract.Version{Index: i, Timestamp: t, Node: node}, nil
}

// byContract makes a check of one of package contract's.
func byContract(check func(*contract.History, Options) []contract.Violation, judged func(*history.Op) bool) func(*View) Judgement {
	return func(v *View) Judgement {
		var j Judgement
		for _, o := range v.Ops {
			if judged(o) {
				j.Seen++
			}
		}
		end, malformed := ending(v.History)
		if malformed != nil {
			return Judgement{Findings: []Finding{*malformed}}
		}
		t, malformed := translate(v.Ops, end)
		if malformed != nil {
			return Judgement{Findings: []Finding{*malformed}}
		}
		for _, found := range check(t.History, v.Options) {
			f := Finding{Key: found.Key, Why: found.Rule + ": " + found.Why, Undecided: found.Undecided}
			var ops []*history.Op
			for i := range found.Ops {
				ops = append(ops, t.from[identify(&found.Ops[i])])
			}
			f.Ops = show(ops...)
			j.Findings = append(j.Findings, f)
		}
		return j
	}
}

// mixing of package contract.
func mixing(h *contract.History, o Options) []contract.Violation {
	return contract.CheckMixing(h, o.Patience)
}

// unbounded makes a check of one that needs no patience.
func unbounded(check func(*contract.History) []contract.Violation) func(*contract.History, Options) []contract.Violation {
	return func(h *contract.History, _ Options) []contract.Violation { return check(h) }
}

// What operations can show.

func linearizable(o *history.Op) bool { return o.Level == history.Linearizable && answered(o) }

func answered(o *history.Op) bool { return o.Outcome == history.OK }

func answeredRead(o *history.Op) bool { return !o.Write() && answered(o) }
