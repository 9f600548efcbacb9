package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Histories are written as one would tell them; times are in seconds.

func op(level Level, kind Kind, value string, from, to int, more ...func(*Op)) Op {
	o := Op{Process: from + 1, Level: level, Kind: kind, Key: "k", Value: value, Invoke: seconds(from), Return: seconds(to)}
	o.Found = kind == Get && value != ""
	for _, m := range more {
		m(&o)
	}
	return o
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// put and the like are linearizable, ePut and the like eventual.
func put(v string, from, to int, more ...func(*Op)) Op {
	return op(Linearizable, Put, v, from, to, more...)
}
func del(from, to int, more ...func(*Op)) Op { return op(Linearizable, Delete, "", from, to, more...) }
func get(v string, from, to int, more ...func(*Op)) Op {
	return op(Linearizable, Get, v, from, to, more...)
}
func ePut(v string, from, to int, more ...func(*Op)) Op {
	return op(Eventual, Put, v, from, to, append([]func(*Op){receipt(v)}, more...)...)
}
func eDel(name string, from, to int, more ...func(*Op)) Op {
	return op(Eventual, Delete, "", from, to, append([]func(*Op){receipt(name)}, more...)...)
}
func eGet(v string, from, to int, more ...func(*Op)) Op {
	return op(Eventual, Get, v, from, to, more...)
}
func bGet(v string, from, to, staleness, most int, more ...func(*Op)) Op {
	return op(Bounded, Get, v, from, to, append([]func(*Op){func(o *Op) {
		o.Staleness, o.MaxStaleness = seconds(staleness), seconds(most)
	}}, more...)...)
}

func receipt(r string) func(*Op) { return func(o *Op) { o.Receipt = r } }

// at is a version: index, timestamp; the node is n1.
func at(index, timestamp uint64) func(*Op) { return on("n1", index, timestamp) }
func on(node string, index, timestamp uint64) func(*Op) {
	return func(o *Op) { o.Version = Version{index, timestamp, node} }
}

// heard is the base of an eventual write.
func heard(base uint64) func(*Op)     { return func(o *Op) { o.Base = base } }
func in(session string) func(*Op)     { return func(o *Op) { o.Session = session } }
func tentative(o *Op)                 { o.Tentative = true }
func unknown(o *Op)                   { o.Outcome = Unknown }
func failed(o *Op)                    { o.Outcome = Failed }
func mismatch(o *Op)                  { o.Outcome = Mismatch }
func absent(o *Op)                    { o.Absent = true }
func ifAbsent(o *Op)                  { o.Condition = IfAbsent }
func ifPresent(o *Op)                 { o.Condition = IfPresent }
func ifValue(expect string) func(*Op) { return func(o *Op) { o.Condition, o.Expect = IfValue, expect } }
func key2(o *Op)                      { o.Key = "k2" }
func committed(i, ts uint64) Fate     { return Fate{Committed, Version{i, ts, "n1"}} }
func fates(f map[string]Fate) *End    { return &End{Fates: f} }
func superseded(by uint64) (f Fate)   { return Fate{Superseded, Version{by, 0, "n1"}} }
func conflict(v string, ts, by, byTime uint64) Conflict {
	return Conflict{Key: "k", Value: v, Losing: Version{0, ts, "n1"}, Winning: Version{by, byTime, "n1"}}
}

type story struct {
	name string
	ops  []Op
	end  *End
	// bad is part of the only violation; empty: there is none.
	bad string
}

func tell(t *testing.T, check func(*History) []Violation, stories []story) {
	t.Helper()
	good := 0
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			// The order in which operations were written down does not matter.
			for range 2 {
				got := check(&History{Ops: s.ops, End: s.end})
				switch {
				case s.bad == "" && len(got) > 0:
					t.Errorf("good, and reported: %v", got)
				case s.bad != "" && len(got) == 0:
					t.Errorf("not found: %s", s.bad)
				case s.bad != "" && !strings.Contains(got[0].String(), s.bad):
					t.Errorf("reported as %v, want %q", got, s.bad)
				case len(got) > 1:
					t.Errorf("reported %d times: %v", len(got), got)
				}
				slices.Reverse(s.ops)
			}
		})
		if s.bad == "" {
			good++
		}
	}
	if good == 0 || good == len(stories) {
		t.Errorf("%d of %d stories are good", good, len(stories))
	}
}

func TestAnswers(t *testing.T) {
	tell(t, CheckAnswers, []story{
		{name: "what was written is read", ops: []Op{
			put("a", 0, 1, at(5, 1)), get("a", 2, 3, at(5, 1)), ePut("b", 0, 1, at(0, 2)), eGet("b", 2, 3, at(0, 2), tentative), bGet("b", 4, 5, 1, 1, at(7, 2)),
		}},
		{name: "read while it is written", ops: []Op{put("a", 0, 9, at(5, 1)), get("a", 1, 2, at(5, 1))}},
		{name: "an unknown write is read", ops: []Op{put("a", 0, 1, unknown), get("a", 5, 6, at(5, 1)), get("a", 7, 8, at(5, 1))}},
		{name: "never written", ops: []Op{get("a", 0, 1)}, bad: "never written"},
		{name: "written to another key", ops: []Op{put("a", 0, 1, key2), get("a", 2, 3)}, bad: "never written"},
		{name: "refused and read", ops: []Op{put("a", 0, 1, failed), eGet("a", 2, 3)}, bad: "was refused"},
		{name: "condition failed and read", ops: []Op{put("a", 0, 1, ifAbsent, mismatch), get("a", 2, 3)}, bad: "was refused"},
		{name: "read before it is written", ops: []Op{get("a", 0, 1), put("a", 2, 3)}, bad: "before it was written"},
		{name: "committed twice", ops: []Op{ePut("a", 0, 1, at(0, 1)), get("a", 2, 3, at(5, 1)), get("a", 4, 5, at(9, 1))}, bad: "committed twice, at 5 and 9"},
		{name: "committed elsewhere than told", ops: []Op{ePut("a", 0, 1, at(0, 1)), get("a", 2, 3, at(5, 1))}, end: fates(map[string]Fate{"a": committed(6, 1)}), bad: "twice, at 6 and 5"},
		{name: "timestamp rewritten", ops: []Op{ePut("a", 0, 1, at(0, 1)), get("a", 2, 3, at(5, 2))}, bad: "two versions"},
		{name: "committed state that is tentative", ops: []Op{ePut("a", 0, 1, at(0, 1)), bGet("a", 2, 3, 0, 1, at(0, 1), tentative)}, bad: "answer of committed state is tentative"},
		{name: "tentative with an index", ops: []Op{ePut("a", 0, 1, at(0, 1)), eGet("a", 2, 3, at(5, 1), tentative)}, bad: "tentative is index 0"},
		{name: "committed without one", ops: []Op{ePut("a", 0, 1, at(0, 1)), eGet("a", 2, 3, at(0, 1))}, bad: "tentative is index 0"},
		{name: "superseded and read as committed", ops: []Op{ePut("a", 0, 1, at(0, 1)), eGet("a", 2, 3, at(5, 1))}, end: fates(map[string]Fate{"a": superseded(4)}), bad: "superseded, and was read"},
		{name: "lost and read as committed", ops: []Op{ePut("a", 0, 1, at(0, 1)), eGet("a", 2, 3, at(5, 1))}, end: fates(map[string]Fate{"a": {Kind: Lost}}), bad: "lost, and was read"},
	})
}

