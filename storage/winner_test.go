package storage

import (
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

var nodeIDs = []partition.NodeID{"n1-aaaa", "n2-bbbb", "n3-cccc"}

func eventual(node partition.NodeID, sequence, base uint64, ts hlc.Timestamp, value string) Tentative {
	return Tentative{Dot: Dot{node, 1, sequence}, Base: base, Timestamp: ts, Key: []byte("k"), Bytes: []byte(value)}
}

func linearizable(index uint64, value string) *Value {
	return &Value{
		Version: Version{Index: index, Timestamp: 1 << 40, Node: "n1-aaaa"}, Linearizable: true, LinearizableIndex: index, Bytes: []byte(value),
	}
}

// promoted is what a key holds after an eventual write won at index; lin is its
// last linearizable write.
func promoted(t Tentative, index, lin uint64) *Value {
	var before *Value
	if lin > 0 {
		before = linearizable(lin, "before")
	}
	c := CommittedBy(&t, index, before)
	return &c
}

// tombstone is what a key holds after t was promoted as a delete.
func tombstone(t Tentative, index uint64) *Value {
	t.Delete, t.Bytes = true, nil
	return promoted(t, index, 0)
}

func TestDecide(t *testing.T) {
	wins := Decision{Wins: true}
	winsUnheard := Decision{Wins: true, ListHeld: true}
	stale, older := Decision{Superseded: CauseStaleBase}, Decision{Superseded: CauseOlder}
	fast := eventual("n2-bbbb", 1, 0, 100, "fast clock") // promoted at 5
	for _, c := range []struct {
		name  string
		held  *Value
		floor uint64
		write Tentative
		want  Decision
	}{
		{"the first write of a key", nil, 0, eventual("n1-aaaa", 1, 0, 1, "v"), wins},
		{"a key without anything, at the floor", nil, 9, eventual("n1-aaaa", 1, 9, 1, "v"), wins},
		{"a key without anything, below the floor", nil, 9, eventual("n1-aaaa", 1, 8, 1, "v"), stale},

		{"over a linearizable write, heard of", linearizable(5, "l"), 0, eventual("n1-aaaa", 1, 5, 1, "v"), wins},
		{"over a linearizable write, not heard of", linearizable(5, "l"), 0, eventual("n1-aaaa", 1, 4, 1<<50, "v"), stale},
		{"over a linearizable write, below the floor", linearizable(5, "l"), 7, eventual("n1-aaaa", 1, 6, 1<<50, "v"), stale},

		{"newer than an eventual write, not heard of", promoted(fast, 5, 0), 0, eventual("n1-aaaa", 1, 4, 101, "v"), winsUnheard},
		{"newer than an eventual write, heard of", promoted(fast, 5, 0), 0, eventual("n1-aaaa", 1, 5, 101, "v"), wins},
		{"older than an eventual write, not heard of", promoted(fast, 5, 0), 0, eventual("n1-aaaa", 1, 4, 99, "v"), older},
		{"older than an eventual write whose index was heard of", promoted(fast, 5, 0), 0, eventual("n1-aaaa", 1, 8, 99, "v"), older},
		{"newer than an eventual write, below the floor", promoted(fast, 5, 0), 3, eventual("n1-aaaa", 1, 2, 101, "v"), stale},

		{"going round a linearizable write", promoted(fast, 5, 3), 0, eventual("n1-aaaa", 1, 2, 101, "v"), stale},
		{"past an informed write, informed too", promoted(fast, 5, 3), 0, eventual("n1-aaaa", 1, 3, 101, "v"), winsUnheard},

		{"same timestamp, higher node", promoted(fast, 5, 0), 0, eventual("n3-cccc", 1, 0, 100, "v"), winsUnheard},
		{"same timestamp, lower node", promoted(fast, 5, 0), 0, eventual("n1-aaaa", 9, 0, 100, "v"), older},
		{"same timestamp and node, higher dot", promoted(fast, 5, 0), 0, eventual("n2-bbbb", 2, 0, 100, "v"), wins},
		{"of the same node", promoted(fast, 5, 0), 0, eventual("n2-bbbb", 2, 0, 101, "v"), wins},
		{"of the same node, after a restart", promoted(fast, 5, 0), 0, Tentative{Dot: Dot{"n2-bbbb", 2, 1}, Timestamp: 101}, winsUnheard},
		{"same timestamp and node, lower dot", promoted(eventual("n2-bbbb", 2, 0, 100, "x"), 5, 0), 0, fast, older},

		{"older than a tombstone", tombstone(fast, 5), 4, eventual("n1-aaaa", 1, 8, 99, "v"), older},
		{"older than a tombstone that may be collected", tombstone(fast, 5), 5, eventual("n1-aaaa", 1, 8, 99, "v"), wins},
		{"older than a tombstone that is not committed", tombstone(fast, 0), 5, eventual("n1-aaaa", 1, 8, 99, "v"), older},

		{"what is held already", promoted(fast, 5, 0), 0, fast, Decision{}},
		{"what is held already, below a floor since", promoted(fast, 5, 0), 9, fast, Decision{}},
	} {
		if got := Decide(c.held, c.floor, &c.write); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestAWinnerKeepsTheLinearizableIndex(t *testing.T) {
	w := eventual("n2-bbbb", 4, 8, 30, "v")
	held := promoted(w, 9, 7)
	if held.LinearizableIndex != 7 || held.Base != 8 || held.Version != (Version{9, 30, "n2-bbbb"}) || held.Dot != w.Dot || held.Linearizable || held.Tombstone {
		t.Fatalf("%+v", held)
	}
	w = eventual("n3-cccc", 1, 9, 31, "")
	w.Delete = true
	gone := CommittedBy(&w, 12, held)
	if gone.LinearizableIndex != 7 || !gone.Tombstone || gone.Version.Index != 12 {
		t.Fatalf("%+v", gone)
	}
	if first := CommittedBy(&w, 12, nil); first.LinearizableIndex != 0 {
		t.Fatalf("%+v", first)
	}
	// It is a value that the state database takes.
	b := make([]byte, gone.encodedLen())
	gone.encodeTo(b)
	_, err := decodeValue(b, nil)
	ok(t, err)
}

// Three writers, and the last is not a linearizable one: a linearizable write,
// an eventual one that has heard of it, and then one from a node that was cut
// off before either, with the highest timestamp of all.
func TestAStaleWriteDoesNotGoRoundALinearizableOne(t *testing.T) {
	for _, kind := range []eventKind{linPut, linDelete} {
		l := newKeyLog().fix(kind)
		l = l.promote(t, 0, eventual("n1-aaaa", 1, 1, 10, "informed"))
		l = l.promote(t, 1, eventual("n3-cccc", 1, 0, 99, "stale"))
		if l.heldID != 0 || !slices.Equal(l.conflicts, []int{1}) {
			t.Fatalf("holds %d, conflicts %v after %v", l.heldID, l.conflicts, l)
		}
	}
}

// The same with the linearizable delete's tombstone collected, while the node
// that was cut off is removed; and with the key created anew since, by an
// eventual write or a linearizable one.
func TestAStaleWriteDoesNotOutliveACollectedTombstone(t *testing.T) {
	stale := eventual("n3-cccc", 1, 0, 99, "stale")
	collected := newKeyLog().fix(linDelete).fix(floorBehind)
	if collected.held != nil {
		t.Fatalf("the tombstone is still there: %v", collected)
	}
	for name, l := range map[string]keyLog{
		"left deleted":               collected,
		"created by an eventual":     collected.promote(t, 0, eventual("n1-aaaa", 1, 2, 10, "anew")),
		"created by a linearizable":  collected.fix(linPut),
		"created, and then replaced": collected.fix(linPut).promote(t, 0, eventual("n1-aaaa", 1, 3, 10, "anew")),
	} {
		after := l.promote(t, 1, stale)
		if after.heldID != l.heldID || !slices.Equal(after.conflicts, []int{1}) {
			t.Fatalf("%s: holds %d, conflicts %v", name, after.heldID, after.conflicts)
		}
		if w := Winner(l.held, l.floor, []Tentative{stale}); w != nil {
			t.Fatalf("%s: a read answers with the stale write", name)
		}
	}
}

// Why having heard of an eventual value's index does not win over its
// timestamp: fast is committed at 1 by a clock that is ahead, and passed's node
// has passed on an answer from there, without the value. Together with a third
// write the order of promotion would then decide.
func TestAHeardOfIndexDoesNotBeatATimestamp(t *testing.T) {
	fast := eventual("n2-bbbb", 1, 0, 1000, "fast")
	passed := eventual("n1-aaaa", 1, 1, 20, "passed")
	third := eventual("n3-cccc", 1, 0, 500, "third")
	start := newKeyLog().promote(t, 0, fast)
	a := start.promote(t, 1, passed).promote(t, 2, third)
	b := start.promote(t, 2, third).promote(t, 1, passed)
	for _, l := range []keyLog{a, b} {
		slices.Sort(l.conflicts)
		if l.heldID != 0 || !slices.Equal(l.conflicts, []int{1, 2}) {
			t.Fatalf("holds %d, conflicts %v after %v", l.heldID, l.conflicts, l)
		}
	}

	// The other rule, for comparison.
	last := func(order ...Tentative) string {
		held := promoted(fast, 1, 0)
		for i, w := range order {
			if w.Base >= held.Version.Index || Decide(held, 0, &w).Wins {
				held = promoted(w, uint64(i)+2, 0)
			}
		}
		return string(held.Bytes)
	}
	if x, y := last(passed, third), last(third, passed); x != "third" || y != "passed" {
		t.Fatalf("with the other rule: %s and %s", x, y)
	}
}

// A lower timestamp loses though it comes later in the log, and so does a write
// of the same batch: both are on the list, as is what they replaced unheard.
func TestAWriteOfTheSameEntryWasNotHeardOf(t *testing.T) {
	held := promoted(eventual("n1-aaaa", 1, 0, 10, "one"), 4, 0)
	second := eventual("n2-bbbb", 1, 3, 11, "two")
	if got := Decide(held, 0, &second); got != (Decision{Wins: true, ListHeld: true}) {
		t.Fatalf("%+v", got)
	}
	now := CommittedBy(&second, 4, held)
	third := eventual("n3-cccc", 1, 3, 12, "three")
	if got := Decide(&now, 0, &third); got != (Decision{Wins: true, ListHeld: true}) {
		t.Fatalf("%+v", got)
	}
}

func TestWinner(t *testing.T) {
	held := promoted(eventual("n1-aaaa", 1, 3, 50, "held"), 5, 3)
	low, high := eventual("n2-bbbb", 1, 3, 60, "low"), eventual("n3-cccc", 1, 3, 70, "high")
	stale := eventual("n3-cccc", 2, 2, 80, "stale")
	older := eventual("n2-bbbb", 2, 5, 40, "older")
	for _, c := range []struct {
		name   string
		held   *Value
		floor  uint64
		writes []Tentative
		want   string
	}{
		{"no tentative write", held, 0, nil, ""},
		{"nothing at all", nil, 0, nil, ""},
		{"only what loses", held, 0, []Tentative{stale, older}, ""},
		{"the higher of two", held, 0, []Tentative{high, stale, low, older}, "high"},
		{"again and again", held, 0, []Tentative{low, high, low, high}, "high"},
		{"nothing held", nil, 0, []Tentative{low, stale}, "stale"},
		{"below the floor", nil, 3, []Tentative{low, stale}, "low"},
		{"over a linearizable write", linearizable(3, "l"), 0, []Tentative{low, stale}, "low"},
	} {
		for range 2 {
			got := ""
			if w := Winner(c.held, c.floor, c.writes); w != nil {
				got = string(w.Bytes)
			}
			if got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
			slices.Reverse(c.writes)
		}
	}
	writes := []Tentative{low, high, stale, older}
	if n := testing.AllocsPerRun(100, func() { Winner(held, 0, writes) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestSupersededCauseText(t *testing.T) {
	for c, want := range map[SupersededCause]string{0: "not superseded", CauseStaleBase: "stale base", CauseOlder: "older", 9: "unknown cause"} {
		if c.String() != want {
			t.Errorf("%d is %q", c, c)
		}
	}
}
