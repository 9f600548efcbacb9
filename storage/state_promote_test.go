package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// logged is an entry of commands of any kind.
func logged(t fataler, index uint64, commands ...any) ApplyEntry {
	t.Helper()
	e := ApplyEntry{Index: index, Term: 1}
	for _, c := range commands {
		e.Commands = append(e.Commands, encodeAny(t, c))
	}
	return e
}

// setLimits has commands that are encoded from now on, in this test, bring along
// other limits.
func setLimits(t testing.TB, change func(*ledgerLimits)) {
	t.Helper()
	old := limits
	change(&limits)
	t.Cleanup(func() { limits = old })
}

func setCollect(t testing.TB, most uint64) {
	t.Helper()
	old := collectLimit
	collectLimit = most
	t.Cleanup(func() { collectLimit = old })
}

func promotionOf(writes ...Tentative) Promotion { return Promotion{Writes: writes} }

// take applies entries in one call.
func take(t fataler, r *ReplicaState, entries ...ApplyEntry) [][]CommandResult {
	t.Helper()
	results, err := r.Apply(entries)
	ok(t, err)
	return results
}

func (t Tentative) of(key string) Tentative { t.Key = []byte(key); return t }

func conflictsOf(t fataler, r *ReplicaState) []Conflict {
	t.Helper()
	page, next, err := r.Conflicts(nil, nil, 0)
	ok(t, err)
	if next != nil {
		t.Fatalf("more than a page of conflicts")
	}
	return page
}

func TestOrdinaryCommandsAndPromotionsOfOneBatchSeeEachOther(t *testing.T) {
	r := openReplica(t)
	stale, informed, late := eventual("n2-bbbb", 1, 0, 10, "stale"), eventual("n2-bbbb", 2, 6, 3, "informed"), eventual("n3-cccc", 1, 6, 4, "late")
	results := take(t, r,
		logged(t, 5, put("k", "1").when(ConditionAbsent), Promotion{Writes: []Tentative{stale}, Now: 77}),
		logged(t, 6, put("k", "2").ifVersion(Version{5, 7, "n1-abcd"})),
		logged(t, 7, promotionOf(informed), put("k", "no").when(ConditionAbsent), promotionOf(late)),
		logged(t, 8, put("k", "3").ifVersion(Version{7, 4, "n3-cccc"})),
	)
	lin := func(index uint64) Version { return Version{index, 7, "n1-abcd"} }
	current := informed.Version(7)
	for i, want := range [][]CommandResult{
		{{Version: lin(5)}, {Promoted: &PromotionResult{5, []FateOf{{stale.Dot, Fate{FateSuperseded, lin(5), 5}}}}}},
		{{Version: lin(6), Existed: true}},
		{
			{Promoted: &PromotionResult{7, []FateOf{{informed.Dot, Fate{FateCommitted, informed.Version(7), 7}}}}},
			{Existed: true, ConditionFailed: true, Current: &current},
			{Promoted: &PromotionResult{7, []FateOf{{late.Dot, Fate{FateCommitted, late.Version(7), 7}}}}},
		},
		{{Version: lin(8), Existed: true}},
	} {
		if !slices.EqualFunc(results[i], want, samePromotion) {
			t.Errorf("entry %d: %+v, want %+v", i+5, results[i], want)
		}
	}
	want := []Conflict{
		{Key: []byte("k"), Value: []byte("stale"), Losing: stale.Version(0), Winning: lin(5), Time: 77, Cause: CauseStaleBase},
		{Key: []byte("k"), Value: []byte("informed"), Losing: informed.Version(7), Winning: late.Version(7), Cause: CauseOlder, Base: 6},
	}
	if got := conflictsOf(t, r); !slices.EqualFunc(got, want, sameConflict) {
		t.Errorf("conflicts %+v, want %+v", got, want)
	}
	if got := r.ConflictTotals(); got != (ConflictTotals{StaleBase: 1, Older: 1}) {
		t.Errorf("totals %+v", got)
	}
	v, _, err := r.Get([]byte("k"))
	ok(t, err)
	if string(v.Bytes) != "3" || !v.Linearizable || !v.Dot.IsZero() {
		t.Errorf("k holds %+v", v)
	}
}