func TestMixing(t *testing.T) {
	tell(t, func(h *History) []Violation { return CheckMixing(h, time.Minute) }, []story{
		{name: "a register", ops: []Op{get("", 0, 1), put("a", 2, 3), get("a", 4, 5), put("b", 6, 9), get("a", 7, 8), get("b", 10, 11), del(12, 13), get("", 14, 15)}},
		{name: "stale read", ops: []Op{put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)}, bad: "no order"},
		{name: "lost write", ops: []Op{put("a", 0, 1), get("", 2, 3)}, bad: "no order"},
		{name: "a delete that was superseded", ops: []Op{put("a", 0, 1), eDel("d", 2, 3), get("", 4, 5)}, end: fates(map[string]Fate{"d": superseded(4)}), bad: "no order"},
		{name: "a delete that was committed", ops: []Op{put("a", 0, 1, at(5, 1)), eDel("d", 2, 3), get("", 4, 5), put("b", 6, 7, at(7, 1)), get("b", 8, 9, at(7, 1))}, end: fates(map[string]Fate{"d": committed(6, 1)})},
		{name: "a delete that was committed before", ops: []Op{put("a", 0, 1, at(5, 1)), eDel("d", 2, 3), put("b", 4, 5, at(7, 1)), get("b", 6, 7, at(7, 1)), get("", 8, 9)}, end: fates(map[string]Fate{"d": committed(6, 1)}), bad: "no order"},
		{name: "reads go back", ops: []Op{put("a", 0, 1), put("b", 2, 20), get("b", 3, 4), get("a", 5, 6)}, bad: "no order"},
		{name: "another key is another register", ops: []Op{put("a", 0, 1), put("b", 2, 3, key2), get("a", 4, 5)}},
		{name: "an unknown write takes effect late", ops: []Op{put("a", 0, 1, unknown), get("", 5, 6), get("a", 7, 8)}},
		{name: "an unknown write takes effect and is gone", ops: []Op{put("a", 0, 1, unknown), get("a", 7, 8), get("", 9, 10)}, bad: "no order"},
		{name: "an unknown write takes effect twice", ops: []Op{put("a", 0, 1, unknown), get("a", 2, 3), put("b", 4, 5), get("b", 6, 7), get("a", 8, 9)}, bad: "no order"},
		{name: "an eventual write takes effect at any time", ops: []Op{ePut("e", 0, 1), put("a", 2, 3), get("a", 4, 5), get("e", 6, 7), put("b", 8, 9), get("b", 10, 11)}},
		{name: "an eventual write never takes effect", ops: []Op{ePut("e", 0, 1), put("a", 2, 3), get("a", 40, 50)}},
		{name: "but not twice", ops: []Op{ePut("e", 0, 1), get("e", 2, 3), put("a", 4, 5), get("a", 6, 7), get("e", 8, 9)}, bad: "no order"},
		{name: "and not before it began", ops: []Op{get("e", 0, 1), ePut("e", 2, 3)}, bad: "no order"},
		{name: "an eventual delete takes effect", ops: []Op{put("a", 0, 1), eDel("d", 2, 3), get("a", 4, 5), get("", 6, 7)}},
		{name: "an eventual delete, twice", ops: []Op{put("a", 0, 1), eDel("d", 2, 3), get("", 4, 5), put("b", 6, 7), get("", 8, 9)}, bad: "no order"},
		{name: "two eventual deletes", ops: []Op{put("a", 0, 1), eDel("d", 2, 3), eDel("d2", 2, 3), get("", 4, 5), put("b", 6, 7), get("", 8, 9)}},
		{name: "eventual and bounded reads may be old", ops: []Op{put("a", 0, 1), put("b", 2, 3), eGet("a", 4, 5), bGet("a", 4, 5, 3, 3)}},
		{name: "a failed write did not happen", ops: []Op{put("a", 0, 1), put("b", 2, 3, failed), get("a", 4, 5)}},
		{name: "conditions hold", ops: []Op{put("a", 0, 1, ifAbsent), put("b", 2, 3, ifValue("a")), put("c", 4, 5, ifAbsent, mismatch), put("d", 6, 7, ifPresent), get("d", 8, 9)}},
		{name: "if-absent over a value", ops: []Op{put("a", 0, 1), put("b", 2, 3, ifAbsent)}, bad: "no order"},
		{name: "if-value over another", ops: []Op{put("a", 0, 1), put("b", 2, 3), put("c", 4, 5, ifValue("a"))}, bad: "no order"},
		{name: "two if-values, both done", ops: []Op{put("a", 0, 1), put("b", 2, 5, ifValue("a")), put("c", 2, 5, ifValue("a"))}, bad: "no order"},
		{name: "if-present over nothing", ops: []Op{put("a", 0, 1, ifPresent)}, bad: "no order"},
		{name: "a mismatch without a reason", ops: []Op{put("a", 0, 1, ifAbsent, mismatch)}, bad: "no order"},
		{name: "it met what stood there", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 9, at(6, 2)), put("c", 3, 8, ifValue("a"), mismatch, at(6, 2))}},
		{name: "it met what does not stand there any more", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2)), put("c", 4, 5, ifAbsent, mismatch, at(5, 1))}, bad: "no order"},
		{name: "it met what nobody else saw", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, unknown), put("c", 4, 5, ifValue("a"), mismatch, at(6, 2))}},
		{name: "it met what nobody can have written", ops: []Op{put("a", 0, 1, at(5, 1)), put("c", 4, 5, ifValue("a"), mismatch, at(6, 2))}, bad: "no order"},
		{name: "it met an unknown write, which is gone then", ops: []Op{
			put("a", 0, 1, at(5, 1)), put("b", 2, 3, unknown), put("c", 4, 5, ifValue("a"), mismatch, at(6, 2)), get("a", 6, 7, at(5, 1)), get("b", 8, 9, at(6, 2)),
		}, bad: "no order"},
		{name: "it met nothing", ops: []Op{put("a", 0, 1), del(2, 9), put("c", 3, 8, ifValue("a"), mismatch, absent)}},
		{name: "it met nothing where something was", ops: []Op{put("a", 0, 1), put("b", 2, 3), put("c", 4, 5, ifValue("a"), mismatch, absent)}, bad: "no order"},
		{name: "if-present met nothing, as an unknown delete came first", ops: []Op{put("a", 0, 1), del(2, 3, unknown), put("c", 4, 5, ifPresent, mismatch, absent)}},
		{name: "if-absent after an unknown delete", ops: []Op{put("a", 0, 1), del(2, 3, unknown), put("c", 4, 5, ifAbsent), get("c", 6, 7)}},
		{name: "an unknown if-absent was seen after an unknown delete", ops: []Op{put("a", 0, 1), del(2, 3, unknown), put("c", 4, 5, ifAbsent, unknown), get("c", 6, 7)}},
		{name: "an unknown if-value was seen after an unknown write", ops: []Op{put("a", 0, 1), put("b", 2, 3, unknown), put("c", 4, 5, ifValue("b"), unknown), get("c", 6, 7)}},
		{name: "if-present after an unknown write nobody saw", ops: []Op{put("b", 2, 3, unknown), put("c", 4, 5, ifPresent), get("c", 6, 7)}},
		{name: "an eventual write nobody reads is the reason", ops: []Op{ePut("e", 0, 1), put("a", 2, 3, ifAbsent, mismatch), get("e", 8, 9)}},
		{name: "an eventual write nobody ever reads is the reason", ops: []Op{ePut("e", 0, 1), put("a", 2, 3, ifPresent)}},
		{name: "an unknown conditional write may have failed", ops: []Op{put("a", 0, 1), put("b", 2, 3, ifAbsent, unknown), get("a", 4, 5)}},
		{name: "an unknown conditional write can not succeed", ops: []Op{put("a", 0, 1), put("b", 2, 3, ifAbsent, unknown), get("b", 4, 5)}, bad: "no order"},
	})
}

