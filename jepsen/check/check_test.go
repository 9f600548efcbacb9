package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// Histories are written as one would tell them: times are in seconds.

type change = func(*history.Op)

func operation(workload string, level history.Level, f history.Func, key, value string, from, to int, more ...change) history.Op {
	o := history.Op{
		Process: from*1000 + to, Workload: workload, Level: level, Func: f, Key: key, Value: value, Node: "n1", NodeID: "n1-a",
		Invoke: time.Duration(from) * time.Second, Return: time.Duration(to) * time.Second, Outcome: history.OK,
	}
	o.Found = f == history.Get && value != ""
	for _, m := range more {
		m(&o)
	}
	return o
}

// of makes the linearizable operations of a workload on its key 0.
type of string

func (w of) get(value string, from, to int, more ...change) history.Op {
	return operation(string(w), history.Linearizable, history.Get, string(w)+"/0", value, from, to, more...)
}

func (w of) put(value string, from, to int, more ...change) history.Op {
	return operation(string(w), history.Linearizable, history.Put, string(w)+"/0", value, from, to, more...)
}

func failed(o *history.Op)   { o.Outcome = history.Fail }
func info(o *history.Op)     { o.Outcome = history.Info }
func open(o *history.Op)     { o.Outcome = "" }
func mismatch(o *history.Op) { o.Outcome, o.Mismatch = history.Fail, true }
func at(version string) change {
	return func(o *history.Op) { o.Version = version }
}
func ifVersion(expect string) change {
	return func(o *history.Op) { o.Condition, o.Expect = history.IfVersion, expect }
}

// told makes a history of the operations, that ended well.
func told(ops ...history.Op) *history.History {
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b history.Op) int { return int(a.Invoke - b.Invoke) })
	h := &history.History{Run: history.Run{Format: history.Format, Nodes: []string{"n1", "n2", "n3"}}, End: &history.End{Settled: true, Asked: true}}
	for i := range ops {
		ops[i].ID = i
		h.Length = max(h.Length, ops[i].Return)
	}
	h.Ops = ops
	return h
}

// story is a history, and what is wrong with it.
type story struct {
	name string
	h    *history.History
	// checker that finds it, and part of what it says; empty: it is good.
	checker, why string
}

// tell holds the checkers of a workload against stories.
func tell(t *testing.T, workload string, stories []story) {
	t.Helper()
	claimed := map[string]bool{}
	for _, s := range stories {
		claimed[s.checker] = true
		t.Run(s.name, func(t *testing.T) {
			r := Check(s.h, Options{Least: 1})
			if s.checker == "" {
				if len(r.Findings) > 0 {
					t.Errorf("good, and found: %v", r.Findings)
				}
				return
			}
			if r.Verdict != Violated {
				t.Fatalf("verdict %q, not found: %s", r.Verdict, s.why)
			}
			if !slices.ContainsFunc(r.Findings, func(f Finding) bool {
				return f.Workload == workload && f.Checker == s.checker && strings.Contains(f.Why, s.why) && len(f.Ops) > 0
			}) {
				t.Errorf("%s does not find %q, but %v", s.checker, s.why, r.Findings)
			}
		})
	}
	if !claimed[""] {
		t.Error("no good story")
	}
	for _, c := range Checkers(workload) {
		if !claimed[c.Name] {
			t.Errorf("no story shows what %s finds", c.Name)
		}
	}
}