// A linearizable write, an eventual one that has heard of it, and then a stale
// one from a node that was cut off, with the highest timestamp; then the same
// with a delete whose tombstone was collected.
func TestAStaleWriteLosesThroughApply(t *testing.T) {
	r := openReplica(t)
	stale := eventual("n3-cccc", 1, 0, 99, "stale")
	take(t, r, logged(t, 1, put("k", "lin")), logged(t, 2, promotionOf(eventual("n1-aaaa", 1, 1, 10, "informed"))), logged(t, 3, promotionOf(stale)))
	if got, _ := live(t, r, "k"); got != "informed" {
		t.Errorf("k is %q", got)
	}
	// It lost to what it had not heard of, which is not what the key holds now.
	lost := Version{1, put("k", "lin").Timestamp, put("k", "lin").Node}
	if f, err := r.Fate(stale.Dot); err != nil || f != (Fate{FateSuperseded, lost, 3}) {
		t.Errorf("fate %+v, %v; want %v", f, err, lost)
	}
	if got := conflictsOf(t, r); len(got) != 1 || got[0].Winning != lost || got[0].Cause != CauseStaleBase {
		t.Errorf("conflicts %+v", got)
	}
	// Also through two of them, and from what a snapshot has brought.
	take(t, r, logged(t, 4, promotionOf(eventual("n1-aaaa", 2, 1, 11, "again"))))
	to := openReplica(t)
	ok(t, install(to, bytes.NewReader(streamOf(t, r))))
	take(t, to, logged(t, 5, promotionOf(eventual("n3-cccc", 2, 0, 99, "stale too"))))
	if got := conflictsOf(t, to); len(got) != 2 || got[1].Winning != lost {
		t.Errorf("conflicts %+v", got)
	}
	// Below the floor nobody can tell what it had not heard of, whatever the key holds.
	take(t, to, logged(t, 6, put("other", "x"), uint64(4)), logged(t, 7, promotionOf(eventual("n3-cccc", 3, 2, 99, "late"))))
	if got := conflictsOf(t, to); len(got) != 3 || !got[2].Winning.IsZero() || got[2].Cause != CauseStaleBase {
		t.Errorf("conflicts %+v", got)
	}

	r = openReplica(t)
	take(t, r, logged(t, 1, del("k")), logged(t, 2, uint64(1)))
	if v, found, err := r.Get([]byte("k")); err != nil || found {
		t.Fatalf("the tombstone is there: %+v, %v", v, err)
	}
	results := take(t, r, logged(t, 3, promotionOf(stale)))
	if got := results[0][0].Promoted.Fates[0].Fate; got != (Fate{FateSuperseded, Version{}, 3}) {
		t.Errorf("fate %+v", got)
	}
	if f, err := r.Fate(stale.Dot); err != nil || f != (Fate{FateSuperseded, Version{}, 3}) {
		t.Errorf("fate %+v, %v", f, err)
	}
	if got := conflictsOf(t, r); len(got) != 1 || !got[0].Winning.IsZero() || string(got[0].Value) != "stale" {
		t.Errorf("conflicts %+v", got)
	}
	take(t, r, logged(t, 4, promotionOf(eventual("n1-aaaa", 1, 3, 1, "anew"))), logged(t, 5, promotionOf(stale)))
	if got, _ := live(t, r, "k"); got != "anew" {
		t.Errorf("k is %q", got)
	}
}

// However often a write is handed in, and by whomever, it is decided once.
func TestPromotionIsExactlyOnce(t *testing.T) {
	mem := vfs.NewMem()
	s := openState(t, mem)
	r := replicaOf(t, s, stateReplica)
	first, second := eventual("n2-bbbb", 1, 0, 10, "first"), eventual("n1-aaaa", 1, 1, 11, "second")
	older := eventual("n3-cccc", 1, 0, 9, "older")
	fates := func(results []CommandResult) (all []FateOf) {
		for _, c := range results {
			all = append(all, c.Promoted.Fates...)
		}
		return all
	}
	want := []FateOf{
		{first.Dot, Fate{FateCommitted, first.Version(1), 1}},
		{older.Dot, Fate{FateSuperseded, first.Version(1), 1}},
		{second.Dot, Fate{FateCommitted, second.Version(2), 2}},
	}
	if got := fates(take(t, r, logged(t, 1, promotionOf(first, first, older)))[0]); !slices.Equal(got, []FateOf{want[0], want[0], want[1]}) {
		t.Fatalf("%+v", got)
	}
	got := take(t, r, logged(t, 2, promotionOf(second), promotionOf(first)), logged(t, 3, promotionOf(second)))
	if all := append(fates(got[0]), fates(got[1])...); !slices.Equal(all, []FateOf{want[2], want[0], want[2]}) {
		t.Fatalf("%+v", all)
	}
	for range 2 {
		at, _ := r.Applied()
		if got := fates(take(t, r, logged(t, at+1, promotionOf(first, older, second)))[0]); !slices.Equal(got, want) {
			t.Fatalf("%+v", got)
		}
		v, _, err := r.Get([]byte("k"))
		ok(t, err)
		if v.Version.Index != 2 || v.Dot != second.Dot {
			t.Fatalf("k holds %+v", v)
		}
		// The second has heard of the first: only the older one was lost.
		if got := conflictsOf(t, r); len(got) != 1 || string(got[0].Value) != "older" {
			t.Fatalf("conflicts %+v", got)
		}
		ok(t, s.Close())
		s = openState(t, mem)
		r = replicaOf(t, s, stateReplica)
	}
	ok(t, s.Close())
}

