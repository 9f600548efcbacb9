package storage

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A write that lost to an eventual delete by its timestamp, of whose index its node
// had heard: once the floor has collected the delete nothing is left that it loses
// to. Who holds it, and was not told its fate, asks the state for it, and does not
// show it again; what it stood in the way of is shown.
func TestADecidedWriteDoesNotShowAgainBehindTheFloor(t *testing.T) {
	r := openReplica(t)
	l, err := OpenLog(LogOptions{FS: vfs.NewMem(), Dir: "log", NodeID: "n5-eeee", DiskSlowAfter: -1})
	ok(t, err)
	defer func() { ok(t, l.Close()) }()
	log := mustTentative(t, l, 0)
	key := []byte("k")
	fast := Tentative{Dot: Dot{"n2-bbbb", 7, 1}, Base: 0, Timestamp: 1000, Delete: true, Key: key}
	slow := Tentative{Dot: Dot{"n5-eeee", 9, 1}, Base: 5, Timestamp: 20, Key: key, Bytes: []byte("slow")}
	other := Tentative{Dot: Dot{"n4-dddd", 9, 1}, Base: 5, Timestamp: 10, Key: key, Bytes: []byte("other")}
	mustDo(t, log.Append([]TentativeWrite{{Tentative: slow}, {Tentative: other}}))

	// As a node without a replica reads, from its own log and from another's state.
	show := func() LocalRead {
		t.Helper()
		own, err := Local{Log: log}.ReadToMerge(key)
		ok(t, err)
		state, decided, ofKey, err := Local{State: r}.ReadNamed(key, log.WritesOf(key))
		ok(t, err)
		if !ofKey.IsEmpty() {
			t.Errorf("a state without a log holds %v", ofKey)
		}
		if !decided.IsEmpty() {
			own, err = Local{Log: log, Decided: decided}.ReadToMerge(key)
			ok(t, err)
		}
		return MergeReads(own, state)
	}
	want := func(when, value string) {
		t.Helper()
		if m := show(); string(m.Bytes) != value || m.Found != (value != "") {
			t.Errorf("%s: %q is shown", when, m.Bytes)
		}
	}
	take(t, r, logged(t, 5, promotionOf(fast)))
	want("while both are undecided, and lose to the delete", "")
	take(t, r, logged(t, 6, promotionOf(slow)))
	want("once one is decided", "")
	floor, err := AppendFloor(nil, 5)
	ok(t, err)
	take(t, r, ApplyEntry{Index: 7, Term: 1, Commands: [][]byte{floor}})
	want("once the delete was collected", "other") // undecided, and now over nothing
	take(t, r, logged(t, 8, promotionOf(other)))
	want("once both are decided", "other")
	if read := show(); read.Tentative != nil {
		t.Error("it is committed, and shown as tentative")
	}

	// A write of a node that was removed is decided too; and one that another replica
	// brings, which is behind, is dropped.
	forfeit, err := AppendForfeit(nil, "n9-gone")
	ok(t, err)
	take(t, r, ApplyEntry{Index: 9, Term: 1, Commands: [][]byte{forfeit}})
	named := &DotSet{}
	ok(t, named.AddRange(DotRange{"n9-gone", 3, 4, 6}))
	ok(t, named.AddRange(DotRange{"n5-eeee", 9, 1, 2}))
	read, decided, _, err := Local{State: r}.ReadNamed(key, named)
	ok(t, err)
	if decided.String() != "{n5-eeee/9:1 n9-gone/3:4-6}" {
		t.Errorf("decided are %v", decided)
	}
	behind := LocalRead{LocalEntry: LocalEntry{Key: key, Candidates: []Tentative{{Dot: Dot{"n5-eeee", 9, 1}, Base: 9, Timestamp: 2000, Key: key, Bytes: []byte("again")}}}}
	merged := MergeReads(behind, read)
	if merged.Tentative == nil {
		t.Fatal("the test shows nothing")
	}
	if merged.Drop(nil); merged.Tentative == nil {
		t.Error("nothing is decided, and something was dropped")
	}
	if merged.Drop(decided); string(merged.Bytes) != "other" || merged.Tentative != nil || len(behind.Candidates) != 1 {
		t.Errorf("%q is shown", merged.Bytes)
	}
}
