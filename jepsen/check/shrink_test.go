package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// drawGood plays operations that overlap on the keys of one tag: each takes effect at
// one moment between its beginning and its end, so the history is linearizable.
func drawGood(t *rapid.T, workload string, keys []string, most int) []history.Op {
	type running struct {
		history.Op
		moment, end int
	}
	var all []running
	for i := range rapid.IntRange(1, most).Draw(t, "operations") {
		from := rapid.IntRange(0, most).Draw(t, "from")
		o := operation(workload, history.Linearizable, history.Get, rapid.SampledFrom(keys).Draw(t, "key"), "", from, from)
		o.Process = i
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0, 1, 2:
			o.Func, o.Value = history.Put, fmt.Sprint("v", i)
			o.Condition = rapid.SampledFrom([]history.Condition{history.Always, history.IfAbsent, history.IfPresent, history.IfVersion}).Draw(t, "if")
			if o.Condition == history.IfVersion {
				o.Expect = fmt.Sprint("v", rapid.IntRange(0, most).Draw(t, "expect"))
			}
		case 3:
			o.Func = history.Delete
		case 4, 5:
			if workload == "scan" {
				o.Func, o.Key = history.Scan, tagged
			}
		}
		if workload == "scan" {
			o.Condition, o.Expect = history.Always, "" // its model knows none
		}
		moment := from*10 + rapid.IntRange(0, 30).Draw(t, "moment")
		all = append(all, running{o, moment, moment + rapid.IntRange(0, 30).Draw(t, "end")})
	}
	slices.SortStableFunc(all, func(a, b running) int { return a.moment - b.moment })
	state := map[string]string{}
	var ops []history.Op
	for _, r := range all {
		o := r.Op
		value, there := state[o.Key]
		o.Return = time.Duration(r.end) * time.Second / 10
		lost := rapid.IntRange(0, 9).Draw(t, "lost") == 0
		switch o.Func {
		case history.Get:
			o.Value, o.Found = value, there
		case history.Scan:
			o.Value = ""
			for _, key := range keys {
				if value, there := state[key]; there {
					o.Entries = append(o.Entries, history.Entry{Key: key, Value: value})
				}
			}
		default:
			holds := o.Condition == history.Always || o.Condition == history.IfAbsent && !there || o.Condition == history.IfPresent && there ||
				o.Condition == history.IfVersion && there && value == o.Expect
			switch {
			case !holds:
				o.Outcome, o.Mismatch = history.Fail, true
			case o.Func == history.Put:
				state[o.Key] = o.Value
			default:
				delete(state, o.Key)
			}
		}
		if lost {
			o.Outcome, o.Mismatch = history.Info, false
			if !o.Write() {
				o.Value, o.Found, o.Entries = "", false, nil
			}
		}
		ops = append(ops, o)
	}
	return told(ops...).Ops
}

func pointers(ops []history.Op) (all []*history.Op) {
	for i := range ops {
		all = append(all, &ops[i])
	}
	return all
}

// judges are the checkers whose findings are shrunk, with a workload that they judge.
var judges = []struct {
	workload string
	keys     []string
	check    func(*View) Judgement
}{
	{"register", []string{"register/0"}, byContract(mixing, linearizable)},
	{"scan", []string{tagged + "a", tagged + "b", tagged + "c"}, checkMoments},
}

// Whatever is left out of a good history, it stays good: so a part of a bad one
// that is bad shows what was wrong, and nothing that leaving out made wrong.
func TestAPartOfAGoodHistoryIsGood(t *testing.T) {
	for _, judge := range judges {
		t.Run(judge.workload, rapid.MakeCheck(func(t *rapid.T) {
			ops := pointers(drawGood(t, judge.workload, judge.keys, 14))
			fails := func(ops []*history.Op) bool {
				return len(judge.check(&View{History: told(), Ops: ops, Options: Options{Patience: 10 * time.Second}, Stats: &Stats{}}).Findings) > 0
			}
			if fails(ops) {
				t.Fatalf("good, and fails: %v", ops)
			}
			for len(ops) > 0 {
				at := rapid.IntRange(0, len(ops)-1).Draw(t, "leave out")
				rest := without(ops, ops[at:at+1])
				if fails(rest) {
					t.Fatalf("without\n %v\nthere are left\n%s", ops[at], lines(rest))
				}
				ops = rest
			}
		}))
	}
}