// What keys hold does not depend on the order in which others hand writes in.
func TestTheOrderOfPromotionDoesNotMatter(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 4))
		var writes []Tentative
		for i := range 40 {
			// The nodes have heard of index 2 at most: of none, one or both of the
			// linearizable entries.
			w := eventual(nodeIDs[i%3], uint64(i+1), random.Uint64N(3), hlc.Timestamp(random.IntN(30)), fmt.Sprint(i)).of(fmt.Sprint("k", random.IntN(6)))
			if w.Delete = random.IntN(4) == 0; w.Delete {
				w.Bytes = nil
			}
			writes = append(writes, w)
		}
		var first string
		for range 4 {
			r := openReplica(t)
			take(t, r, logged(t, 1, put("k1", "a"), del("k2")), logged(t, 2, put("k3", "b"), del("k4")))
			random.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
			index := uint64(2)
			for batch := range slices.Chunk(writes, 1+random.IntN(9)) {
				index++
				take(t, r, logged(t, index, promotionOf(batch...)))
			}
			var b strings.Builder
			for i := range 6 {
				v, found, err := r.Get(fmt.Append(nil, "k", i))
				ok(t, err)
				fmt.Fprintln(&b, found, v.Linearizable, v.Dot, v.Version.Timestamp, v.Tombstone, v.LinearizableIndex, string(v.Bytes))
			}
			if first == "" {
				first = b.String()
			}
			if b.String() != first {
				t.Fatalf("seed %d: one order gives\n%s, another\n%s", seed, first, b.String())
			}
			listed := map[Version]bool{}
			for _, c := range conflictsOf(t, r) {
				c.Losing.Index = 0
				listed[c.Losing] = true
			}
			for _, w := range writes { // superseded means listed
				if f, err := r.Fate(w.Dot); err != nil || !f.Decided() || f.Kind == FateSuperseded && !listed[w.Version(0)] {
					t.Fatalf("seed %d: fate of %v is %+v (%v), of %v", seed, w.Dot, f, err, listed)
				}
			}
		}
	}
}

func TestFatesExpire(t *testing.T) {
	r := openReplica(t)
	setLimits(t, func(l *ledgerLimits) { l.fates = 10 })
	write := func(n uint64) Tentative { return eventual("n1-aaaa", n, n-1, hlc.Timestamp(n), "v") }
	for n := uint64(1); n <= 25; n++ {
		take(t, r, logged(t, n, promotionOf(write(n))))
	}
	for n := uint64(1); n <= 26; n++ {
		f, err := r.Fate(write(n).Dot)
		ok(t, err)
		at, decided := r.DecidedAt(write(n).Dot)
		switch {
		case n <= 15:
			if f != (Fate{Kind: FateExpired}) || at != 25 || !decided {
				t.Errorf("%d: %+v, decided at %d", n, f, at)
			}
		case n <= 25:
			if f.Kind != FateCommitted || f.Index != n || at != n || !decided {
				t.Errorf("%d: %+v, decided at %d", n, f, at)
			}
		default:
			if f != (Fate{Kind: FatePending}) || decided {
				t.Errorf("%d: %+v", n, f)
			}
		}
	}
	again := take(t, r, logged(t, 26, promotionOf(write(3), write(20))))[0][0].Promoted.Fates
	if again[0].Fate.Kind != FateExpired || again[1].Fate.Index != 20 {
		t.Errorf("handed in again: %+v", again)
	}
	if _, err := r.Fate(Dot{}); err == nil {
		t.Error("no dot has a fate")
	}
}