// Many eventual writes that are open for ever, most of them seen by nobody, do
// not make it slow.
func TestMixingCopesWithOpenWrites(t *testing.T) {
	var ops []Op
	for i := range 300 {
		v := fmt.Sprint("v", i)
		ops = append(ops, ePut("e"+v, 4*i, 4*i+1), ePut("x"+v, 4*i, 4*i+1, unknown), put(v, 4*i, 4*i+1))
		if i%3 == 0 {
			v = "e" + v
		}
		ops = append(ops, get(v, 4*i+2, 4*i+3))
	}
	if got := CheckMixing(&History{Ops: ops}, 20*time.Second); len(got) > 0 {
		t.Errorf("%v", got[0].Why)
	}
	ops = append(ops, get("ev0", 5000, 5001))
	if got := CheckMixing(&History{Ops: ops}, 20*time.Second); len(got) != 1 || got[0].Undecided {
		t.Error("a value that came back was not found, or not in time")
	}
}

// Nor do conditional writes that nobody was told the end of, as long as those that
// met something else are told what it was.
func TestMixingCopesWithUnknownConditions(t *testing.T) {
	var ops []Op
	last := ""
	for i := range 100 {
		v, from := fmt.Sprint("v", i), 10*i
		index := uint64(i + 5)
		ops = append(ops,
			put(v, from, from+1, at(index, index)), put("x"+v, from, from+3, ifValue(v), unknown), put("y"+v, from, from+3, unknown),
			get(v, from+2, from+3, at(index, index)), put("z"+v, from+4, from+5, ifValue(last), mismatch, at(index, index)),
			put("w"+v, from+4, from+6, ifAbsent, mismatch, at(index, index)))
		last = v
	}
	if got := CheckMixing(&History{Ops: ops}, 20*time.Second); len(got) > 0 {
		t.Errorf("%v", got[0].Why)
	}
	ops = append(ops, put("late", 5000, 5001, ifAbsent, mismatch, at(5, 5)))
	if got := CheckMixing(&History{Ops: ops}, 20*time.Second); len(got) != 1 || got[0].Undecided {
		t.Error("a value that came back was not found, or not in time")
	}
}

func TestRunningOutOfPatienceIsNotGreen(t *testing.T) {
	var ops []Op
	for i := range 40 {
		ops = append(ops, eDel(fmt.Sprint("d", i), 0, 1), put(fmt.Sprint("v", i), 0, 100))
	}
	ops = append(ops, get("", 101, 102), get("v1", 103, 104), get("v2", 105, 106))
	if got := CheckMixing(&History{Ops: ops}, time.Microsecond); len(got) != 1 || !got[0].Undecided {
		t.Errorf("got %v", got)
	}
}

