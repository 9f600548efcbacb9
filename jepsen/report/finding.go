package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

const (
	// mostFindings that a page tells: the first few say what is wrong, and the
	// result beside it has them all.
	mostFindings = 20
	// mostOpen are not folded away.
	mostOpen = 3
	// mostShown operations of one of them.
	mostShown = 100
)

// finding is one way in which a promise was broken, and the operations that
// show it.
type finding struct {
	Head      string
	Key       string
	Why       string
	Undecided bool
	Open      bool // not folded away
	Ops       []shown
	Alone     bool // one operation: there is no order to draw
	More      int
}

// shown is one operation of a finding, and where it stands among the others'
// beginnings and ends: these are drawn at equal distances, since their order
// is what matters, and lie milliseconds or minutes apart.
type shown struct {
	Class       string // of its end
	Write       bool
	Open        bool // it may take effect at any time after it began
	Left, Width float64
	Who, When   string
	Level       string
	What, End   string
	Rest        string // version, base, session, ...
}

func findings(r *check.Result) (told []finding, more int) {
	for i, f := range r.Findings {
		if i == mostFindings {
			break
		}
		t := finding{
			Head: strings.Join(slices.DeleteFunc([]string{f.Workload, f.Checker}, func(s string) bool { return s == "" }), ": "),
			Key:  f.Key, Why: f.Why, Undecided: f.Undecided, Open: i < mostOpen,
		}
		ops := f.Ops
		if len(ops) > mostShown {
			ops, t.More = ops[:mostShown], len(ops)-mostShown
		}
		t.Ops, t.Alone = drawn(ops), len(ops) == 1
		told = append(told, t)
	}
	return told, max(len(r.Findings), r.Found()) - len(told)
}

func drawn(ops []check.Shown) (list []shown) {
	var moments []time.Duration
	for _, o := range ops {
		moments = append(moments, o.Invoke)
		if !open(o) {
			moments = append(moments, o.Return)
		}
	}
	slices.Sort(moments)
	moments = slices.Compact(moments)
	at := func(t time.Duration) float64 {
		i, _ := slices.BinarySearch(moments, t)
		return float64(i) / float64(max(len(moments), 2)) * width // the last moment leaves room for what is open
	}
	for _, o := range ops {
		left, right := at(o.Invoke), width
		until := "?"
		if !open(o) {
			right = at(o.Return)
		}
		if o.Outcome != "" {
			until = fmt.Sprintf("%.4f", o.Return.Seconds())
		}
		s := shown{
			Class: classOf(&o.Op).String(), Write: o.Write(), Open: open(o),
			Left: percent(left), Width: max(percent(right-left), 0.5),
			Who: fmt.Sprintf("process %d", o.Process), Level: string(o.Level),
			When: fmt.Sprintf("%.4f – %s s", o.Invoke.Seconds(), until),
		}
		if o.Node != "" {
			s.Who += " at " + o.Node
		}
		s.What, s.End, s.Rest = what(&o.Op), ending(&o.Op), rest(&o.Op)
		list = append(list, s)
	}
	return list
}

// open: nobody knows when it took effect, if it did.
func open(o check.Shown) bool {
	return o.Outcome == "" || o.Outcome == history.Info
}

// what the operation asked.
func what(o *history.Op) string {
	s := fmt.Sprintf("%s %s", o.Func, o.Key)
	if o.Func == history.Put {
		s += " = " + o.Value
	}
	switch o.Condition {
	case history.Always:
	case history.IfVersion:
		s += " if it is " + cmp.Or(o.Expect, o.ExpectVersion)
	default:
		s += " if " + string(o.Condition)
	}
	return s
}

// ending is what was answered.
func ending(o *history.Op) string {
	switch {
	case o.Outcome == "":
		return "no answer"
	case o.Mismatch:
		return "condition failed"
	case o.Outcome != history.OK:
		why := cmp.Or(o.Reason, o.Code, o.Error)
		word := map[history.Outcome]string{history.Fail: "refused", history.Info: "outcome unknown"}[o.Outcome]
		if why != "" {
			word += ": " + why
		}
		return word
	case o.Func == history.Get && o.Found:
		return o.Value
	case o.Func == history.Get:
		return "nothing"
	case o.Func == history.Scan:
		var entries []string
		for _, e := range o.Entries {
			entries = append(entries, e.Key+"="+e.Value)
		}
		return cmp.Or(strings.Join(entries, " "), "no keys")
	}
	return "ok"
}

// rest is what else a checker may have gone by.
func rest(o *history.Op) string {
	var parts []string
	if o.Version != "" {
		parts = append(parts, "version "+o.Version)
	}
	if o.Tentative {
		parts = append(parts, "tentative")
	}
	if o.Write() && o.Level == history.Eventual && o.Outcome == history.OK {
		parts = append(parts, fmt.Sprintf("base %d", o.Base))
	}
	if o.Level == history.Bounded {
		parts = append(parts, fmt.Sprintf("bound %s", span(o.MaxStaleness)))
	}
	if o.StalenessKnown && o.Level != history.Linearizable {
		parts = append(parts, "staleness "+span(o.Staleness))
	}
	if o.Session != "" {
		parts = append(parts, "session "+o.Session)
	}
	if o.ServedBy != "" && o.ServedBy != o.Node {
		parts = append(parts, "by "+o.ServedBy)
	}
	if o.Final {
		parts = append(parts, "after all was healed")
	}
	if o.Error != "" && !o.Mismatch && cmp.Or(o.Reason, o.Code) != "" {
		parts = append(parts, o.Error)
	}
	return strings.Join(parts, ", ")
}