// The bounds of the conflict list: count, bytes and age; what is dropped is the
// oldest, and counted.
func TestTheConflictListIsBounded(t *testing.T) {
	const day = 24 * time.Hour
	r := openReplica(t)
	take(t, r, logged(t, 1, put("k", "lin")))
	index, sequence, clock := uint64(1), uint64(0), hlc.Timestamp(1<<50)
	lose := func(lived time.Duration, valueBytes int) {
		t.Helper()
		index, sequence = index+1, sequence+1
		take(t, r, logged(t, index, Promotion{Writes: []Tentative{eventual("n1-aaaa", sequence, 0, 1, strings.Repeat("v", valueBytes))}, Now: clock, Lived: lived}))
	}
	is := func(listed, dropped uint64, oldest int) {
		t.Helper()
		page := conflictsOf(t, r)
		gotListed, gotDropped := r.ConflictCounts()
		if gotListed != listed || gotDropped != dropped || len(page) != int(listed) || len(page[0].Value) != oldest {
			t.Fatalf("%d listed, %d dropped, page of %d; want %d, %d, from %d", gotListed, gotDropped, len(page), listed, dropped, oldest)
		}
	}
	setLimits(t, func(l *ledgerLimits) { l.conflicts = 3 })
	for i := range 5 {
		lose(day, i+1)
	}
	is(3, 2, 3)
	setLimits(t, func(l *ledgerLimits) { l.conflictBytes = 1000 })
	lose(day, 500)
	is(3, 3, 4)
	lose(day, 500) // 500 and 500 do not fit with what each takes beside
	is(1, 6, 500)
	setLimits(t, func(l *ledgerLimits) { l.conflictBytes = MaxConflictBytes })
	lose(3*day, 7)
	lose(8*day, 8)
	is(3, 6, 500)
	lose(8*day+time.Millisecond, 9)
	is(3, 7, 7)
	lose(20*day, 10)
	is(1, 10, 10)

	// A leader's clock that jumps ages nothing, be it forward or back; nor does a
	// leader that knows of less time than the one before it.
	setLimits(t, func(l *ledgerLimits) { *l = standard })
	for range 2 {
		lose(20*day, 11)
	}
	for _, jump := range []int64{30 * 86_400_000 << 16, -60 * 86_400_000 << 16, 0} {
		clock += hlc.Timestamp(jump)
		lose(day, 12)
	}
	is(6, 10, 10)

	// One command drops a bounded number, however much is too old, or too much.
	setLimits(t, func(l *ledgerLimits) { l.conflictDrops = 2 })
	lose(40*day, 13)
	is(5, 12, 11)
	setLimits(t, func(l *ledgerLimits) { l.conflicts = 1 })
	lose(40*day, 14)
	is(4, 14, 12)
	lose(40*day, 15)
	is(3, 16, 13)
}

// standard are the limits of this release.
var standard = limits

// A command does what its leader's release has it do: replicas of releases with
// other constants, which apply one log, go on holding the same byte for byte.
func TestReplicasOfTwoReleasesAgree(t *testing.T) {
	log := randomLog(t, rand.New(rand.NewPCG(1, 2)), 60)
	last := log[len(log)-1].Index
	setLimits(t, func(l *ledgerLimits) {
		l.fates, l.conflicts, l.conflictAge, l.conflictDrops, l.dotSpans = 9, 4, time.Hour, 1, 3
	})
	setCollect(t, 1)
	for _, e := range randomLog(t, rand.New(rand.NewPCG(3, 4)), 60) { // a leader of the other release
		e.Index += last
		log = append(log, e)
	}
	last = log[len(log)-1].Index
	setLimits(t, func(l *ledgerLimits) { *l = formerLimits })
	for i := range uint64(5) { // a log that the former release left
		log = append(log, logged(t, last+1+i, Promotion{Writes: []Tentative{eventual("n1-aaaa", 900+i, 1, 1, "v")}, Now: hlc.Timestamp(i) << 50}))
	}
	setLimits(t, func(l *ledgerLimits) { *l = standard })
	setCollect(t, MaxCollected)
	one, other := openReplica(t), openReplica(t)
	take(t, one, log...)
	for i, e := range log { // its constants change while it applies
		setLimits(t, func(l *ledgerLimits) { l.fates, l.conflicts, l.conflictBytes, l.dotSpans = uint64(i), 2, 300, 2 })
		setCollect(t, uint64(i%3))
		take(t, other, e)
	}
	if dump(t, one) != dump(t, other) {
		t.Error("the replicas hold different records")
	}
	if listed, dropped := one.ConflictCounts(); listed == 0 || dropped == 0 {
		t.Errorf("%d conflicts are listed and %d dropped: the test shows nothing", listed, dropped)
	}
}