func TestPrecedence(t *testing.T) {
	tell(t, CheckPrecedence, []story{
		{name: "a lower one after a delete that it had heard of", ops: []Op{
			eDel("d", 0, 1, at(0, 9)), ePut("e", 2, 3, at(0, 2), heard(5)), get("e", 4, 5, at(6, 2)),
		}, end: fates(map[string]Fate{"d": committed(5, 9), "e": committed(6, 2)})},
		{name: "a lower one after a delete that it had not heard of", ops: []Op{
			eDel("d", 0, 1, at(0, 9)), ePut("e", 2, 3, at(0, 2), heard(4)), get("e", 4, 5, at(6, 2)),
		}, end: fates(map[string]Fate{"d": committed(5, 9), "e": committed(6, 2)}), bad: "which is higher"},
		{name: "it had heard of it", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(5)), get("e", 4, 5, at(6, 2))}},
		{name: "it had heard of later ones", ops: []Op{put("a", 0, 1, at(5, 9)), ePut("e", 2, 3, at(0, 2), heard(8)), get("e", 4, 5, at(9, 2))}},
		{name: "it came first", ops: []Op{ePut("e", 0, 1, at(0, 1), heard(2)), get("e", 2, 3, at(4, 1)), put("a", 4, 5, at(5, 2)), get("a", 6, 7, at(5, 2))}},
		{name: "it had not heard of it", ops: []Op{put("a", 0, 9, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), get("e", 14, 15, at(6, 2))}, bad: "had heard of 4 only"},
		{name: "nor of a delete", ops: []Op{del(0, 9, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), get("e", 14, 15, at(6, 2))}, bad: "had heard of 4 only"},
		{name: "nobody knows what it had heard of", ops: []Op{put("a", 0, 9, at(5, 1)), ePut("e", 2, 3, unknown), get("e", 14, 15, at(6, 2))}},
		{name: "told by its fate", ops: []Op{put("a", 0, 9, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4))}, end: fates(map[string]Fate{"e": committed(6, 2)}), bad: "had heard of 4 only"},
		{name: "indirectly, by way of one that had", ops: []Op{
			put("a", 0, 9, at(5, 1)), ePut("informed", 2, 3, at(0, 2), heard(5)), ePut("stale", 2, 3, on("n2", 0, 3), heard(4)),
			get("informed", 14, 15, at(6, 2)), get("stale", 16, 17, on("n2", 7, 3)),
		}, bad: "stale, committed at 7, overwrote a of 5"},
		{name: "a tombstone that was collected", ops: []Op{
			del(0, 9, at(5, 1)), ePut("anew", 20, 21, at(0, 2), heard(5)), ePut("stale", 2, 3, on("n2", 0, 3), heard(4)),
			get("anew", 30, 31, at(30, 2)), get("stale", 40, 41, on("n2", 31, 3)),
		}, bad: "stale, committed at 31, overwrote the delete of 5"},
		{name: "in one entry, before it", ops: []Op{put("a", 0, 9, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), get("a", 14, 15, at(5, 1))}, end: fates(map[string]Fate{"e": committed(5, 2)})},
		{name: "in one entry, and seen", ops: []Op{put("a", 0, 9, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), get("e", 14, 15, at(5, 2))}, bad: "had heard of 4 only"},
		{name: "its base lies", ops: []Op{ePut("e", 0, 1, at(0, 2), heard(9)), put("a", 2, 9, at(5, 1)), bGet("e", 3, 4, 5, 5, at(6, 2))}, bad: "which began later"},
		{name: "as a user sees it", ops: []Op{ePut("e", 0, 1), put("a", 2, 3), get("e", 4, 5)}, bad: "e is read, though a was written after it"},
		{name: "a user with a bound", ops: []Op{ePut("e", 0, 1), put("a", 2, 3), bGet("e", 6, 7, 2, 4)}, bad: "e is read, though a was written after it"},
		{name: "a user with a wide bound", ops: []Op{ePut("e", 0, 1), put("a", 2, 3), bGet("e", 6, 7, 3, 4)}},
		{name: "a user at the same time", ops: []Op{ePut("e", 0, 2), put("a", 2, 3), get("e", 4, 5)}},
		{name: "a user whose write may not have happened", ops: []Op{ePut("e", 0, 1), put("a", 2, 3, unknown), get("e", 4, 5)}},
		{name: "an unknown one that is seen", ops: []Op{ePut("e", 0, 1, at(0, 2), heard(1)), put("a", 2, 3, unknown), eGet("a", 2, 3, at(5, 1)), get("e", 4, 5, at(6, 2))}, bad: "e, committed at 6, overwrote a of 5"},
		{name: "tentative writes may be seen", ops: []Op{put("a", 0, 9, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), eGet("e", 14, 15, at(0, 2), tentative)}},
		{name: "higher over lower", ops: []Op{ePut("e", 0, 1, at(0, 1)), ePut("f", 0, 1, on("n2", 0, 1)), get("e", 2, 3, at(5, 1)), get("f", 4, 5, on("n2", 6, 1))}},
		{name: "lower over higher", ops: []Op{ePut("e", 0, 1, at(0, 2)), ePut("f", 0, 1, on("n2", 0, 1), heard(5)), get("e", 2, 3, at(5, 2)), get("f", 4, 5, on("n2", 6, 1))}, bad: "replaced e"},
		{name: "lower, with a linearizable one between", ops: []Op{ePut("e", 0, 1, at(0, 9)), put("a", 2, 3, at(6, 1)), ePut("f", 4, 5, at(0, 2), heard(6))}, end: fates(map[string]Fate{"e": committed(5, 9), "f": committed(7, 2)})},
		{name: "lower, with one between that nobody saw", ops: []Op{ePut("e", 0, 1, at(0, 9)), put("a", 2, 3, unknown), ePut("f", 4, 5, at(0, 2), heard(6))}, end: fates(map[string]Fate{"e": committed(5, 9), "f": committed(7, 2)})},
	})
}

