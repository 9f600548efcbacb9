package check

import (
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// within makes a read a bounded one, that says how old it is, both in seconds.
func within(most, says int) change {
	return func(o *history.Op) {
		o.Level, o.MaxStaleness, o.Staleness, o.StalenessKnown = history.Bounded, time.Duration(most)*time.Second, time.Duration(says)*time.Second, true
	}
}

func TestStalenessStories(t *testing.T) {
	s := of("staleness")
	a, b := s.put("a", 0, 1, at("4-1-n1-a")), s.put("b", 2, 3, at("5-2-n1-a"))
	tell(t, "staleness", []story{
		{name: "eventual reads may be old", h: told(a, b, s.get("a", 14, 15, at("4-1-n1-a"), eventual), s.get("", 14, 15, eventual, node("n2")))},
		{name: "within the bound", h: told(a, b, s.get("a", 7, 8, at("4-1-n1-a"), within(5, 5)))},
		{name: "a write without an answer replaced nothing", h: told(a, s.put("b", 2, 3, info), s.get("a", 14, 15, at("4-1-n1-a"), within(5, 1)))},
		{name: "refused", h: told(a, b, s.get("", 14, 15, within(5, 0), failed))},
		{name: "beyond the bound", h: told(a, b, s.get("a", 9, 10, at("4-1-n1-a"), within(5, 5))), checker: "age", why: "showed what had been replaced for 6s"},
		{name: "nothing, beyond the bound", h: told(a, s.get("", 9, 10, within(5, 5))), checker: "age", why: "for 8s"},
		{name: "older than it says", h: told(a, b, s.get("a", 7, 8, at("4-1-n1-a"), within(5, 1))), checker: "bound", why: "older than 5"},
		{name: "says that it is beyond the bound", h: told(a, b, s.get("b", 7, 8, at("5-2-n1-a"), within(5, 6))), checker: "bound", why: "6s old, and may be 5s old"},
		{name: "a linearizable one is old", h: told(a, b, s.get("a", 4, 5, at("4-1-n1-a"))), checker: "bound", why: "older than 5"},
		{name: "never written", h: told(a, s.get("z", 2, 3, eventual)), checker: "answers", why: "never written"},
	})
}

func TestStalenessIsMeasured(t *testing.T) {
	s := of("staleness")
	r := Check(told(
		s.put("a", 0, 1), s.put("b", 2, 3), s.put("c", 4, 5, info), s.put("d", 6, 7),
		s.get("a", 4, 5, eventual),                   // 1 s
		s.get("b", 9, 10, eventual),                  // 2 s: d, as c may never have been
		s.get("", 11, 12, eventual, node("n2")),      // 10 s
		s.get("d", 13, 14, eventual, node("n2")),     // fresh, 7 s after it was written
		s.get("d", 15, 16, within(5, 0), node("n2")), // fresh
		s.get("d", 8, 9),                             // linearizable: not a matter of age
	), Options{Least: 1})
	if len(r.Findings) > 0 || r.Stats.Staleness == nil {
		t.Fatalf("%v", r.Findings)
	}
	n1, n2, n3 := r.Stats.Staleness.Nodes[0], r.Stats.Staleness.Nodes[1], r.Stats.Staleness.Nodes[2]
	if a := n1.Eventual; a.Count != 2 || a.Stale != 2 || a.P50 != time.Second || a.Max != 2*time.Second {
		t.Errorf("n1: %+v", a)
	}
	if a := n2.Eventual; a.Count != 2 || a.Stale != 1 || a.P50 != 0 || a.P99 != 10*time.Second || a.Histogram[0] != 1 || a.Histogram[13] != 1 {
		t.Errorf("n2: %+v", a)
	}
	if n2.Bounded.Count != 1 || n2.Shown.Count != 1 || n2.Shown.Max != 7*time.Second {
		t.Errorf("n2: %+v", n2)
	}
	if n3.Eventual.Count != 0 || n3.Eventual.Max != 0 {
		t.Errorf("n3: %+v", n3)
	}
	for _, w := range r.Workloads[0].Checkers {
		if w.Name == "age" && !strings.Contains(w.Detail, "3 of 4 were stale") {
			t.Error(w.Detail)
		}
	}
}