// What former releases wrote is read, and taken up again as they would have: an old
// log that two replicas have applied unequally far leads to the same records.
func TestFormerRecordsStay(t *testing.T) {
	r := openReplica(t)
	setLimits(t, func(l *ledgerLimits) { *l = formerLimits })
	day := hlc.Timestamp(86_400_000 << 16)
	stale := func(n uint64, now hlc.Timestamp) ApplyEntry {
		return logged(t, n+1, Promotion{Writes: []Tentative{eventual("n1-aaaa", n, 0, 1, "v")}, Now: now})
	}
	take(t, r, logged(t, 1, put("k", "lin")), stale(1, day), stale(2, 2*day))
	for key, want := range map[string]int{string([]byte{kindLedger}): 1 + 9*8, string(conflictPlaceKey(0)): 1 + 8 + 4 + len("k")} {
		record, err := r.storedRecord([]byte(key))
		ok(t, err)
		if len(record) != want || record[0] != ledgerFormat {
			t.Errorf("record %x is %x: a former release would have written another", key, record)
		}
	}
	take(t, r, stale(3, 9*day)) // by the clock, as ever: the first one goes
	if listed, dropped := r.ConflictCounts(); listed != 2 || dropped != 1 {
		t.Errorf("%d listed, %d dropped", listed, dropped)
	}
	// From now on they age as time is lived through: those of before from 0.
	setLimits(t, func(l *ledgerLimits) { *l = standard })
	lived := func(n uint64, lived time.Duration) {
		take(t, r, logged(t, n+1, Promotion{Writes: []Tentative{eventual("n1-aaaa", n, 0, 1, "v")}, Now: 99 * day, Lived: lived}))
	}
	lived(4, time.Hour)
	lived(5, MaxConflictAge)
	if listed, dropped := r.ConflictCounts(); listed != 4 || dropped != 1 {
		t.Errorf("%d listed, %d dropped", listed, dropped)
	}
	lived(6, MaxConflictAge+time.Second)
	if listed, dropped := r.ConflictCounts(); listed != 3 || dropped != 3 {
		t.Errorf("%d listed, %d dropped", listed, dropped)
	}
}