func TestRegisterStories(t *testing.T) {
	r := of("register")
	tell(t, "register", []story{
		{name: "one after the other", h: told(r.put("a", 0, 1), r.get("a", 2, 3), r.put("b", 4, 5, ifVersion("a")), r.get("b", 6, 7), r.put("c", 8, 9, ifVersion("a"), mismatch))},
		{name: "an unanswered write is seen", h: told(r.put("a", 0, 1), r.put("b", 2, 3, info), r.get("a", 4, 5), r.get("b", 6, 7))},
		{name: "an open write is seen", h: told(r.put("a", 0, 1), r.put("b", 2, 0, open), r.get("b", 6, 7))},
		{name: "a read without an answer", h: told(r.put("a", 0, 1), r.get("", 2, 3, info), r.get("", 2, 3, failed), r.get("a", 4, 5))},
		{name: "stale", h: told(r.put("a", 0, 1), r.put("b", 2, 3), r.get("a", 4, 5)), checker: "linearizable", why: "no order"},
		{name: "lost", h: told(r.put("a", 0, 1), r.get("", 4, 5)), checker: "linearizable", why: "no order"},
		{name: "goes back", h: told(r.put("a", 0, 1), r.put("b", 2, 9), r.get("b", 3, 4), r.get("a", 5, 6)), checker: "linearizable", why: "no order"},
		{name: "a condition that did not hold", h: told(r.put("a", 0, 1), r.put("b", 2, 3), r.put("c", 4, 5, ifVersion("a"))), checker: "linearizable", why: "no order"},
		{name: "a condition that held", h: told(r.put("a", 0, 1), r.put("c", 4, 5, ifVersion("a"), mismatch)), checker: "linearizable", why: "no order"},
		{name: "never written", h: told(r.put("a", 0, 1), r.get("z", 2, 3)), checker: "answers", why: "never written"},
		{name: "refused, and done", h: told(r.put("a", 0, 1), r.put("b", 2, 3, ifVersion("a"), mismatch), r.get("b", 4, 5)), checker: "answers", why: "was refused"},
		{name: "committed twice", h: told(r.put("a", 0, 1, at("4-1-n1-a")), r.get("a", 2, 3, at("5-1-n1-a"))), checker: "answers", why: "twice"},
		{name: "no version", h: told(r.put("a", 0, 1, at("4")), r.get("a", 2, 3)), checker: "answers", why: "no version"},
		{name: "an old version", h: told(r.put("a", 0, 1, at("4-1-n1-a")), r.put("b", 2, 3, at("5-2-n1-a")), r.get("a", 4, 5, at("4-1-n1-a"))), checker: "versions", why: "older than 5"},
	})
}

func good() *history.History {
	r := of("register")
	h := told(r.put("a", 0, 1), r.get("a", 2, 3))
	h.Run.Nemeses = []string{"pause"}
	h.Run.Schedule = []json.RawMessage{json.RawMessage(`{"kind":"pause"}`)}
	h.Faults = []history.Band{{Fault: history.Fault{Kind: "pause", What: "pause n1", Felt: true}, From: time.Second / 2, Until: 5 * time.Second / 2, Healed: true}}
	return h
}

func TestVoid(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(*history.History)
		why  string // empty: it is not void
	}{
		{"good", func(*history.History) {}, ""},
		{"no nemesis", func(h *history.History) { h.Run.Nemeses, h.Run.Schedule, h.Faults = []string{"none"}, nil, nil }, ""},
		{"broke off", func(h *history.History) { h.End = nil }, "broke off"},
		{"interrupted", func(h *history.History) { h.End.Failed = "interrupted" }, "interrupted"},
		{"nothing planned", func(h *history.History) { h.Run.Schedule, h.Faults = nil, nil }, "no fault was planned"},
		{"never came", func(h *history.History) { h.Faults = nil }, "pause was planned and never came"},
		{"another came", func(h *history.History) { h.Faults[0].Kind = "kill" }, "pause was planned and never came"},
		{"no effect", func(h *history.History) { h.Faults[0].Felt = false }, "pause had no effect"},
		{"one of two has an effect", func(h *history.History) {
			h.Faults = append(h.Faults, h.Faults[0])
			h.Faults[1].Number, h.Faults[1].Felt = 1, false
		}, ""},
		{"nobody asked", func(h *history.History) { h.Faults[0].From, h.Faults[0].Until = time.Hour, 2*time.Hour }, "no client asked"},
		{"too few", func(h *history.History) { h.Ops[1].Outcome = history.Info; h.Ops[0].Outcome = history.Fail }, "0 of 2 operations succeeded"},
		{"only what comes in the end succeeded", func(h *history.History) { h.Ops[0].Final, h.Ops[1].Final = true, true }, "0 of 0 operations succeeded"},
		{"no write succeeded", func(h *history.History) {
			h.Ops[0].Outcome = history.Fail
			h.Ops[1].Found, h.Ops[1].Value = false, ""
		}, "none of 1 writes succeeded"},
		{"no read succeeded", func(h *history.History) { h.Ops[1].Outcome = history.Info }, "none of 1 reads succeeded"},
		{"a checker had nothing to judge", func(h *history.History) { h.Ops[1] = of("register").put("b", 2, 3) }, "answers had nothing to judge"},
		{"one that was asked for was not planned", func(h *history.History) { h.Run.Nemeses = append(h.Run.Nemeses, "kill-one") }, "kill-one was asked for, and not planned"},
		{"one of a group was not planned", func(h *history.History) { h.Run.Nemeses = append(h.Run.Nemeses, "kills") }, ""},
		{"a workload did nothing", func(h *history.History) { h.Run.Workloads = []string{"set"} }, "set: 0 of 0"},
		{"nobody judges", func(h *history.History) { h.Ops[1].Workload = "other" }, "other: nothing judges"},
		{"fates not asked", func(h *history.History) { h.Ops[0].Receipt = "wr_"; h.End.Asked = false }, "fates"},
		{"not settled", func(h *history.History) { h.Ops[0].Receipt = "wr_"; h.End.Settled = false }, "tentative"},
		{"what became of it is forgotten", func(h *history.History) {
			h.Ops[0].Receipt, h.Fates = "wr_", []history.Fate{{Receipt: "wr_", Fate: "expired"}}
		}, "forgotten what became of 1 of 1"},
		{"of a few it may be", func(h *history.History) {
			h.Ops[0].Receipt, h.Fates = "wr_", append(slices.Repeat([]history.Fate{{Receipt: "wr_", Fate: "committed", Version: "4-1-n1-a"}}, 20), history.Fate{Receipt: "wr_2", Fate: "expired"})
		}, ""},
		{"lists of conflicts were full", func(h *history.History) {
			h.Ops[0].Receipt, h.Fates, h.End.ConflictsDropped = "wr_", []history.Fate{{Receipt: "wr_", Fate: "superseded"}}, true
		}, "lists of conflicts were full: whether the 1 writes"},
		{"lists were full, of what nobody here wrote", func(h *history.History) {
			h.Ops[0].Receipt, h.Fates, h.End.ConflictsDropped = "wr_", []history.Fate{{Receipt: "wr_", Fate: "committed", Version: "4-1-n1-a"}}, true
		}, ""},
		{"nothing eventual to ask for", func(h *history.History) { h.End.Asked, h.End.Settled = false, false }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := good()
			c.bend(h)
			r := Check(h, Options{Least: 1})
			if c.why == "" {
				if r.Verdict != Holds || len(r.Void) > 0 {
					t.Errorf("%s %v", r.Verdict, r.Void)
				}
				return
			}
			if r.Verdict != Void || !strings.Contains(r.Sentence, c.why) || r.Verdict.Exit() != 2 {
				t.Errorf("%s: %s, want %q", r.Verdict, r.Sentence, c.why)
			}
		})
	}
}

