package check

import (
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// read is a set or a counter as it was found; "" is nothing.
func (w of) read(value string, from, to int, more ...change) history.Op {
	return w.get(value, from, to, more...)
}

// add writes value, which has what is added, on condition of what stood there.
func (w of) add(what, value, expect string, from, to int, more ...change) history.Op {
	o := w.put(value, from, to, ifVersion(expect))
	if expect == "" {
		o.Condition = history.IfAbsent
	}
	o.Element = what
	for _, m := range more {
		m(&o)
	}
	return o
}

func final(o *history.Op) { o.Final = true }

func TestSetStories(t *testing.T) {
	s := of("set")
	a := s.add("a", "a", "", 0, 1)
	b := s.add("b", "a b", "a", 2, 3)
	tell(t, "set", []story{
		{name: "one after the other", h: told(a, s.read("a", 1, 2), b, s.read("a b", 4, 5))},
		{name: "an unanswered addition is there", h: told(a, s.add("b", "a b", "a", 2, 3, info), s.read("a b", 4, 5))},
		{name: "an unanswered addition is not there yet", h: told(a, s.add("b", "a b", "a", 2, 3, info), s.read("a", 4, 5), s.read("a b", 6, 7))},
		{name: "a refused one is not there", h: told(a, s.add("b", "a b", "a", 2, 3, mismatch), s.read("a", 4, 5))},
		{name: "a read that overlaps may miss it", h: told(a, s.add("b", "a b", "a", 2, 9), s.read("a", 4, 5), s.read("a b", 10, 11))},
		{name: "a read without an answer", h: told(a, b, s.read("", 4, 5, info), s.read("", 4, 5, failed), s.read("a b", 6, 7))},
		{name: "acknowledged, and lost", h: told(a, b, s.read("a", 4, 5), s.read("a", 6, 7, final)), checker: "lost", why: "b was there, and is lost"},
		{name: "all is lost", h: told(a, b, s.read("", 4, 5)), checker: "lost", why: "a was there"},
		{name: "read, and lost", h: told(a, s.add("b", "a b", "a", 2, 3, info), s.read("a b", 4, 5), s.read("a", 6, 7)), checker: "lost", why: "b was there, and is lost"},
		{name: "missing, and there again", h: told(a, b, s.read("a", 4, 5), s.read("a b", 6, 7)), checker: "stale", why: "b was there, and is missing later"},
		{name: "written on top of an old value", h: told(a, b, s.add("c", "a c", "a", 4, 5), s.read("a c", 6, 7)), checker: "forked", why: "neither"},
		{name: "two on top of one, at once", h: told(a, s.add("b", "a b", "a", 2, 9), s.add("c", "a c", "a", 2, 8)), checker: "forked", why: "neither"},
		{name: "twice", h: told(a, b, s.read("a b b", 4, 5)), checker: "duplicated", why: "b is there twice"},
		{name: "never added", h: told(a, s.read("a z", 4, 5)), checker: "phantom", why: "z was never added"},
		{name: "refused, and there", h: told(a, s.add("b", "a b", "a", 2, 3, mismatch), s.read("a b", 4, 5)), checker: "phantom", why: "b was refused"},
		{name: "before it was added", h: told(a, s.read("a b", 2, 3), s.add("b", "a b", "a", 4, 5)), checker: "phantom", why: "before"},
	})
}

func TestCounterStories(t *testing.T) {
	c := of("counter")
	three := c.add("+3", "3", "", 0, 1)
	five := c.add("+2", "5", "3", 2, 3)
	tell(t, "counter", []story{
		{name: "one after the other", h: told(three, c.read("3", 1, 2), five, c.read("5", 4, 5, final))},
		{name: "nobody added", h: told(c.read("", 0, 1, final))},
		{name: "of unknown outcome, done", h: told(three, c.add("+2", "5", "3", 2, 3, info), c.read("5", 4, 5, final))},
		{name: "of unknown outcome, not done", h: told(three, c.add("+2", "5", "3", 2, 3, info), c.read("3", 4, 5, final))},
		{name: "open, done", h: told(three, c.add("+2", "5", "3", 2, 0, open), c.read("5", 4, 5, final))},
		{name: "refused", h: told(three, c.add("+2", "5", "3", 2, 3, mismatch), c.read("3", 4, 5, final))},
		{name: "a read that overlaps", h: told(three, c.add("+2", "5", "3", 2, 9), c.read("3", 4, 5), c.read("5", 10, 11, final))},
		{name: "below what was acknowledged", h: told(three, five, c.read("3", 4, 5), c.read("5", 6, 7, final)), checker: "bounds", why: "it is 3, not between 5 and 5"},
		{name: "above what was tried", h: told(three, c.read("5", 4, 5), c.read("5", 6, 7, final)), checker: "bounds", why: "it is 5, not between 3 and 3"},
		{name: "refused, and added", h: told(three, c.add("+2", "5", "3", 2, 3, mismatch), c.read("5", 4, 5, final)), checker: "bounds", why: "not between 3 and 3"},
		{name: "added before it was asked for", h: told(three, c.read("5", 2, 3), c.add("+2", "5", "3", 4, 5), c.read("5", 6, 7, final)), checker: "bounds", why: "not between 3 and 3"},
		{name: "two on top of one", h: told(three, five, c.add("+4", "7", "3", 4, 5), c.read("7", 6, 7, final)), checker: "bounds", why: "it is 7, not between 9 and 9"},
		{name: "goes back", h: told(three, c.add("+2", "5", "3", 2, 3, info), c.read("5", 4, 5), c.read("3", 6, 7), c.read("5", 8, 9, final)), checker: "monotonic", why: "it was 5, and then it is 3"},
		{name: "lost in the end", h: told(three, five, c.read("3", 6, 7, final)), checker: "final", why: "in the end it is 3: 5 was acknowledged"},
		{name: "too much in the end", h: told(three, five, c.read("8", 6, 7, final)), checker: "final", why: "in the end it is 8"},
		{name: "no number", h: told(three, c.read("x", 6, 7, final)), checker: "bounds", why: "no number"},
	})
}

func TestACounterThatIsNotReadInTheEnd(t *testing.T) {
	c := of("counter")
	if r := Check(told(c.add("+3", "3", "", 0, 1), c.read("3", 2, 3)), Options{Least: 1}); r.Verdict != Void {
		t.Errorf("%s: %s", r.Verdict, r.Sentence)
	}
}

// Eventual operations.

func eventually(o *history.Op) {
	o.Level = history.Eventual
	if o.Write() {
		o.Receipt = "wr_" + o.Value
	}
}
func heard(base uint64) change   { return func(o *history.Op) { o.Base = base } }
func tentative(o *history.Op)    { o.Tentative = true }
func askedAt(node string) change { return func(o *history.Op) { o.Node, o.NodeID = node, node+"-a" } }
func bounded(most, said int) change {
	return func(o *history.Op) {
		o.Level, o.StalenessKnown = history.Bounded, true
		o.MaxStaleness, o.Staleness = time.Duration(most)*time.Second, time.Duration(said)*time.Second
	}
}

// fate says what became of the write of a value. Version: its own, or who won.
func fate(h *history.History, value, fate, version string) *history.History {
	for _, o := range h.Ops {
		if o.Write() && o.Value == value {
			h.Fates = append(h.Fates, history.Fate{Op: o.ID, Receipt: o.Receipt, Fate: fate, Version: version})
		}
	}
	return h
}

// doubtful: the node did not know whether it has taken the write, for a reason.
func doubtful(o history.Op, reason string) history.Op {
	o.Outcome, o.Reason, o.Version, o.Base = history.Info, reason, "", 0
	return o
}

func conflict(h *history.History, key, value, losing, winning, cause string) *history.History {
	h.Conflicts = append(h.Conflicts, history.Conflict{Key: key, Value: value, Losing: losing, Winning: winning, Cause: cause})
	return h
}

// withJoined: nodes became members while clients were at work.
func withJoined(h *history.History, ids ...string) *history.History {
	h.End.Joined = ids
	return h
}

func TestEventualStories(t *testing.T) {
	e := of("eventual")
	a := e.put("a", 0, 1, eventually, at("0-10-n1-a"))
	b := e.put("b", 2, 3, eventually, at("0-20-n2-a"), askedAt("n2"))
	// a was committed, and b.
	both := func(h *history.History) *history.History {
		return fate(fate(conflict(h, "eventual/0", "a", "0-10-n1-a", "6-20-n2-a", "older"), "a", "committed", "5-10-n1-a"), "b", "committed", "6-20-n2-a")
	}
	end := func(value, version string, more ...change) history.Op {
		return e.get(value, 50, 51, append([]change{at(version), final}, more...)...)
	}
	tell(t, "eventual", []story{
		{name: "both, and all agree", h: both(told(a, b, e.get("b", 4, 5, eventually, tentative, at("0-20-n2-a"), askedAt("n2")), end("b", "6-20-n2-a"), end("b", "6-20-n2-a", eventually, askedAt("n3"))))},
		{name: "superseded, and listed", h: conflict(fate(fate(told(a, b, end("b", "6-20-n2-a")), "a", "superseded", "6-20-n2-a"), "b", "committed", "6-20-n2-a"), "eventual/0", "a", "0-10-n1-a", "6-20-n2-a", "older")},
		{name: "the receipt names another winner", h: conflict(fate(fate(told(a, b, end("b", "6-20-n2-a")), "a", "superseded", "7-20-n2-a"), "b", "committed", "6-20-n2-a"), "eventual/0", "a", "0-10-n1-a", "6-20-n2-a", "older"), checker: "superseded", why: "the list says 6-20-n2-a"},
		{name: "nodes disagree", h: both(told(a, b, end("b", "6-20-n2-a"), end("a", "5-10-n1-a", eventually, askedAt("n3")))), checker: "converged", why: "n1 shows b"},
		{name: "a node has nothing", h: both(told(a, b, end("b", "6-20-n2-a"), end("", "", eventually, askedAt("n3")))), checker: "converged", why: "n3 shows nothing"},
		{name: "one value of two versions", h: both(told(a, b, end("b", "6-20-n2-a"), end("b", "7-20-n2-a", eventually, askedAt("n3")))), checker: "converged", why: "7-20"},
		{name: "still tentative", h: both(told(a, b, end("b", "6-20-n2-a"), end("b", "6-20-n2-a", eventually, tentative))), checker: "converged", why: "tentative"},
		{name: "superseded, and not listed", h: fate(fate(told(a, b, end("b", "6-20-n2-a")), "a", "superseded", "6-20-n2-a"), "b", "committed", "6-20-n2-a"), checker: "fates", why: "no list"},
		{name: "replaced unheard, and not listed", h: fate(fate(told(a, b, end("b", "6-20-n2-a")), "a", "committed", "5-10-n1-a"), "b", "committed", "6-20-n2-a"), checker: "fates", why: "no list"},
		{name: "nobody knows of it", h: fate(told(a, b, end("b", "6-20-n2-a")), "b", "committed", "6-20-n2-a"), checker: "fates", why: "nothing is known"},
		{name: "pending for ever", h: fate(fate(told(a, b, end("b", "6-20-n2-a")), "a", "pending", ""), "b", "committed", "6-20-n2-a"), checker: "fates", why: "pending"},
		{name: "pending, and nowhere on a disk", h: fate(fate(told(doubtful(a, "NO_REPLICA"), b, end("b", "6-20-n2-a")), "a", "pending", ""), "b", "committed", "6-20-n2-a")},
		{name: "pending, on too few disks", h: fate(fate(told(doubtful(a, "TOO_FEW_ACKS"), b, end("b", "6-20-n2-a")), "a", "pending", ""), "b", "committed", "6-20-n2-a"), checker: "fates", why: "pending"},
		{name: "a fate that is none", h: fate(told(a, end("a", "5-10-n1-a")), "a", "gone", ""), checker: "fates", why: `"gone" is no fate`},
		{name: "the older wins", h: fate(fate(conflict(told(a, b, end("a", "6-10-n1-a")), "eventual/0", "b", "5-20-n2-a", "6-10-n1-a", "older"), "a", "committed", "6-10-n1-a"), "b", "committed", "5-20-n2-a"), checker: "order", why: "higher"},
		{name: "never written", h: both(told(a, b, e.get("z", 4, 5, eventually), end("b", "6-20-n2-a"))), checker: "answers", why: "never written"},
		{name: "committed twice", h: both(told(a, b, e.get("b", 8, 9, at("6-20-n2-a")), end("b", "9-20-n2-a"))), checker: "answers", why: "committed twice"},
		{name: "a node forgets what it took", h: both(told(a, b, e.get("a", 4, 5, eventually, tentative, at("0-10-n1-a"), askedAt("n2")), end("b", "6-20-n2-a"))), checker: "own writes", why: "n2-a took b"},
	})
}

func TestFinalReadsThatNobodyAnswers(t *testing.T) {
	e := of("eventual")
	read := e.get("", 50, 51, final, failed, askedAt("n3"))
	a := e.put("a", 0, 1, eventually, at("0-10-n1-a"))
	seen := e.get("a", 2, 3, eventually, tentative, at("0-10-n1-a"))
	end := func(from int, more ...change) history.Op {
		return e.get("a", from, from+1, append(more, final, at("5-10-n1-a"))...)
	}
	of := func(ops ...history.Op) *history.History {
		return fate(told(append(ops, a, seen)...), "a", "committed", "5-10-n1-a")
	}
	h := of(read, end(52))
	if r := Check(h, Options{Least: 1}); r.Verdict != Void {
		t.Errorf("%s: %s", r.Verdict, r.Sentence)
	}
	if r := Check(of(read, end(52), end(54, askedAt("n3"))), Options{Least: 1}); r.Verdict != Holds {
		t.Errorf("answered when it is asked again: %s", r.Sentence)
	}
}

func TestMixedStories(t *testing.T) {
	m := of("mixed")
	a := m.put("a", 0, 1, at("4-10-n1-a"))
	// Taken where a had been heard of.
	b := m.put("b", 2, 3, eventually, heard(4), at("0-20-n2-a"), askedAt("n2"))
	// Taken where it had not.
	late := m.put("late", 2, 3, eventually, heard(3), at("0-30-n3-a"), askedAt("n3"))
	won := func(h *history.History) *history.History { return fate(h, "b", "committed", "5-20-n2-a") }
	lost := func(h *history.History) *history.History {
		return conflict(fate(h, "late", "superseded", "4-10-n1-a"), "mixed/0", "late", "0-30-n3-a", "4-10-n1-a", "stale-base")
	}
	end := func(value, version string, more ...change) history.Op {
		return m.get(value, 50, 51, append([]change{at(version), final}, more...)...)
	}
	tell(t, "mixed", []story{
		{name: "an eventual write replaces what it had heard of", h: won(told(a, b, m.get("b", 8, 9, at("5-20-n2-a")), end("b", "5-20-n2-a")))},
		{name: "one that had not loses", h: lost(told(a, late, m.get("a", 8, 9, at("4-10-n1-a")), end("a", "4-10-n1-a")))},
		{name: "one that had heard of it loses", h: conflict(fate(told(a, b, end("a", "4-10-n1-a")), "b", "superseded", "4-10-n1-a"), "mixed/0", "b", "0-20-n2-a", "4-10-n1-a", "stale-base"), checker: "superseded", why: "its base is 4"},
		{name: "below the floor, and nobody left", h: conflict(fate(told(late, end("", "")), "late", "superseded", ""), "mixed/0", "late", "0-30-n3-a", "", "stale-base"), checker: "superseded", why: "was a member"},
		{name: "below the floor, and it joined late", h: withJoined(conflict(fate(told(late, end("", "")), "late", "superseded", ""), "mixed/0", "late", "0-30-n3-a", "", "stale-base"), "n3-a")},
		{name: "one that had not wins", h: fate(told(a, late, m.get("late", 8, 9, at("5-30-n3-a")), end("late", "5-30-n3-a")), "late", "committed", "5-30-n3-a"), checker: "precedence", why: "had heard of 3 only"},
		{name: "one that had been taken before wins", h: fate(told(m.put("b", 0, 1, eventually, heard(9), at("0-20-n2-a")), m.put("a", 2, 3, at("4-10-n1-a")), m.get("b", 8, 9), end("b", "5-20-n2-a")), "b", "committed", "5-20-n2-a"), checker: "precedence", why: "began later"},
		{name: "it comes and goes", h: won(told(a, b, m.get("b", 8, 9), m.get("a", 10, 11), end("b", "5-20-n2-a"))), checker: "mixing", why: "no order"},
		{name: "goes back", h: told(a, m.put("c", 2, 3, at("5-20-n1-a")), m.get("a", 4, 5), end("c", "5-20-n1-a")), checker: "mixing", why: "no order"},
		{name: "a stale bounded read, as it may be", h: told(a, m.put("c", 10, 11, at("5-20-n1-a")), m.get("a", 13, 14, bounded(5, 4), at("4-10-n1-a")), end("c", "5-20-n1-a"))},
		{name: "staler than it may be", h: told(a, m.put("c", 10, 11, at("5-20-n1-a")), m.get("a", 20, 21, bounded(5, 4), at("4-10-n1-a")), end("c", "5-20-n1-a")), checker: "versions", why: "older than 5"},
		{name: "staler than it says", h: told(a, m.put("c", 10, 11, at("5-20-n1-a")), m.get("a", 13, 14, bounded(5, 0), at("4-10-n1-a")), end("c", "5-20-n1-a")), checker: "versions", why: "older than 5"},
		{name: "tentative, and said to be linearizable", h: won(told(a, b, m.get("b", 8, 9, tentative, at("0-20-n2-a")), end("b", "5-20-n2-a"))), checker: "answers", why: "is tentative"},
		{name: "a node forgets what it took", h: won(told(a, b, m.get("", 4, 5, eventually, askedAt("n2")), end("b", "5-20-n2-a"))), checker: "own writes", why: "n2-a took b"},
		{name: "superseded, and not listed", h: fate(told(a, late, end("a", "4-10-n1-a")), "late", "superseded", "4-10-n1-a"), checker: "fates", why: "no list"},
		{name: "nodes disagree", h: won(told(a, b, end("b", "5-20-n2-a"), end("a", "4-10-n1-a", eventually, askedAt("n3")))), checker: "converged", why: "n3 shows a"},
	})
}

func TestFatesAreCounted(t *testing.T) {
	e := of("eventual")
	h := told(e.put("a", 0, 1, eventually), e.put("b", 2, 3, eventually), e.put("c", 4, 5, eventually), e.put("d", 6, 7, eventually, failed, func(o *history.Op) { o.Receipt = "" }))
	fate(fate(fate(h, "a", "committed", "5-1-n1-a"), "b", "superseded", "5-1-n1-a"), "c", "superseded", "")
	conflict(h, "eventual/0", "b", "0-1-n1-a", "5-1-n1-a", "older")
	conflict(h, "other", "b", "0-1-n1-a", "5-1-n1-a", "older")
	got := Check(h, Options{}).Stats.Fates
	if len(got) != 1 || got[0] != (Fates{Workload: "eventual", Writes: 3, Committed: 1, Superseded: 2, Conflicts: 1}) {
		t.Errorf("%+v", got)
	}
	if p := got[0].SupersededPercent(); p < 66 || p > 67 {
		t.Errorf("%v %%", p)
	}
}