func TestConflictsComeInPages(t *testing.T) {
	r := openReplica(t)
	big := strings.Repeat("b", maxScanPageBytes/2+1)
	take(t, r, logged(t, 1, put("a", "lin"), put("b", "lin")))
	for i := range uint64(5) {
		take(t, r, logged(t, 2+i, promotionOf(eventual("n1-aaaa", 2*i+1, 0, 1, big).of("a")), promotionOf(eventual("n1-aaaa", 2*i+2, 0, 1, fmt.Sprint(i)).of("b"))))
	}
	var got []Conflict
	pages := 0
	for cursor, more := []byte(nil), true; more; more = cursor != nil {
		page, next, err := r.Conflicts(nil, cursor, 0)
		ok(t, err)
		got, cursor = append(got, page...), next
		pages++
	}
	if len(got) != 10 || pages < 3 || string(got[4].Key) != "a" || string(got[5].Value) != "0" || string(got[9].Value) != "4" {
		t.Errorf("%d conflicts on %d pages", len(got), pages)
	}
	for _, bad := range [][]byte{make([]byte, maxConflictKeyBytes+1)} {
		if _, _, err := r.Conflicts(nil, bad, 0); err == nil {
			t.Error("a cursor too long was taken")
		}
	}
	if _, _, err := r.Conflicts(nil, nil, -1); err == nil {
		t.Error("a negative limit was taken")
	}
	for _, cursor := range []string{"\x00", "\xff\xff", "b\x00\x01", "b\x00\x02", "zz"} { // not ours: any page, no error
		if _, _, err := r.Conflicts([]byte("b"), []byte(cursor), 1); err != nil {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}

func TestAFloorCollectsTombstonesBehindIt(t *testing.T) {
	r := openReplica(t)
	setCollect(t, 3)
	gone := eventual("n1-aaaa", 1, 1, 1, "").of("eventual")
	gone.Delete, gone.Bytes = true, nil
	take(t, r,
		logged(t, 1, del("a"), del("b"), put("c", "live")),
		logged(t, 2, promotionOf(gone), del("d"), del("again")),
		logged(t, 3, put("b", "anew"), del("again")),
		logged(t, 4, del("e")),
	)
	there := func(keys string) {
		t.Helper()
		var found []string
		for _, key := range []string{"a", "again", "b", "c", "d", "e", "eventual"} {
			if _, is, err := r.Get([]byte(key)); err != nil || is {
				found = append(found, key)
			}
		}
		if got := strings.Join(found, " "); got != keys {
			t.Fatalf("there are %q, want %q", got, keys)
		}
	}
	there("a again b c d e eventual")
	if r.Collectable(0) || !r.Collectable(1) {
		t.Error("collectable before the first floor")
	}
	// The entry's own delete is never behind the floor, whatever it says; nor is
	// what the next entry of the batch deletes.
	take(t, r, logged(t, 5, del("e"), uint64(1<<60)), logged(t, 6, del("c")))
	there("again b c d e eventual") // a, the place of b, and that of again at 2
	if r.Floor() != 4 || !r.Collectable(0) {
		t.Errorf("floor %d", r.Floor())
	}
	take(t, r, logged(t, 7, uint64(2)), logged(t, 8, put("again", "x").when(ConditionAbsent), uint64(2)))
	there("again b c e")
	if v, _, err := r.Get([]byte("again")); err != nil || string(v.Bytes) != "x" || v.LinearizableIndex != 8 {
		t.Errorf("%+v, %v", v, err)
	}
	if r.Collectable(0) || r.Collectable(4) || !r.Collectable(5) || r.Floor() != 4 {
		t.Errorf("floor %d", r.Floor())
	}
	take(t, r, logged(t, 9, uint64(8)))
	there("again b")
}

func TestForfeitedWritesAreLost(t *testing.T) {
	r := openReplica(t)
	before, after := eventual("n3-cccc", 1, 0, 5, "before"), eventual("n3-cccc", 2, 0, 99, "after")
	take(t, r, logged(t, 1, promotionOf(before)), logged(t, 2, partition.NodeID("n3-cccc")), logged(t, 3, partition.NodeID("n3-cccc")))
	fates := take(t, r, logged(t, 4, promotionOf(after, before)))[0][0].Promoted.Fates
	if fates[0].Fate != (Fate{Kind: FateLost, Index: 2}) || fates[1].Fate.Kind != FateCommitted {
		t.Errorf("fates %+v", fates)
	}
	if got, _ := live(t, r, "k"); got != "before" || r.PromotedHas(after.Dot) {
		t.Errorf("k is %q", got)
	}
	if f, err := r.Fate(after.Dot); err != nil || f.Kind != FateLost {
		t.Errorf("fate %+v, %v", f, err)
	}
	if at, decided := r.DecidedAt(after.Dot); at != 2 || !decided {
		t.Errorf("decided at %d, %v", at, decided)
	}
	if !r.Forfeited("n3-cccc") || r.Forfeited("n1-aaaa") {
		t.Error("forfeited")
	}
}

// Without room for a further gap a write stays undecided, and those that fill
// gaps are promoted.
func TestAFullRecordOfPromotedDotsLosesNothing(t *testing.T) {
	r := openReplica(t)
	full := &DotSet{}
	for n := range uint64(MaxDotSpans) {
		ok(t, full.Add(Dot{"n1-aaaa", 1, 2*n + 1}))
	}
	r.ledger.Store(&ledger{promoted: full.Clone()})
	gap, fills := eventual("n2-bbbb", 1, 0, 1, "gap"), eventual("n1-aaaa", 2, 0, 2, "fills")
	results := take(t, r, logged(t, 1, promotionOf(gap, fills, gap)))
	fates := results[0][0].Promoted.Fates
	// What fills a gap makes room for another.
	if fates[0].Fate != (Fate{Kind: FatePending}) || fates[1].Fate.Kind != FateCommitted || fates[2].Fate.Kind != FateSuperseded {
		t.Errorf("fates %+v", fates)
	}
	if got, _ := live(t, r, "k"); got != "fills" {
		t.Errorf("k is %q", got)
	}
}

func TestABaseAboveItsEntryWinsNothing(t *testing.T) {
	r := openReplica(t)
	fates := take(t, r, logged(t, 5, promotionOf(eventual("n1-aaaa", 1, 5, 99, "v"), eventual("n1-aaaa", 2, 1<<40, 99, "v"), eventual("n1-aaaa", 3, 4, 1, "v"))))[0][0].Promoted.Fates
	if fates[0].Fate.Kind != FateSuperseded || fates[1].Fate.Kind != FateSuperseded || fates[2].Fate.Kind != FateCommitted {
		t.Errorf("fates %+v", fates)
	}
}

func TestPromotionsAreBounded(t *testing.T) {
	w := eventual("n1-aaaa", 1, 0, 1, "v")
	many := slices.Repeat([]Tentative{w}, MaxPromotionWrites)
	large := w
	large.Bytes = make([]byte, MaxValueBytes)
	bad := func(change func(*Tentative)) Promotion {
		b := w
		change(&b)
		return promotionOf(w, b)
	}
	for name, c := range map[string]struct {
		p    Promotion
		fits bool
	}{
		"the most":          {promotionOf(many...), true},
		"one more":          {promotionOf(append(many, w)...), false},
		"none":              {Promotion{}, false},
		"one large":         {promotionOf(large), true},
		"a large one more":  {promotionOf(large, w), false},
		"no node":           {bad(func(b *Tentative) { b.Dot.Node = "" }), false},
		"no sequence":       {bad(func(b *Tentative) { b.Dot.Sequence = 0 }), false},
		"no key":            {bad(func(b *Tentative) { b.Key = nil }), false},
		"a delete of bytes": {bad(func(b *Tentative) { b.Delete = true }), false},
		"too large a value": {bad(func(b *Tentative) { b.Bytes = make([]byte, MaxValueBytes+1) }), false},
		"a base above all":  {bad(func(b *Tentative) { b.Base = ^uint64(0) }), false},
	} {
		encoded, err := AppendPromotion([]byte("x"), c.p)
		if (err == nil) != c.fits || err != nil && len(encoded) != 1 {
			t.Errorf("%s: %v", name, err)
		}
		size := promotionFixedLen + 1
		for i := range c.p.Writes {
			size += PromotionSize(&c.p.Writes[i])
		}
		if err == nil && size != len(encoded) {
			t.Errorf("%s: size %d, foretold %d", name, len(encoded), size)
		}
	}
	if _, err := AppendFloor(nil, 0); err == nil {
		t.Error("a floor of 0")
	}
	if _, err := AppendForfeit(nil, ""); err == nil {
		t.Error("a forfeit of nobody")
	}
}

// Durable says no more than what a power cut leaves.
func TestDurableIsWhatASyncHasReached(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openState(t, mem)
	r, beside := replicaOf(t, s, stateReplica), replicaOf(t, s, Replica{9, 1})
	take(t, r, logged(t, 3, put("k", "3")))
	if r.Durable() != 0 {
		t.Errorf("durable %d before a sync", r.Durable())
	}
	ok(t, beside.Sync())
	take(t, r, logged(t, 4, put("k", "4")))
	if r.Durable() != 3 {
		t.Errorf("durable %d after a sync at 3", r.Durable())
	}
	after := openState(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	if at, _ := replicaOf(t, after, stateReplica).Applied(); at != 3 {
		t.Errorf("a power cut leaves %d", at)
	}
	ok(t, install(beside, bytes.NewReader(streamOf(t, r))))
	if beside.Durable() != 4 {
		t.Errorf("durable %d after an install of 4", beside.Durable())
	}
	ok(t, after.Close())
	ok(t, s.Close())
}

// What is applied while a sync is under way is not what it makes durable.
func TestASyncDoesNotReachWhatCameMeanwhile(t *testing.T) {
	var during atomic.Pointer[func()]
	mem := vfs.NewCrashableMem()
	s := openState(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			if run := during.Swap(nil); run != nil {
				(*run)()
			}
		}
		return nil
	})))
	r := replicaOf(t, s, stateReplica)
	take(t, r, logged(t, 1, put("k", "1")))
	var failed error
	run := func() { _, failed = r.Apply([]ApplyEntry{logged(t, 2, put("k", "2"))}) }
	during.Store(&run)
	ok(t, s.Sync())
	ok(t, failed)
	if at, _ := r.Applied(); at != 2 || r.Durable() != 1 {
		t.Errorf("applied %d, durable %d", at, r.Durable())
	}
	ok(t, s.Close())
}