func TestSuperseded(t *testing.T) {
	fig := put("fig", 0, 1, at(5, 10))
	date := ePut("date", 3, 4, at(0, 20), heard(3))
	stale := func(c Conflict) Conflict { c.StaleBase = true; return c }
	floor := Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, StaleBase: true}
	lostTo := func(v Version) Fate { return Fate{Superseded, v} }
	end := func(fate Version, conflicts ...Conflict) *End {
		return &End{Fates: map[string]Fate{"date": lostTo(fate)}, Conflicts: conflicts}
	}
	higher := ePut("kiwi", 0, 1, on("n2", 0, 30), heard(3))
	tell(t, CheckSuperseded, []story{
		{name: "nobody looked", ops: []Op{fig, date}},
		{name: "had not heard of the linearizable write", ops: []Op{fig, date}, end: end(Version{5, 10, "n1"}, stale(conflict("date", 20, 5, 10)))},
		{name: "had heard of the write that it lost to", ops: []Op{fig, ePut("date", 3, 4, at(0, 20), heard(7))},
			end: end(Version{5, 10, "n1"}, stale(conflict("date", 20, 5, 10))), bad: "its base is 7"},
		{name: "what it had heard of is not known", ops: []Op{fig, ePut("date", 3, 4, at(0, 20), heard(7), unknown)},
			end: end(Version{5, 10, "n1"}, stale(conflict("date", 20, 5, 10)))},
		{name: "had not heard of an eventual write", ops: []Op{higher, date},
			end: end(Version{5, 30, "n2"}, stale(Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, Winning: Version{5, 30, "n2"}})), bad: "is an eventual one"},
		{name: "older than an eventual write", ops: []Op{higher, date},
			end: end(Version{5, 30, "n2"}, Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, Winning: Version{5, 30, "n2"}})},
		{name: "older than an eventual write, by the node", ops: []Op{ePut("kiwi", 0, 1, on("n2", 0, 20)), date},
			end: end(Version{5, 20, "n2"}, Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, Winning: Version{5, 20, "n2"}})},
		{name: "newer than the write it lost to", ops: []Op{ePut("kiwi", 0, 1, on("n2", 0, 10)), date},
			end: end(Version{5, 10, "n2"}, Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, Winning: Version{5, 10, "n2"}}), bad: "said to be older"},
		{name: "older than a linearizable write", ops: []Op{put("fig", 0, 1, at(5, 30)), date},
			end: end(Version{5, 30, "n1"}, conflict("date", 20, 5, 30)), bad: "no clock decides"},
		{name: "a linearizable write that lost", ops: []Op{fig, higher}, end: &End{Conflicts: []Conflict{conflict("fig", 10, 6, 30)}}, bad: "linearizable write is said to have lost"},
		{name: "below the floor, and no node was removed", ops: []Op{date}, end: end(Version{}, floor), bad: "was a member from the start to the end"},
		{name: "below the floor, and another node was removed", ops: []Op{date},
			end: &End{Fates: map[string]Fate{"date": lostTo(Version{})}, Conflicts: []Conflict{floor}, Removed: []string{"n2"}}, bad: "was a member"},
		{name: "below the floor, with a removed node", ops: []Op{date},
			end: &End{Fates: map[string]Fate{"date": lostTo(Version{})}, Conflicts: []Conflict{floor}, Removed: []string{"n1"}}},
		{name: "below the floor, of a node that joined later", ops: []Op{date},
			end: &End{Fates: map[string]Fate{"date": lostTo(Version{})}, Conflicts: []Conflict{floor}, Joined: []string{"n1"}}},
		{name: "older than nothing", ops: []Op{date},
			end: end(Version{}, Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}}), bad: "older than nothing"},
		{name: "the receipt and the list disagree", ops: []Op{fig, date}, end: end(Version{77, 77, "n9"}, stale(conflict("date", 20, 5, 10))), bad: "the list says 5-10-n1"},
		{name: "the receipt names another index", ops: []Op{fig, date}, end: end(Version{6, 10, "n1"}, stale(conflict("date", 20, 5, 10))), bad: "lost to 6-10-n1"},
		{name: "both name a winner that nobody wrote", ops: []Op{fig, date}, end: end(Version{77, 77, "n9"}, stale(Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, Winning: Version{77, 77, "n9"}})), bad: "which nobody wrote"},
		{name: "the winner may be a write whose answer was not heard", ops: []Op{put("fig", 0, 1, unknown), date}, end: end(Version{77, 77, "n9"}, stale(Conflict{Key: "k", Value: "date", Losing: Version{0, 20, "n1"}, Winning: Version{77, 77, "n9"}}))},
		{name: "dropped from the list, and the receipt's winner was never written", ops: []Op{fig, date},
			end: &End{Fates: map[string]Fate{"date": lostTo(Version{77, 77, "n9"})}, Dropped: true}, bad: "which nobody wrote"},
		{name: "replaced by a write that had not heard of it", ops: []Op{date, ePut("kiwi", 5, 6, on("n2", 0, 30), heard(3))},
			end: &End{Fates: map[string]Fate{"date": committed(5, 20), "kiwi": {Committed, Version{6, 30, "n2"}}}, Conflicts: []Conflict{{Key: "k", Value: "date", Losing: Version{5, 20, "n1"}, Winning: Version{6, 30, "n2"}}}}},
		{name: "replaced by a write that had heard of it, and listed", ops: []Op{date, ePut("kiwi", 5, 6, on("n2", 0, 30), heard(5))},
			end: &End{Fates: map[string]Fate{"date": committed(5, 20), "kiwi": {Committed, Version{6, 30, "n2"}}}, Conflicts: []Conflict{{Key: "k", Value: "date", Losing: Version{5, 20, "n1"}, Winning: Version{6, 30, "n2"}}}}, bad: "which had heard of 5"},
	})
}