// One answer is made wrong. If that can be seen at all, then in a few operations, each
// of which is needed, with the writes of all that is read.
func TestAShrunkHistoryIsBadByItself(t *testing.T) {
	for _, judge := range judges {
		t.Run(judge.workload, rapid.MakeCheck(func(t *rapid.T) {
			ops := drawGood(t, judge.workload, judge.keys, 25)
			bent := rapid.IntRange(0, len(ops)-1).Draw(t, "bent")
			if o := &ops[bent]; o.Func == history.Get && o.Outcome == history.OK {
				o.Value, o.Found = fmt.Sprint("v", rapid.IntRange(0, 25).Draw(t, "value")), true
			} else if o.Mismatch {
				o.Outcome, o.Mismatch = history.OK, false
			} else if len(o.Entries) > 0 {
				o.Entries = o.Entries[1:]
			}
			fails := func(ops []*history.Op) bool {
				return len(judge.check(&View{History: told(), Ops: ops, Options: Options{Patience: 10 * time.Second}, Stats: &Stats{}}).Findings) > 0
			}
			if !fails(pointers(ops)) {
				return
			}
			short := shrink(pointers(ops), fails)
			if !fails(short) {
				t.Fatalf("it does not fail:\n%s", lines(short))
			}
			for i := range short {
				if rest := without(short, short[i:i+1]); fails(rest) {
					t.Fatalf("%v can be spared of\n%s", short[i], lines(short))
				}
			}
			for _, o := range short {
				if o.Func == history.Get && o.Found && slices.ContainsFunc(ops, func(w history.Op) bool {
					return w.Func == history.Put && w.Key == o.Key && w.Value == o.Value && w.Outcome != history.Fail
				}) &&
					!slices.ContainsFunc(short, func(w *history.Op) bool { return w.Func == history.Put && w.Value == o.Value }) {
					t.Fatalf("what %v read is written nowhere in\n%s", o, lines(short))
				}
			}
		}))
	}
}

func lines(ops []*history.Op) string {
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

// A stale read among a hundred other operations: two writes and that read are left.
func TestTheStoryOfAStaleReadIsThreeOperations(t *testing.T) {
	r := of("register")
	var ops []history.Op
	for i := range 100 {
		ops = append(ops, r.put(fmt.Sprint("v", i), 4*i, 4*i+1), r.get(fmt.Sprint("v", i), 4*i+2, 4*i+3))
	}
	ops[131] = r.get("v64", 262, 263)
	res := Check(told(ops...), Options{Least: 1})
	i := slices.IndexFunc(res.Findings, func(f Finding) bool { return f.Checker == "linearizable" })
	if i < 0 {
		t.Fatal("not found")
	}
	f := res.Findings[i]
	if len(f.Ops) != 3 || f.Ops[0].Value != "v64" || f.Ops[1].Func != history.Put || f.Ops[2].Value != "v64" || f.Ops[2].Invoke != 262*time.Second {
		t.Errorf("%v", f)
	}
}

func TestShrinkingIsBounded(t *testing.T) {
	r := of("register")
	var ops []history.Op
	for i := range 3_000 {
		ops = append(ops, r.get("", 2*i, 2*i+1))
	}
	tries := 0
	shrink(pointers(ops), func([]*history.Op) bool { tries++; return false })
	if tries > maxShrinkTries {
		t.Errorf("%d tries", tries)
	}
	if one := shrink(pointers(ops), func(ops []*history.Op) bool { return len(ops) > 0 }); len(one) != 1 {
		t.Errorf("%d operations left where one is enough", len(one))
	}
}