// A database of the first format has tombstones that no floor would find.
func TestAnOlderFormatIsUpgraded(t *testing.T) {
	mem := vfs.NewMem()
	s := openState(t, mem)
	old, now := replicaOf(t, s, stateReplica), replicaOf(t, s, Replica{9, 1})
	for _, r := range []*ReplicaState{old, now} {
		take(t, r, logged(t, 1, del("a"), put("b", "x"), del("c")), logged(t, 2, put("c", "y"), del("d")))
	}
	start := append(replicaPrefix(stateReplica), kindTombstone)
	ok(t, s.db.DeleteRange(start, prefixEnd(start), pebble.Sync))
	ok(t, s.db.Set(formatKey, binary.LittleEndian.AppendUint32(nil, 1), pebble.Sync))
	ok(t, s.Close())
	for range 2 {
		s = openState(t, mem)
		old, now = replicaOf(t, s, stateReplica), replicaOf(t, s, Replica{9, 1})
		// The place where c was deleted is not known any more, and not needed.
		want := strings.ReplaceAll(dump(t, now), fmt.Sprintf("%x=\n", tombstoneKey(1, []byte("c"))), "")
		if got := dump(t, old); got != want {
			t.Errorf("upgraded to\n%s, want\n%s", got, want)
		}
		ok(t, s.Close())
	}
	s = openState(t, mem)
	r := replicaOf(t, s, stateReplica)
	take(t, r, logged(t, 3, uint64(2)))
	if _, found, err := r.Get([]byte("a")); err != nil || found {
		t.Errorf("a is there: %v", err)
	}
	ok(t, s.Close())
}

