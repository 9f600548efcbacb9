package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

const testPartition partition.ID = 3

func mustTentative(t testing.TB, l *Log, p partition.ID) *TentativeLog {
	t.Helper()
	tl, err := l.Tentative(p)
	if err != nil {
		t.Fatal(err)
	}
	return tl
}

// remote is a write that the node named has accepted.
func remote(node string, sequence, base uint64, at hlc.Timestamp, key, value string) TentativeWrite {
	return TentativeWrite{
		Tentative: Tentative{
			Dot: Dot{Node: partition.NodeID(node), Incarnation: 7, Sequence: sequence}, Base: base, Timestamp: at,
			Key: []byte(key), Bytes: []byte(value),
		},
	}
}

func dotsIn(writes ...TentativeWrite) []Dot {
	var dots []Dot
	for _, w := range writes {
		dots = append(dots, w.Dot)
	}
	return dots
}

// mustBatch gives all that is undecided.
func mustBatch(t fataler, tl *TentativeLog) []TentativeWrite {
	t.Helper()
	got, err := tl.Batch(Dot{}, TentativeLimit{Count: 1 << 20, Bytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func checkHeld(t testing.TB, tl *TentativeLog, want ...TentativeWrite) {
	t.Helper()
	slices.SortFunc(want, func(a, b TentativeWrite) int { return a.Dot.Compare(b.Dot) })
	got := mustBatch(t, tl)
	if !slices.EqualFunc(got, want, sameWrite) {
		t.Fatalf("held:\n%+v\nwant:\n%+v", got, want)
	}
	checkIndexEqualsDisk(t, tl)
}

func sameWrite(a, b TentativeWrite) bool {
	return a.version() == b.version() && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Bytes, b.Bytes)
}

// checkIndexEqualsDisk reads all records of the partition, and compares them
// with what memory says. Nothing is in flight.
func checkIndexEqualsDisk(t testing.TB, tl *TentativeLog) {
	t.Helper()
	it, err := tl.log.db.NewIter(&pebble.IterOptions{
		LowerBound: tentativeKey(tl.partition, 0, 0), UpperBound: tentativeKey(tl.partition, 0xff, 0),
	})
	mustDo(t, err)
	defer func() { mustDo(t, it.Close()) }()
	writes, values := map[Dot]tentativeVersion{}, map[Dot]int{}
	var disk int64
	var heard, fate uint64
	var saved tentativeSaved
	for it.First(); it.Valid(); it.Next() {
		_, kind, d, err := parseTentativeKey(it.Key(), nil)
		mustDo(t, err)
		switch kind {
		case tentativeKindHeard:
			heard, err = decodeTentativeIndex(it.Value())
		case tentativeKindFate:
			fate, err = decodeTentativeIndex(it.Value())
		case tentativeKindSaved:
			saved, err = decodeTentativeSaved(it.Value())
		case tentativeKindWrite:
			disk += int64(len(it.Key()) + len(it.Value()))
			var key []byte
			writes[d], key, err = decodeTentativeWrite(d, it.Value())
			if i, ok := tl.index.find(d); ok && i.of.key != string(key) {
				t.Errorf("%v is of key %q on disk, %q in memory", d, key, i.of.key)
			}
		case tentativeKindValue:
			disk += int64(len(it.Key()) + len(it.Value()))
			values[d] = len(it.Value()) - 1
		}
		mustDo(t, err)
	}
	if heard = max(heard, saved.index); heard != tl.heardSaved || fate != tl.fateFloor || saved.covers != tl.covers {
		t.Errorf("heard %d, covers %v and fate floor %d on disk; %d, %v and %d in memory",
			heard, saved.covers, fate, tl.heardSaved, tl.covers, tl.fateFloor)
	}
	for d, v := range writes {
		if n := values[d]; n != v.bytes {
			t.Errorf("%v has a value of %d bytes on disk, its record says %d", d, n, v.bytes)
		}
		delete(values, d)
		i, ok := tl.index.find(d)
		s, settled := tl.settled[d]
		if ok == settled {
			t.Errorf("%v on disk: held %v, settled %v in memory", d, ok, settled)
		}
		if ok && i.tentativeVersion != v || settled && s.version != v {
			t.Errorf("%v differs", d)
		}
	}
	if len(values) != 0 {
		t.Errorf("values without writes: %v", values)
	}
	if n := tl.index.count + len(tl.settled); n != len(writes) {
		t.Errorf("%d writes on disk, %d in memory", len(writes), n)
	}
	sum := tl.index.bytes
	for _, s := range tl.settled {
		sum += s.cost.disk
	}
	if sum != disk {
		t.Errorf("%d bytes on disk, %d counted", disk, sum)
	}
	if t.Failed() {
		t.FailNow()
	}
}

func TestTentativeWritesOutliveEveryReplica(t *testing.T) {
	fs := vfs.NewMem()
	l := openTestLog(t, fs)
	r := Replica{GroupOf(testPartition), 1}
	mustDo(t, mustReplica(t, l, r).Append(logEntries(1, 3, 1)))
	tl := mustTentative(t, l, testPartition)
	a := remote("n2-bbbb", 1, 5, 10, "k", "v")
	b := remote("n3-cccc", 1, 6, 11, "k", "")
	b.Delete, b.Hint = true, true
	mustDo(t, tl.Append([]TentativeWrite{a, b}))
	beside := mustTentative(t, l, testPartition+1)
	mustDo(t, beside.Append([]TentativeWrite{a}))
	mustDo(t, l.Destroy(r))
	checkHeld(t, tl, a, b)
	mustDo(t, l.Close())

	l = openTestLog(t, fs)
	defer func() { mustDo(t, l.Close()) }()
	partitions, err := l.TentativePartitions()
	slices.Sort(partitions)
	if err != nil || !slices.Equal(partitions, []partition.ID{testPartition, testPartition + 1}) {
		t.Fatalf("partitions %v, %v", partitions, err)
	}
	tl = mustTentative(t, l, testPartition)
	checkHeld(t, tl, a, b)
	if got := tl.Backlog(); got != (TentativeBacklog{Count: 2, Hints: 1, Bytes: tl.index.bytes, OldestTimestamp: 10}) {
		t.Errorf("%+v", got)
	}
	if replicas, err := l.Replicas(); err != nil || len(replicas) != 0 {
		t.Errorf("replicas %v, %v", replicas, err)
	}
	mustDo(t, tl.Forget(dotsIn(a, b), 9))
	if partitions, err = l.TentativePartitions(); err != nil || !slices.Equal(partitions, []partition.ID{testPartition + 1}) {
		t.Errorf("partitions %v, %v", partitions, err)
	}
}

func TestTentativeAppendTwiceStoresOnce(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	a, b := remote("n2-bbbb", 1, 5, 10, "k", "v"), remote("n2-bbbb", 2, 5, 11, "k", "w")
	mustDo(t, tl.Append([]TentativeWrite{a, a}))
	hint := a
	hint.Hint = true // the other holder had no replica
	mustDo(t, tl.Append([]TentativeWrite{hint, b, a}))
	checkHeld(t, tl, a, b)
	tl.Settle(dotsIn(a), 8)
	mustDo(t, tl.Append([]TentativeWrite{a}))
	checkHeld(t, tl, b)

	for name, change := range map[string]func(*TentativeWrite){
		"base":      func(w *TentativeWrite) { w.Base++ },
		"timestamp": func(w *TentativeWrite) { w.Timestamp++ },
		"key":       func(w *TentativeWrite) { w.Key = []byte("l") },
		"value":     func(w *TentativeWrite) { w.Bytes = []byte("longer") },
		"kind":      func(w *TentativeWrite) { w.Delete, w.Bytes = true, nil },
	} {
		other := b
		change(&other)
		fresh := remote("n2-bbbb", 9, 5, 11, "k", "w")
		if err := tl.Append([]TentativeWrite{fresh, other}); !errors.Is(err, ErrTentativeDot) {
			t.Errorf("another %s: %v", name, err)
		}
		if err := tl.Append([]TentativeWrite{fresh, func() TentativeWrite { o := fresh; change(&o); return o }()}); !errors.Is(err, ErrTentativeDot) {
			t.Errorf("another %s in one call: %v", name, err)
		}
	}
	checkHeld(t, tl, b)
}

func TestTentativeAppendRefusesWhatNoNodeAccepts(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	good := remote("n2-bbbb", 1, 5, 10, "k", "v")
	for name, change := range map[string]func(*TentativeWrite){
		"no node":            func(w *TentativeWrite) { w.Dot.Node = "" },
		"a long node id":     func(w *TentativeWrite) { w.Dot.Node = partition.NodeID(strings.Repeat("n", 256)) },
		"no sequence number": func(w *TentativeWrite) { w.Dot.Sequence = 0 },
		"an endless base":    func(w *TentativeWrite) { w.Base = 1<<64 - 1 },
		"no key":             func(w *TentativeWrite) { w.Key = nil },
		"a long key":         func(w *TentativeWrite) { w.Key = make([]byte, MaxKeyBytes+1) },
		"a long value":       func(w *TentativeWrite) { w.Bytes = make([]byte, MaxValueBytes+1) },
		"a delete's value":   func(w *TentativeWrite) { w.Delete = true },
	} {
		bad := good
		change(&bad)
		if err := tl.Append([]TentativeWrite{good, bad}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	var many []TentativeWrite
	for n := range uint64(6) {
		many = append(many, remote("n2-bbbb", n+1, 5, 10, "k", strings.Repeat("v", MaxValueBytes)))
	}
	if err := tl.Append(many); err == nil {
		t.Error("a batch of 18 MiB was taken")
	}
	checkHeld(t, tl)
	mustDo(t, tl.Append(nil))
}

func TestTentativeCandidatesAreThoseThatMayWin(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	stale := remote("n2-bbbb", 1, 5, 90, "k", "a fast clock that has heard little")
	informed := remote("n3-cccc", 1, 20, 50, "k", "heard of index 20")
	dominated := remote("n3-cccc", 2, 10, 40, "k", "older and less informed")
	tied := remote("n2-bbbb", 2, 20, 50, "k", "the same instant at a lower node")
	other := remote("n2-bbbb", 3, 1, 1, "k2", "")
	mustDo(t, tl.Append([]TentativeWrite{dominated, stale, tied, informed, other}))
	got := tl.Candidates([]byte("k"))
	if !sameDots(got, stale, informed) {
		t.Errorf("%+v", got)
	}
	if got := tl.Newest([]byte("k")); got != 90 {
		t.Errorf("newest %d", got)
	}
	if got := tl.Candidates([]byte("nothing")); got != nil || tl.Newest([]byte("nothing")) != 0 {
		t.Errorf("%+v", got)
	}
	tl.Settle(dotsIn(stale, informed), 21)
	if got := tl.Candidates([]byte("k")); !sameDots(got, tied) {
		t.Errorf("%+v", got)
	}
	if _, err := tl.Read(stale.Dot); !errors.Is(err, ErrLogNotFound) {
		t.Error(err)
	}
	w, err := tl.Read(tied.Dot)
	if err != nil || !sameWrite(w, tied) {
		t.Errorf("%+v, %v", w, err)
	}
}

func sameDots(got []Tentative, want ...TentativeWrite) bool {
	return slices.EqualFunc(got, want, func(a Tentative, b TentativeWrite) bool { return a.Dot == b.Dot && a.Base == b.Base })
}

func TestTentativeScanIsInKeyOrder(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	var all []string
	for n := range 600 {
		key := fmt.Sprintf("k%03d", n*7%600)
		all = append(all, key)
		mustDo(t, tl.Append([]TentativeWrite{remote("n2-bbbb", uint64(n+1), 1, hlc.Timestamp(n), key, "v")}))
	}
	slices.Sort(all)
	keys := func(start, end string, limit int) (found []string) {
		var until []byte
		if end != "" {
			until = []byte(end)
		}
		for _, k := range tl.Scan([]byte(start), until, limit) {
			found = append(found, string(k.Key))
			if len(k.Candidates) != 1 {
				t.Errorf("%s has %d candidates", k.Key, len(k.Candidates))
			}
		}
		return found
	}
	for _, c := range []struct {
		start, end string
		limit      int
		want       []string
	}{
		{"", "", 1000, all},
		{"k1", "k2", 1000, all[100:200]},
		{"k100", "k100", 5, nil},
		{"k1000", "", 3, all[101:104]},
		{"l", "", 3, nil},
	} {
		if got := keys(c.start, c.end, c.limit); !slices.Equal(got, c.want) {
			t.Errorf("%q to %q: %v", c.start, c.end, got)
		}
	}
}

func TestTentativeBatchGoesOnBehindADot(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	var all []TentativeWrite
	for n := range uint64(2500) {
		all = append(all, remote([]string{"n2-bbbb", "n3-cccc"}[n%2], n+1, 1, hlc.Timestamp(n), fmt.Sprint("k", n), "0123456789"))
	}
	mustDo(t, tl.Append(all))
	slices.SortFunc(all, func(a, b TentativeWrite) int { return a.Dot.Compare(b.Dot) })
	for _, limit := range []TentativeLimit{{Count: 7, Bytes: 1 << 20}, {Count: 1000, Bytes: 100}, {Count: 1000, Bytes: 0}} {
		var got []TentativeWrite
		for after := (Dot{}); ; after = got[len(got)-1].Dot {
			batch, err := tl.Batch(after, limit)
			mustDo(t, err)
			if len(batch) == 0 {
				break
			}
			size := 0
			for _, w := range batch {
				size += len(w.Key) + len(w.Bytes)
			}
			if len(batch) > limit.Count || len(batch) > 1 && size > limit.Bytes {
				t.Fatalf("%d writes of %d bytes under %+v", len(batch), size, limit)
			}
			got = append(got, batch...)
		}
		if !slices.EqualFunc(got, all, sameWrite) {
			t.Fatalf("%+v: %d writes of %d", limit, len(got), len(all))
		}
	}
	if got, err := tl.Batch(Dot{}, TentativeLimit{Bytes: 100}); err != nil || len(got) != 0 {
		t.Errorf("no room: %d, %v", len(got), err)
	}
	has := func(d Dot) bool { return d.Sequence != 2400 && d.Sequence != 3 }
	lacks, err := tl.Missing(has, Dot{}, TentativeLimit{Count: 10, Bytes: 1000})
	if err != nil || len(lacks) != 2 || lacks[0].Dot.Sequence != 3 || lacks[1].Dot.Sequence != 2400 {
		t.Errorf("%+v, %v", lacks, err)
	}
	if held := tl.Held(has); len(held) != len(all)-2 {
		t.Errorf("%d held", len(held))
	}
	if got := tl.Summary(); got.Len() != uint64(len(all)) || !got.Has(lacks[0].Dot) || got.Has(Dot{"n2-bbbb", 7, 2}) {
		t.Errorf("summary of %d: %d dots", len(all), got.Len())
	}
	within := func(limit TentativeLimit, ranges ...DotRange) (found []uint64) {
		writes, err := tl.Within(ranges, limit)
		mustDo(t, err)
		for _, w := range writes {
			found = append(found, w.Dot.Sequence)
		}
		return found
	}
	a, b, no := DotRange{"n2-bbbb", 7, 1, 5}, DotRange{"n3-cccc", 7, 2499, 9999}, DotRange{"n2-bbbb", 8, 1, 9}
	for _, c := range []struct {
		limit TentativeLimit
		want  []uint64
	}{
		{TentativeLimit{Count: 10, Bytes: 1000}, []uint64{2500, 1, 3, 5}},
		{TentativeLimit{Count: 2, Bytes: 1000}, []uint64{2500, 1}},
		{TentativeLimit{Count: 1, Bytes: 1000}, []uint64{2500}},
		{TentativeLimit{Count: 10, Bytes: 40}, []uint64{2500, 1, 3}},
		{TentativeLimit{Count: 10, Bytes: 1}, []uint64{2500}},
	} {
		if got := within(c.limit, no, b, DotRange{}, a); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.limit, got, c.want)
		}
	}
}

func TestTentativeLogIsFullBeforeAnythingIsStored(t *testing.T) {
	fs := vfs.NewMem()
	l := openTestLog(t, fs)
	tl, beside := mustTentative(t, l, testPartition), mustTentative(t, l, testPartition+1)
	a := remote("n2-bbbb", 1, 5, 10, "k", strings.Repeat("v", 1000))
	l.LimitTentative(TentativeLimits{DiskBytes: 2 * a.cost().disk})
	mustDo(t, tl.Append([]TentativeWrite{a}))
	b, c := a, a
	b.Dot.Sequence, c.Dot.Sequence = 2, 3
	if err := beside.Append([]TentativeWrite{b, c}); !errors.Is(err, ErrTentativeFull) {
		t.Errorf("one too many: %v", err)
	}
	checkHeld(t, beside)
	mustDo(t, beside.Room(1, 1000))
	mustDo(t, beside.Append([]TentativeWrite{b}))
	if err := errors.Join(beside.Append([]TentativeWrite{c})); !errors.Is(err, ErrTentativeFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := tl.Room(1, 0); !errors.Is(err, ErrTentativeFull) {
		t.Errorf("room: %v", err)
	}
	mustDo(t, tl.Append([]TentativeWrite{a})) // held already: needs no room
	mustDo(t, l.Close())

	// The limit is on what is held, whoever has written it.
	l = openTestLog(t, fs)
	defer func() { mustDo(t, l.Close()) }()
	tl, beside = mustTentative(t, l, testPartition), mustTentative(t, l, testPartition+1)
	l.LimitTentative(TentativeLimits{DiskBytes: 2 * a.cost().disk})
	if use := l.TentativeUse(); use.DiskBytes != use.Limits.DiskBytes {
		t.Errorf("%+v", use)
	}
	tl.Settle(dotsIn(a), 8)
	if err := beside.Append([]TentativeWrite{c}); !errors.Is(err, ErrTentativeFull) {
		t.Errorf("settled but on disk: %v", err)
	}
	mustDo(t, tl.EraseSettled(8))
	mustDo(t, beside.Append([]TentativeWrite{c}))
	mustDo(t, beside.Forget(dotsIn(b, c), 9))
	if use := l.TentativeUse(); use.DiskBytes != 0 || use.MemoryBytes != 0 {
		t.Errorf("%+v", use)
	}
	l.LimitTentative(TentativeLimits{MemoryBytes: tentativeItemBytes + 1})
	mustDo(t, tl.Append([]TentativeWrite{b}))
	if err := tl.Append([]TentativeWrite{c}); !errors.Is(err, ErrTentativeFull) {
		t.Errorf("index full: %v", err)
	}
}

func TestTentativeDotsAreNotGivenTwice(t *testing.T) {
	fs := vfs.NewMem()
	seen := map[Dot]bool{}
	for range 5 {
		l := openTestLog(t, fs)
		tl := mustTentative(t, l, testPartition)
		for n := range uint64(3) {
			d := tl.NextDot(0)
			if d.Dot.Node != "n1-aaaa" || d.Dot.Sequence != n+1 || d.Dot.Incarnation == 0 {
				t.Errorf("%+v", d)
			}
			if seen[d.Dot] {
				t.Fatalf("%v was given twice", d.Dot)
			}
			seen[d.Dot] = true
			d.Done()
		}
		mustDo(t, l.Close())
	}
}

// A dot that is given back goes to another write; a draft ends once, also if its
// dot has gone on.
func TestTentativeDotsAreGivenBack(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	drafts := []Draft{tl.NextDot(10), tl.NextDot(20), tl.NextDot(30)}
	drafts[1].GiveBack()
	drafts[1].GiveBack()
	drafts[2].Done()
	drafts[2].GiveBack() // too late: it is in use
	next, last := tl.NextDot(40), tl.NextDot(40)
	if next.Dot != drafts[1].Dot || last.Dot.Sequence != 4 {
		t.Errorf("%v was given back; then came %v and %v", drafts[1].Dot, next.Dot, last.Dot)
	}
	drafts[0].Done()
	drafts[1].Done() // must not end next
	drafts[1].GiveBack()
	tl.Hear(50)
	if base, err := tl.UndecidedBase(); err != nil || base != 40 {
		t.Errorf("base %d, %v; want 40, which two drafts have", base, err)
	}
	if d := tl.NextDot(0); d.Dot.Sequence != 5 {
		t.Errorf("%v was given twice", d.Dot)
	}
}

func TestTentativeUndecidedBase(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	report := func(want uint64) {
		t.Helper()
		if got, err := tl.UndecidedBase(); err != nil || got != want {
			t.Fatalf("reported %d, %v; want %d", got, err, want)
		}
	}
	report(0)
	tl.Hear(40)
	report(40)
	draft := tl.NextDot(0)
	tl.Hear(50)
	report(40) // not stored yet, but on its way
	w := TentativeWrite{Tentative: Tentative{Dot: draft.Dot, Base: draft.Base, Timestamp: 1, Key: []byte("k")}}
	mustDo(t, tl.Append([]TentativeWrite{w}))
	draft.Done()
	draft.Done()
	report(40)
	session := tl.NextDot(60) // a token that has heard of more
	if session.Base != 60 || tl.Heard() != 60 {
		t.Errorf("base %d, heard %d", session.Base, tl.Heard())
	}
	session.Done()
	low := remote("n2-bbbb", 1, 30, 5, "k", "v")
	mustDo(t, tl.Append([]TentativeWrite{low}))
	report(30)
	tl.Settle(dotsIn(low, w), 61)
	report(60)
	tl.Hear(70)
	report(70)
	// What was reported binds after a power cut, too.
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	mustDo(t, l.Close())
	l = openTestLog(t, crashed)
	defer func() { mustDo(t, l.Close()) }()
	if d := mustTentative(t, l, testPartition).NextDot(0); d.Base < 70 {
		t.Errorf("base %d after 70 was reported", d.Base)
	}
}

func TestTentativeHeardSurvivesCloseAndAcceptedWrites(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	tl.Hear(40)
	mustDo(t, tl.Append([]TentativeWrite{remote("n2-bbbb", 1, 45, 5, "k", "v")}))
	mustDo(t, tl.Forget([]Dot{{"n2-bbbb", 7, 1}}, 46))
	crashed := openTestLog(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	if got := mustTentative(t, crashed, testPartition).Heard(); got != 45 {
		t.Errorf("heard %d after a crash", got)
	}
	mustDo(t, crashed.Close())
	tl.Hear(50)
	mustDo(t, l.Close())
	l = openTestLog(t, fs)
	if got := mustTentative(t, l, testPartition).Heard(); got != 50 {
		t.Errorf("heard %d after a close", got)
	}
	mustDo(t, l.Close())
}

// Who knows what became of a write has heard of the entry that decided it, also after
// a crash: a write that is accepted then is not based on less.
func TestTentativeFateFloorIsHeardOf(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	mustDo(t, tl.Append([]TentativeWrite{remote("n2-bbbb", 1, 45, 5, "k", "v"), remote("n2-bbbb", 2, 45, 6, "l", "w")}))
	mustDo(t, tl.Forget([]Dot{{"n2-bbbb", 7, 1}}, 157))
	if got := tl.Heard(); got != 157 {
		t.Errorf("heard %d", got)
	}
	mustDo(t, tl.Append([]TentativeWrite{remote("n2-bbbb", 3, 45, 7, "m", "x")})) // which makes both durable
	crashed := openTestLog(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	tl = mustTentative(t, crashed, testPartition)
	if floor, heard := tl.FateFloor(), tl.Heard(); floor != 157 || heard != 157 {
		t.Errorf("after a crash: heard %d, and the fate floor is %d", heard, floor)
	}
	mustDo(t, crashed.Close())
	mustDo(t, l.Close())
}

func TestTentativeFateFloorNeverFalls(t *testing.T) {
	fs := vfs.NewMem()
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	var all []TentativeWrite
	for n := range uint64(64) {
		all = append(all, remote("n2-bbbb", n+1, 5, 10, "k", "v"))
	}
	mustDo(t, tl.Append(all))
	mustDo(t, tl.Forget([]Dot{{"unknown", 1, 1}}, 1000))
	if got := tl.FateFloor(); got != 0 {
		t.Errorf("floor %d without anything forgotten", got)
	}
	// Told in any order, and at a time.
	var told sync.WaitGroup
	for n, w := range all {
		told.Go(func() {
			if err := tl.Forget(dotsIn(w), uint64(100+n*37%64)); err != nil {
				t.Error(err)
			}
		})
	}
	told.Wait()
	checkHeld(t, tl)
	mustDo(t, l.Close())
	l = openTestLog(t, fs)
	defer func() { mustDo(t, l.Close()) }()
	if got := mustTentative(t, l, testPartition).FateFloor(); got != 163 {
		t.Errorf("floor %d", got)
	}
}

// TestTentativeHandOver: what a replica has settled is in its state only, and
// when that goes, in states that have applied as much.
func TestTentativeHandOver(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	defer func() { mustDo(t, l.Close()) }()
	tl := mustTentative(t, l, testPartition)
	a, b := remote("n2-bbbb", 1, 5, 10, "k", "v"), remote("n2-bbbb", 2, 5, 11, "k", "w")
	mustDo(t, tl.Append([]TentativeWrite{a, b}))
	tl.Settle(dotsIn(a), 30)
	mustDo(t, tl.EraseSettled(29))
	if got := tl.Backlog(); got.Settled != 1 || got.Count != 1 {
		t.Errorf("%+v", got)
	}
	mustDo(t, tl.HandOver(25))
	if got := tl.FateFloor(); got != 30 {
		t.Errorf("floor %d", got)
	}
	checkHeld(t, tl, b)
}

// TestTentativeHandOverIsDurable: also where it finds nothing to do, but what
// it relies on was written without a sync.
func TestTentativeHandOverIsDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestLog(t, fs)
	tl := mustTentative(t, l, testPartition)
	a := remote("n2-bbbb", 1, 5, 10, "k", "v")
	mustDo(t, tl.Append([]TentativeWrite{a}))
	mustDo(t, tl.Forget(dotsIn(a), 30))
	mustDo(t, tl.HandOver(25))
	crashed := openTestLog(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	tl = mustTentative(t, crashed, testPartition)
	if got := tl.FateFloor(); got != 30 {
		t.Errorf("floor %d", got)
	}
	checkHeld(t, tl)
	mustDo(t, errors.Join(crashed.Close(), l.Close()))
}

func TestTentativeNewerFormatAndCorruption(t *testing.T) {
	d := Dot{"n2-bbbb", 7, 1}
	good := remote("n2-bbbb", 1, 5, 10, "k", "v")
	record := recordOf(good)
	for name, c := range map[string]struct {
		key, value []byte
		want       error
	}{
		"newer write": {tentativeDotKey(3, tentativeKindWrite, d), append([]byte{2}, record[1:]...), ErrLogNewerFormat},
		"newer heard": {tentativeKey(3, tentativeKindHeard, 0), []byte{2}, ErrLogNewerFormat},
		"newer saved": {tentativeKey(3, tentativeKindSaved, 0), []byte{2}, ErrLogNewerFormat},
		"odd saved":   {tentativeKey(3, tentativeKindSaved, 0), []byte{1, 0, 0, 0, 0, 0, 0, 0, 9, 2}, ErrLogCorrupt},
		"short write": {tentativeDotKey(3, tentativeKindWrite, d), record[:9], ErrLogCorrupt},
		"short floor": {tentativeKey(3, tentativeKindFate, 0), []byte{1, 2}, ErrLogCorrupt},
		"unknown key": {tentativeKey(3, 9, 0), nil, ErrLogCorrupt},
		"short dot":   {tentativeDotKey(3, tentativeKindWrite, d)[:12], record, ErrLogCorrupt},
	} {
		l := openTestLog(t, vfs.NewMem())
		mustDo(t, l.db.Set(c.key, c.value, nil))
		if _, err := l.Tentative(1); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		mustDo(t, l.Close())
	}
	l := openTestLog(t, vfs.NewMem())
	tl := mustTentative(t, l, testPartition)
	mustDo(t, tl.Append([]TentativeWrite{good}))
	mustDo(t, l.db.Set(tentativeDotKey(testPartition, tentativeKindValue, d), []byte{1, 'v', 'v'}, nil))
	if _, err := tl.Read(d); !errors.Is(err, ErrLogCorrupt) {
		t.Errorf("a longer value: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrLogCorrupt) {
		t.Errorf("the database has not failed: %v", err)
	}
}

func TestTentativeAfterClose(t *testing.T) {
	l := openTestLog(t, vfs.NewMem())
	tl := mustTentative(t, l, testPartition)
	w := remote("n2-bbbb", 1, 5, 10, "k", "v")
	mustDo(t, tl.Append([]TentativeWrite{w}))
	mustDo(t, l.Close())
	_, readErr := tl.Read(w.Dot)
	_, batchErr := tl.Batch(Dot{}, TentativeLimit{1, 1})
	_, baseErr := tl.UndecidedBase()
	_, openErr := l.Tentative(1)
	for name, err := range map[string]error{
		"append": tl.Append([]TentativeWrite{w}), "forget": tl.Forget(dotsIn(w), 9), "erase": tl.EraseSettled(9), "hand over": tl.HandOver(9),
		"read": readErr, "batch": batchErr, "base": baseErr, "open": openErr,
	} {
		if !errors.Is(err, ErrLogClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func recordOf(w TentativeWrite) []byte {
	b := make([]byte, tentativeWriteHeader+len(w.Key))
	v := w.version()
	v.encodeInto(b, w.Key)
	return b
}

func FuzzTentativeRecords(f *testing.F) {
	for _, w := range []TentativeWrite{remote("n2-bbbb", 1, 5, 10, "k", "v"), {Tentative: Tentative{Delete: true, Key: []byte("key")}, Hint: true}} {
		f.Add(recordOf(w), tentativeDotKey(7, tentativeKindWrite, Dot{"n1", 2, 3}))
	}
	f.Add(encodeTentativeIndex(9), tentativeKey(1, tentativeKindHeard, 0))
	f.Add([]byte{2}, []byte{logSpaceTentative})
	f.Add([]byte{1, 'v'}, tentativeDotKey(7, tentativeKindValue, Dot{"n1", 2, 3}))
	f.Fuzz(func(t *testing.T, record, key []byte) {
		typed := func(err error) {
			if !errors.Is(err, ErrLogCorrupt) && !errors.Is(err, ErrLogNewerFormat) {
				t.Fatalf("untyped: %v", err)
			}
		}
		if v, key, err := decodeTentativeWrite(Dot{"n1", 1, 1}, record); err != nil {
			typed(err)
		} else {
			again := make([]byte, tentativeWriteHeader+len(key))
			if v.encodeInto(again, key); !bytes.Equal(again, record) {
				t.Fatalf("%x decodes and encodes to %x", record, again)
			}
		}
		if index, err := decodeTentativeIndex(record); err != nil {
			typed(err)
		} else if again := encodeTentativeIndex(index); !bytes.Equal(again, record) {
			t.Fatalf("%x decodes and encodes to %x", record, again)
		}
		if value, err := decodeTentativeValue(len(record)-1, record); err != nil {
			typed(err)
		} else if !bytes.Equal(value, record[1:]) {
			t.Fatalf("value %x of %x", value, record)
		}
		p, kind, d, err := parseTentativeKey(key, nil)
		if err != nil {
			typed(err)
			return
		}
		again := tentativeKey(p, kind, 0)
		if d != (Dot{}) {
			again = tentativeDotKey(p, kind, d)
		}
		if !bytes.Equal(again, key) {
			t.Fatalf("key %x parses and encodes to %x", key, again)
		}
	})
}