func TestSessions(t *testing.T) {
	s := in("s")
	tell(t, CheckSessions, []story{
		{name: "its own, then what replaced it", ops: []Op{
			ePut("e", 0, 1, at(0, 1), heard(4), s), eGet("e", 2, 3, at(0, 1), tentative, s), get("e", 4, 5, at(5, 1), s), put("a", 6, 7, at(6, 2)), bGet("a", 8, 9, 1, 1, at(6, 2), s),
		}},
		{name: "does not read its write", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2), s), eGet("a", 4, 5, at(5, 1), s)}, bad: "read your writes"},
		{name: "another session does not have to", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2), s), eGet("a", 4, 5, at(5, 1), in("t")), eGet("a", 4, 5, at(5, 1))}},
		{name: "nor has it while it writes", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 9, at(6, 2), s), eGet("a", 4, 5, at(5, 1), s)}},
		{name: "nothing instead of its write", ops: []Op{put("b", 2, 3, at(6, 2), s), eGet("", 4, 5, s)}, bad: "read your writes"},
		{name: "nothing, for it was deleted", ops: []Op{put("b", 2, 3, at(6, 2), s), del(3, 4, at(7, 3)), eGet("", 4, 5, s)}},
		{name: "nothing, for it was deleted before", ops: []Op{del(0, 1, at(5, 1)), put("b", 2, 3, at(6, 2), s), eGet("", 4, 5, s)}, bad: "read your writes"},
		{name: "nothing, for a delete of unknown outcome", ops: []Op{put("b", 2, 3, at(6, 2), s), eDel("d", 3, 4, unknown), eGet("", 4, 5, s)}},
		{name: "nothing, for an older eventual delete", ops: []Op{eDel("d", 0, 1, at(0, 1)), ePut("e", 2, 3, at(0, 2), s), eGet("", 4, 5, s)}, bad: "read your writes"},
		{name: "its tentative write is missing", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(5), s), bGet("a", 4, 5, 1, 1, at(5, 1), s)}, bad: "read your writes"},
		{name: "it had not heard of what it sees", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(4), s), eGet("a", 4, 5, at(5, 1), s)}},
		{name: "it was lost with its node", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 2, 3, at(0, 2), heard(5), s), eGet("a", 4, 5, at(5, 1), s)}, end: fates(map[string]Fate{"e": {Kind: Lost}})},
		{name: "it came from a removed node, below the floor", ops: []Op{ePut("e", 2, 3, at(0, 2), heard(5), s), ePut("f", 0, 1, on("n2", 0, 1), heard(9)), eGet("f", 4, 5, on("n2", 10, 1), s)}, end: &End{Fates: map[string]Fate{"e": superseded(0)}, Removed: []string{"n1"}}},
		{name: "a higher one is seen", ops: []Op{ePut("e", 2, 3, at(0, 2), s), ePut("f", 0, 1, at(0, 3)), eGet("f", 4, 5, at(0, 3), tentative, s), eGet("f", 4, 5, at(7, 3), s)}},
		{name: "a lower one is seen", ops: []Op{ePut("f", 2, 3, at(0, 3), s), ePut("e", 0, 1, at(0, 2)), eGet("e", 4, 5, at(0, 2), tentative, s)}, bad: "read your writes"},
		{name: "a lower one is committed", ops: []Op{ePut("f", 2, 3, at(0, 3), heard(4), s), ePut("e", 0, 1, at(0, 2)), eGet("e", 4, 5, at(5, 2), s)}, bad: "read your writes"},
		{name: "a lower one, in another age", ops: []Op{ePut("f", 2, 3, at(0, 3), heard(4), s), put("a", 0, 1, at(6, 1)), ePut("e", 0, 1, at(0, 2), heard(6)), eGet("e", 4, 5, at(7, 2), s)}},
		{name: "a lower one, in the same age", ops: []Op{ePut("f", 2, 3, at(0, 3), heard(6), s), put("a", 0, 1, at(6, 1)), ePut("e", 0, 1, at(0, 2), heard(6)), eGet("e", 4, 5, at(7, 2), s)}, bad: "read your writes"},
		{name: "a lower one, and another age only later", ops: []Op{ePut("f", 2, 3, at(0, 3), heard(4), s), put("a", 0, 9, at(9, 1)), ePut("e", 0, 1, at(0, 2), heard(4)), eGet("e", 4, 5, at(7, 2), s)}, bad: "read your writes"},
		{name: "promotion ahead of apply", ops: []Op{ePut("f", 2, 3, at(0, 3), heard(4), s), put("a", 0, 1, at(4, 1)), eGet("a", 4, 5, at(4, 1), s)}, end: fates(map[string]Fate{"f": committed(6, 3)}), bad: "read your writes"},
		{name: "reads go back", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2)), eGet("b", 4, 5, at(6, 2), s), bGet("a", 6, 7, 9, 9, at(5, 1), s)}, bad: "monotonic reads"},
		{name: "reads of two clients", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2)), eGet("b", 4, 5, at(6, 2)), eGet("a", 6, 7, at(5, 1))}},
		{name: "what was tentative is gone", ops: []Op{ePut("e", 0, 1, at(0, 1)), eGet("e", 2, 3, at(0, 1), tentative, s), eGet("", 4, 5, s)}, bad: "monotonic reads"},
		{name: "a tentative one hides what was seen", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 0, 1, at(0, 2), heard(4)), eGet("a", 2, 3, at(5, 1), s), eGet("e", 4, 5, at(0, 2), tentative, s)}, bad: "monotonic reads"},
		{name: "a tentative one that had heard of it", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 0, 1, at(0, 2), heard(5)), eGet("a", 2, 3, at(5, 1), s), eGet("e", 4, 5, at(0, 2), tentative, s)}},
		{name: "writes in order", ops: []Op{put("a", 0, 1, at(5, 9), s), ePut("e", 2, 3, at(0, 2), heard(5), s), ePut("f", 4, 5, on("n2", 0, 3), heard(5), s), put("b", 6, 7, at(8, 1), s)}, end: fates(map[string]Fate{"e": committed(6, 2), "f": {Committed, Version{7, 3, "n2"}}})},
		{name: "a token without its base", ops: []Op{put("a", 0, 1, at(5, 1), s), ePut("e", 2, 3, at(0, 2), heard(4), s)}, bad: "monotonic writes"},
		{name: "a token without its highest timestamp", ops: []Op{ePut("e", 0, 1, at(0, 2), s), ePut("f", 2, 3, on("n2", 0, 1), s)}, bad: "monotonic writes"},
		{name: "a token without a tentative write's base", ops: []Op{ePut("e", 0, 1, at(0, 2), heard(5), s), ePut("f", 2, 3, at(0, 3), heard(4), s)}, bad: "monotonic writes"},
		{name: "a write that does not follow a read", ops: []Op{put("a", 0, 1, at(5, 1)), eGet("a", 2, 3, at(5, 1), s), ePut("e", 4, 5, at(0, 2), heard(4), s)}, bad: "writes follow reads"},
		{name: "a write below what it read", ops: []Op{ePut("a", 0, 1, at(0, 5)), eGet("a", 2, 3, at(0, 5), tentative, s), ePut("e", 4, 5, at(0, 4), s)}, bad: "writes follow reads"},
		{name: "promoted after what followed it", ops: []Op{ePut("e", 0, 1, at(0, 1), heard(4), s), put("a", 2, 3, at(5, 2), s)}, end: fates(map[string]Fate{"e": committed(6, 1)}), bad: "monotonic writes"},
		{name: "what failed obliges to nothing", ops: []Op{put("a", 0, 1, failed, s), eGet("", 2, 3, s), put("b", 4, 5, unknown, s), eGet("", 6, 7, s)}},
	})
}