func TestADamagedLedgerIsNotOpened(t *testing.T) {
	run := func(first, last uint64) (key, record []byte) {
		return appendDotKey([]byte{kindPromoted}, Dot{"n1", 1, first}), binary.LittleEndian.AppendUint64([]byte{ledgerFormat}, last)
	}
	for name, spoil := range map[string]func() (key, record []byte){
		"runs that touch":   func() ([]byte, []byte) { return run(4, 5) },
		"runs that overlap": func() ([]byte, []byte) { return run(2, 9) },
		"a run backwards":   func() ([]byte, []byte) { return run(9, 8) },
		"a short head":      func() ([]byte, []byte) { return []byte{kindLedger}, []byte{ledgerFormat, 1} },
		"a newer head": func() ([]byte, []byte) {
			h := ledgerHead{}
			return []byte{kindLedger}, append([]byte{2}, h.encode()[1:]...)
		},
		"a head out of order": func() ([]byte, []byte) {
			h := ledgerHead{firstPage: 2, nextPage: 1}
			return []byte{kindLedger}, h.encode()
		},
		"a forfeit of nothing": func() ([]byte, []byte) { return []byte{kindForfeited, 'n'}, nil },
	} {
		mem := vfs.NewMem()
		s := openState(t, mem)
		prefix := replicaPrefix(stateReplica)
		key, record := run(1, 3)
		ok(t, s.db.Set(append(prefix, key...), record, pebble.Sync))
		key, record = spoil()
		ok(t, s.db.Set(append(prefix, key...), record, pebble.Sync))
		if _, err := s.Replica(stateReplica); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		ok(t, s.Close())
	}
}

// How many tombstones go with a command, and which of their places are known, is
// not part of the log: it must not show in what is committed afterwards.
func TestItDoesNotMatterHowManyTombstonesAreCollected(t *testing.T) {
	s := openState(t, vfs.NewMem())
	defer func() { ok(t, s.Close()) }()
	keys := []string{"a", "b", "c"}
	generation := uint32(0)
	rapid.Check(t, func(t *rapid.T) {
		generation += 2
		one, many := replicaOf(t, s, Replica{9, generation}), replicaOf(t, s, Replica{9, generation + 1})
		logged := func(t fataler, index uint64, c any, collect uint64) ApplyEntry {
			defer func(old uint64) { collectLimit = old }(collectLimit)
			collectLimit = collect
			return logged(t, index, c)
		}
		left := func(r *ReplicaState, key string) Value {
			v, _, err := r.Get([]byte(key))
			ok(t, err)
			if v.collectable(r.Floor()) {
				v = Value{}
			}
			return v
		}
		for index := uint64(1); index <= 20; index++ {
			key := rapid.SampledFrom(keys).Draw(t, "key")
			var c any
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				c = put(key, fmt.Sprint(index))
			case 1:
				c = del(key)
			case 2:
				c = rapid.Uint64Range(1, index).Draw(t, "floor")
			default:
				w := eventual("n2-bbbb", index, rapid.Uint64Range(0, index-1).Draw(t, "base"),
					hlc.Timestamp(rapid.Uint64Range(1, 9).Draw(t, "time")), fmt.Sprint(index)).of(key)
				if w.Delete = rapid.Bool().Draw(t, "delete"); w.Delete {
					w.Bytes = nil
				}
				c = promotionOf(w)
			}
			a, b := take(t, one, logged(t, index, c, 1))[0][0], take(t, many, logged(t, index, c, 100))[0][0]
			if !samePromotion(a, b) {
				t.Fatalf("entry %d, %v: %+v %+v and %+v %+v", index, c, a, a.Promoted, b, b.Promoted)
			}
			for _, key := range keys {
				if a, b := left(one, key), left(many, key); !sameValue(a, b) {
					t.Fatalf("entry %d, %v: %s holds %+v and %+v", index, c, key, a, b)
				}
			}
		}
		if a, b := conflictsOf(t, one), conflictsOf(t, many); !slices.EqualFunc(a, b, sameConflict) {
			t.Fatalf("conflicts %+v and %+v", a, b)
		}
	})
}