func TestAViolationOutranksAVoidRun(t *testing.T) {
	h := good()
	h.End = nil
	h.Ops[1].Value = "z"
	r := Check(h, Options{Least: 1})
	if r.Verdict != Violated || len(r.Void) != 1 || r.Verdict.Exit() != 1 || !strings.Contains(r.Sentence, "register: ") {
		t.Errorf("%s %q void %v", r.Verdict, r.Sentence, r.Void)
	}
}

func TestUndecidedIsNotGood(t *testing.T) {
	r := of("register")
	var ops []history.Op
	for i := range 60 { // writes in any order, then a read of none of them: hard to exclude
		ops = append(ops, r.put(fmt.Sprint("v", i), 0, 100+i), r.get(fmt.Sprint("v", i), 0, 100+i))
	}
	ops = append(ops, r.get("", 300, 301))
	res := Check(told(ops...), Options{Least: 1, Patience: time.Millisecond})
	if res.Verdict != Void || !strings.Contains(res.Sentence, "not decided") {
		t.Errorf("%s: %s", res.Verdict, res.Sentence)
	}
}

func TestAResultIsTheSameBytes(t *testing.T) {
	h := good()
	h.Ops[1].Value = "z"
	first, _ := json.Marshal(Check(h, Options{Least: 1}))
	for range 5 {
		if again, _ := json.Marshal(Check(h, Options{Least: 1})); string(again) != string(first) {
			t.Fatalf("%s\n%s", first, again)
		}
	}
	if !strings.Contains(string(first), `"verdict":"violated"`) || !strings.Contains(string(first), `"invoke":2000000000`) {
		t.Errorf("%s", first)
	}
}

// Of many findings the first ones are shown, as the history has them.
func TestFindingsAreInTheOrderOfTime(t *testing.T) {
	var ops []history.Op
	for i := range 2 * maxFindings {
		key := func(o *history.Op) { o.Key = fmt.Sprint("register/", i) }
		ops = append(ops, of("register").get("z", 1000-i, 1001-i, key))
	}
	r := Check(told(ops...), Options{Least: 1})
	var at []time.Duration
	for _, f := range r.Findings {
		if f.Checker == "answers" {
			at = append(at, f.Ops[0].Invoke)
		}
	}
	if len(at) != maxFindings || !slices.IsSorted(at) || at[0] != 981*time.Second {
		t.Errorf("%v", at)
	}
	if n := r.Workloads[0].Checkers[1]; n.Found != 2*maxFindings || n.OK {
		t.Errorf("%+v", n)
	}
	if want := fmt.Sprintf("and %d more", 2*2*maxFindings-1); !strings.Contains(r.Sentence, want) {
		t.Errorf("%q, want %q", r.Sentence, want)
	}
}