func TestNodes(t *testing.T) {
	here := func(o *Op) { o.Node = "n1" }
	there := func(o *Op) { o.Node = "n2" }
	tell(t, CheckNodes, []story{
		{name: "shows it", ops: []Op{ePut("e", 0, 1, at(0, 1)), eGet("e", 2, 3, at(0, 1), tentative, here), eGet("e", 4, 5, at(5, 1), here)}},
		{name: "has forgotten it", ops: []Op{put("a", 0, 1, at(4, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), eGet("a", 4, 5, at(4, 1), here)}, bad: "n1 took e and then shows a"},
		{name: "has forgotten it before applying it", ops: []Op{ePut("e", 2, 3, at(0, 2)), get("e", 4, 5, at(9, 2)), eGet("", 6, 7, here)}, bad: "n1 took e and then shows nothing"},
		{name: "an older state, in which it does not win", ops: []Op{
			ePut("f", 0, 1, at(0, 9)), put("a", 2, 3, at(5, 3)), ePut("e", 4, 5, at(0, 2), heard(5)), eGet("f", 6, 7, at(4, 9), here), get("e", 8, 9, at(6, 2)),
		}},
		{name: "an older state, in which it does win", ops: []Op{
			ePut("f", 0, 1, at(0, 1)), put("a", 2, 3, at(5, 3)), ePut("e", 4, 5, at(0, 2), heard(5)), eGet("f", 6, 7, at(4, 1), here), get("e", 8, 9, at(6, 2)),
		}, bad: "n1 took e and then shows f"},
		{name: "another node has not heard of it", ops: []Op{put("a", 0, 1, at(4, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), eGet("a", 4, 5, at(4, 1), there)}},
		{name: "committed state is something else", ops: []Op{put("a", 0, 1, at(4, 1)), ePut("e", 2, 3, at(0, 2), heard(4)), get("a", 4, 5, at(4, 1), here)}},
		{name: "it was taken while it was read", ops: []Op{put("a", 0, 1, at(4, 1)), ePut("e", 2, 4, at(0, 2), heard(4)), eGet("a", 4, 5, at(4, 1), here)}},
		{name: "it was not acknowledged", ops: []Op{put("a", 0, 1, at(4, 1)), ePut("e", 2, 3, at(0, 2), heard(4), unknown), eGet("a", 4, 5, at(4, 1), here)}},
		{name: "a lower one, behind a delete whose tombstone is gone", ops: []Op{
			ePut("e", 0, 1, at(0, 9)), eDel("d", 2, 3, at(0, 10), heard(5)), ePut("late", 4, 5, at(0, 3), heard(6)), eGet("late", 6, 7, at(8, 3), here),
		}, end: fates(map[string]Fate{"e": superseded(6), "d": committed(6, 10), "late": committed(8, 3)})},
		{name: "a lower one, that had not heard of the delete", ops: []Op{
			ePut("e", 0, 1, at(0, 9)), eDel("d", 2, 3, at(0, 10), heard(5)), ePut("late", 4, 5, at(0, 3), heard(5)), eGet("late", 6, 7, at(8, 3), here),
		}, end: fates(map[string]Fate{"e": superseded(6), "d": committed(6, 10), "late": committed(8, 3)}), bad: "n1 took e and then shows late"},
		{name: "a lower one, tentative, behind a delete of its own", ops: []Op{
			eDel("d", 2, 3, at(0, 10), heard(5)), ePut("late", 4, 5, on("n2", 0, 3), heard(6)), eGet("late", 6, 7, on("n2", 0, 3), tentative, here),
		}, end: fates(map[string]Fate{"d": committed(6, 10)})},
		{name: "a lower one, before the delete", ops: []Op{
			ePut("e", 0, 1, at(0, 9)), ePut("low", 2, 3, on("n2", 0, 3), heard(6)), eDel("d", 4, 5, at(0, 10), heard(5)), eGet("low", 6, 7, on("n2", 5, 3), here),
		}, end: fates(map[string]Fate{"e": superseded(6), "d": committed(6, 10), "low": {Committed, Version{5, 3, "n2"}}}), bad: "n1 took e and then shows low"},
		{name: "it had not heard of what replaced it", ops: []Op{put("a", 0, 1, at(4, 1)), ePut("e", 2, 3, at(0, 2), heard(3)), eGet("a", 4, 5, at(4, 1), here)}},
	})
}

func TestBounded(t *testing.T) {
	tell(t, CheckBounded, []story{
		{name: "as old as it may be", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 8, at(6, 2)), bGet("a", 10, 11, 2, 5, at(5, 1))}},
		{name: "older than it may be", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2)), bGet("a", 10, 11, 2, 5, at(5, 1))}, bad: "a is older than 6, which was acknowledged 7s before"},
		{name: "older than it says", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 7, at(6, 2)), bGet("a", 10, 11, 2, 5, at(5, 1))}, bad: "a is older than 6"},
		{name: "says that it is too old", ops: []Op{put("a", 0, 1, at(5, 1)), bGet("a", 10, 11, 6, 5, at(5, 1))}, bad: "6s old, and may be 5s old"},
		{name: "older than what was read", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 2, 3, at(0, 2)), get("e", 4, 5, at(6, 2)), bGet("a", 10, 11, 2, 5, at(5, 1))}, bad: "a is older than 6"},
		{name: "what was tentative does not count", ops: []Op{put("a", 0, 1, at(5, 1)), ePut("e", 2, 3, at(0, 2)), eGet("e", 4, 5, at(0, 2), tentative), bGet("a", 10, 11, 2, 5, at(5, 1))}},
		{name: "nothing, though it was written", ops: []Op{put("a", 0, 1, at(5, 1)), bGet("", 10, 11, 2, 5)}, bad: "nothing is older than 5"},
		{name: "nothing, for it was deleted", ops: []Op{put("a", 0, 1, at(5, 1)), del(9, 30, at(6, 2)), bGet("", 10, 11, 2, 5)}},
		{name: "nothing, for it was deleted before", ops: []Op{del(0, 1, at(4, 1)), put("a", 2, 3, at(5, 1)), bGet("", 10, 11, 2, 5)}, bad: "nothing is older than 5"},
		{name: "a linearizable read of an old version", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2)), get("a", 4, 5, at(5, 1))}, bad: "a is older than 6"},
		{name: "an eventual read may be old", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2)), eGet("a", 4, 5, at(5, 1))}},
		{name: "newer than it has to be", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 30, at(6, 2)), bGet("b", 4, 5, 0, 5, at(6, 2))}},
		{name: "another key", ops: []Op{put("a", 0, 1, at(5, 1)), put("b", 2, 3, at(6, 2), key2), bGet("a", 10, 11, 2, 5, at(5, 1))}},
	})
}

func TestFates(t *testing.T) {
	e := ePut("e", 0, 1, at(0, 1), heard(4))
	f := ePut("f", 0, 1, on("n2", 0, 2), heard(4))
	two := Fate{Committed, Version{6, 2, "n2"}}
	lost := conflict("e", 1, 6, 2)
	tell(t, CheckFates, []story{
		{name: "nobody looked", ops: []Op{e}},
		{name: "committed", ops: []Op{e}, end: fates(map[string]Fate{"e": committed(5, 1)})},
		{name: "superseded and listed", ops: []Op{e}, end: &End{Fates: map[string]Fate{"e": superseded(5)}, Conflicts: []Conflict{lost}}},
		{name: "superseded and listed, its answer was not heard", ops: []Op{ePut("e", 0, 1, unknown)}, end: &End{Fates: map[string]Fate{"e": superseded(5)}, Conflicts: []Conflict{lost}}},
		{name: "superseded and not listed, its answer was not heard", ops: []Op{e, ePut("f", 0, 1, unknown)}, end: &End{Fates: map[string]Fate{"e": superseded(5), "f": superseded(5)}, Conflicts: []Conflict{lost}}, bad: "on no list"},
		{name: "superseded and not listed", ops: []Op{e}, end: fates(map[string]Fate{"e": superseded(5)}), bad: "on no list"},
		{name: "superseded, another is listed", ops: []Op{e, ePut("x", 0, 1, unknown)}, end: &End{Fates: map[string]Fate{"e": superseded(5), "x": superseded(5)}, Conflicts: []Conflict{conflict("x", 1, 5, 2), conflict("e", 2, 5, 3)}}, bad: "on no list"},
		{name: "superseded and dropped from the list", ops: []Op{e}, end: &End{Fates: map[string]Fate{"e": superseded(5)}, Dropped: true}},
		{name: "a superseded delete", ops: []Op{eDel("d", 0, 1, at(0, 1))}, end: &End{Fates: map[string]Fate{"d": superseded(5)}, Conflicts: []Conflict{{Key: "k", Delete: true, Losing: Version{0, 1, "n1"}}}}},
		{name: "still pending", ops: []Op{e}, end: fates(map[string]Fate{"e": {Kind: Pending}}), bad: "still pending"},
		{name: "unknown, and still pending", ops: []Op{ePut("e", 0, 1, unknown)}, end: fates(map[string]Fate{"e": {Kind: Pending}}), bad: "still pending"},
		{name: "unknown, and nobody could ask", ops: []Op{ePut("e", 0, 1, unknown, receipt(""))}, end: fates(nil)},
		{name: "without a trace", ops: []Op{e}, end: fates(nil), bad: "nothing is known"},
		{name: "without a receipt", ops: []Op{ePut("e", 0, 1, receipt(""))}, end: fates(nil), bad: "without a receipt"},
		{name: "lost, and nobody removed", ops: []Op{e}, end: fates(map[string]Fate{"e": {Kind: Lost}}), bad: "no node was removed"},
		{name: "lost with a node", ops: []Op{e}, end: &End{Fates: map[string]Fate{"e": {Kind: Lost}}, Removed: []string{"n1"}}},
		{name: "lost, and another node was removed", ops: []Op{e}, end: &End{Fates: map[string]Fate{"e": {Kind: Lost}}, Removed: []string{"n2"}}, bad: "n1, which took it, was not removed"},
		{name: "lost, and nobody heard who took it", ops: []Op{ePut("e", 0, 1, unknown)}, end: &End{Fates: map[string]Fate{"e": {Kind: Lost}}, Removed: []string{"n2"}}},
		{name: "refused and listed", ops: []Op{ePut("e", 0, 1, failed)}, end: &End{Conflicts: []Conflict{lost}}, bad: "e was refused, and is on the list"},
		{name: "never written and listed", ops: []Op{f}, end: &End{Fates: map[string]Fate{"f": two}, Conflicts: []Conflict{lost}}, bad: "e was never written, and is on the list"},
		{name: "of another key and listed", ops: []Op{ePut("f", 0, 1, on("n2", 0, 2), heard(4), key2)}, end: &End{Fates: map[string]Fate{"f": two}, Conflicts: []Conflict{lost}}},
		{name: "committed nowhere", ops: []Op{e}, end: fates(map[string]Fate{"e": committed(0, 1)}), bad: "at no index"},
		{name: "committed as another", ops: []Op{e}, end: fates(map[string]Fate{"e": committed(5, 2)}), bad: "committed as"},
		{name: "refused, and nothing is known", ops: []Op{ePut("e", 0, 1, failed)}, end: fates(nil)},
		{name: "expired", ops: []Op{e}, end: fates(map[string]Fate{"e": {Kind: Expired}})},
		{name: "gave way, unheard of, unlisted", ops: []Op{e, f}, end: fates(map[string]Fate{"e": committed(5, 1), "f": two}), bad: "e, committed at 5, gave way to f"},
		{name: "gave way, unheard of, listed", ops: []Op{e, f}, end: &End{Fates: map[string]Fate{"e": committed(5, 1), "f": two}, Conflicts: []Conflict{lost}}},
		{name: "gave way to one that had heard of it", ops: []Op{e, ePut("f", 0, 1, on("n2", 0, 2), heard(5))}, end: fates(map[string]Fate{"e": committed(5, 1), "f": two})},
		{name: "gave way on its own node", ops: []Op{e, ePut("f", 0, 1, at(0, 2), heard(4))}, end: fates(map[string]Fate{"e": committed(5, 1), "f": committed(6, 2)})},
		{name: "gave way to the higher one of the same entry", ops: []Op{
			ePut("f", 0, 1, at(0, 2), heard(4)), ePut("e", 2, 3, at(0, 1), heard(4)), ePut("g", 4, 5, on("n3", 0, 3), heard(4)),
		}, end: &End{
			Fates:     map[string]Fate{"e": committed(5, 1), "f": committed(5, 2), "g": {Committed, Version{7, 3, "n3"}}},
			Conflicts: []Conflict{conflict("f", 2, 7, 3)},
		}},
		{name: "gave way, with another between", ops: []Op{e, f, put("a", 0, 1, unknown)}, end: fates(map[string]Fate{"e": committed(5, 1), "f": two})},
	})
}

// A history that is good by every rule, and one that all but porcupine and the
// fates find fault with.
func TestCheck(t *testing.T) {
	good := History{Ops: []Op{
		put("a", 0, 1, at(5, 1), in("s")), ePut("e", 2, 3, at(0, 2), heard(5), in("s")), eGet("e", 4, 5, at(0, 2), tentative, in("s")), get("e", 6, 7, at(6, 2)),
	}, End: fates(map[string]Fate{"e": committed(6, 2)})}
	if got := Check(&good, time.Minute); len(got) > 0 {
		t.Errorf("good: %v", got)
	}
	bad := History{Ops: []Op{
		ePut("e", 0, 1, at(0, 9), heard(4)), put("a", 2, 3, at(5, 1), in("s")), get("e", 4, 5, at(6, 9)), eGet("zzz", 6, 7),
		put("b", 8, 9, at(7, 1), in("s")), eGet("a", 10, 11, at(5, 1), in("s")), bGet("a", 12, 13, 1, 1, at(5, 1)),
	}, End: fates(nil)}
	var rules []string
	for _, v := range Check(&bad, time.Minute) {
		rules = append(rules, v.Rule)
		if !strings.Contains(v.String(), "\n  [") || v.Key != "k" {
			t.Errorf("tells no story: %v", v)
		}
	}
	slices.Sort(rules)
	if want := []string{"answers", "fates", "precedence", "read your writes", "staleness"}; !slices.Equal(slices.Compact(rules), want) {
		t.Errorf("found %v, want %v", rules, want)
	}
}
