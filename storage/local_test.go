package storage

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

func openLocal(t testing.TB) Local {
	t.Helper()
	l := openTestLog(t, vfs.NewMem())
	t.Cleanup(func() { mustDo(t, l.Close()) })
	return Local{State: openReplica(t), Log: mustTentative(t, l, testPartition)}
}

func mustRead(t fataler, l Local, key string) LocalRead {
	t.Helper()
	r, err := l.Read([]byte(key))
	ok(t, err)
	return r
}

func wantRead(t fataler, r LocalRead, value string, version Version, tentative bool) {
	t.Helper()
	if !r.Found || string(r.Bytes) != value || r.Version != version || (r.Tentative != nil) != tentative {
		t.Fatalf("read %v, want %q %v, tentative %t", &r, value, version, tentative)
	}
}

func wantNothing(t fataler, r LocalRead) {
	t.Helper()
	if r.Found || r.Bytes != nil {
		t.Fatalf("read %v, want nothing", &r)
	}
}

func TestATentativeWriteIsReadUntilItIsCommitted(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, put("k", "old"))
	w := remote("n2-bbbb", 1, 5, 90, "k", "new")
	mustDo(t, l.Log.Append([]TentativeWrite{w}))
	wantRead(t, mustRead(t, l, "k"), "new", Version{0, 90, "n2-bbbb"}, true)
	_, err := l.State.Apply([]ApplyEntry{logged(t, 6, promotionOf(w.Tentative))})
	ok(t, err)
	wantRead(t, mustRead(t, l, "k"), "new", Version{6, 90, "n2-bbbb"}, false)
	l.Log.Settle([]Dot{w.Dot}, 6)
	r := mustRead(t, l, "k")
	wantRead(t, r, "new", Version{6, 90, "n2-bbbb"}, false)
	if r.Applied != 6 || !r.State {
		t.Fatalf("%v", &r)
	}
}

func TestAStaleWriteIsNotRead(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, put("k", "safe"), del("gone"))
	mustDo(t, l.Log.Append([]TentativeWrite{
		remote("n2-bbbb", 1, 4, 90, "k", "stale"), remote("n2-bbbb", 2, 4, 90, "gone", "stale"),
		remote("n2-bbbb", 3, 4, 90, "fresh", "first"),
	}))
	wantRead(t, mustRead(t, l, "k"), "safe", Version{5, 7, "n1-abcd"}, false)
	wantNothing(t, mustRead(t, l, "gone"))
	wantRead(t, mustRead(t, l, "fresh"), "first", Version{0, 90, "n2-bbbb"}, true)
}

func TestATentativeDeleteHides(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, put("k", "v"))
	w := remote("n2-bbbb", 1, 5, 90, "k", "")
	w.Delete, w.Bytes = true, nil
	mustDo(t, l.Log.Append([]TentativeWrite{w}))
	r := mustRead(t, l, "k")
	wantNothing(t, r)
	if !r.Known() || r.Version != w.Tentative.Version(0) {
		t.Fatalf("%v", &r)
	}
}

func TestWithoutAReplicaNothingIsNotAnAnswer(t *testing.T) {
	l := openLocal(t)
	l.State = nil
	if r := mustRead(t, l, "k"); r.Known() {
		t.Fatalf("%v", &r)
	}
	if r := mustRead(t, Local{}, "k"); r.Known() {
		t.Fatalf("%v", &r)
	}
	mustDo(t, l.Log.Append([]TentativeWrite{remote("n2-bbbb", 1, 4, 90, "k", "hint")}))
	if r := mustRead(t, l, "k"); !r.Known() || string(r.Bytes) != "hint" {
		t.Fatalf("%v", &r)
	}
}

// A lost write is not shown, though it is still held.
func TestLostWritesAreNotRead(t *testing.T) {
	l := openLocal(t)
	lost := remote("n2-bbbb", 1, 4, 90, "k", "lost")
	mustDo(t, l.Log.Append([]TentativeWrite{lost}))
	take(t, l.State, logged(t, 5, partition.NodeID("n2-bbbb")))
	wantNothing(t, mustRead(t, l, "k"))
	if missing := l.Missing([]DotRange{RangeOf(lost.Dot), {"n2-bbbb", 9, 5, 9}}); missing != nil {
		t.Fatalf("missing %v", missing)
	}
}

// A hint that was told its fate, and state from before that.
func TestStateBelowTheFateFloorIsNotShown(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, put("k", "old"), put("other", "old"))
	hint, other := remote("n2-bbbb", 1, 5, 90, "k", "new"), remote("n2-bbbb", 2, 5, 91, "other", "new")
	mustDo(t, l.Log.Append([]TentativeWrite{hint, other}))
	mustDo(t, l.Log.Forget([]Dot{hint.Dot}, 6))
	r, err := l.Read([]byte("k"))
	if !errors.Is(err, ErrBehind) || r.State || r.Known() || r.FateFloor != 6 {
		t.Fatalf("%v, %v", &r, err)
	}
	r, err = l.Read([]byte("other")) // with what the log alone says
	if !errors.Is(err, ErrBehind) || r.State || string(r.Bytes) != "new" {
		t.Fatalf("%v, %v", &r, err)
	}
	page, err := l.Scan(ScanOptions{})
	if !errors.Is(err, ErrBehind) || page.State || len(page.Entries) != 1 || page.FateFloor != 6 {
		t.Fatalf("%+v, %v", page, err)
	}
	elsewhere, err := Local{State: l.State}.ReadToMerge([]byte("k"))
	ok(t, err)
	alone, err := Local{Log: l.Log}.ReadToMerge([]byte("k"))
	ok(t, err)
	if m := MergeReads(elsewhere, alone); !m.Behind() {
		t.Fatalf("an older replica's answer is passed on: %v", &m)
	}
	_, err = l.State.Apply([]ApplyEntry{logged(t, 6, promotionOf(hint.Tentative))})
	ok(t, err)
	wantRead(t, mustRead(t, l, "k"), "new", Version{6, 90, "n2-bbbb"}, false)
	elsewhere, err = Local{State: l.State}.ReadToMerge([]byte("k"))
	ok(t, err)
	if m := MergeReads(alone, elsewhere); m.Behind() || string(m.Bytes) != "new" {
		t.Fatalf("%v", &m)
	}
}

// Between the moment in which a batch is in the database and the one in which
// its ledger is published, a tombstone is gone and the floor that allows it is
// not yet told.
func TestACollectedTombstoneAndItsFloorAreReadTogether(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, del("k"))
	stale := remote("n2-bbbb", 1, 4, 90, "k", "stale")
	mustDo(t, l.Log.Append([]TentativeWrite{stale}))
	before := l.State.ledger.Load()
	_, err := l.State.Apply([]ApplyEntry{logged(t, 6, uint64(5))})
	ok(t, err)
	if _, found, err := l.State.Get([]byte("k")); found || err != nil {
		t.Fatalf("the tombstone is still there, or %v", err)
	}
	l.State.ledger.Store(before)
	wantNothing(t, mustRead(t, l, "k"))
	page, err := l.Scan(ScanOptions{})
	ok(t, err)
	for e := range page.Live() {
		t.Fatalf("scan shows %q", e.Bytes)
	}
	// The same for a stale write that another node brings.
	alone, err := Local{Log: l.Log}.ReadToMerge([]byte("k"))
	ok(t, err)
	state, err := Local{State: l.State}.ReadToMerge([]byte("k"))
	ok(t, err)
	wantNothing(t, MergeReads(alone, state))
}

// One writer, each of whose writes is accepted, promoted, applied and forgotten
// while others read: nobody ever sees less than what was acknowledged before.
func TestReadersNeverGoBackWhileWritesArePromoted(t *testing.T) {
	const writes = 400
	l := openLocal(t)
	var acked atomic.Uint64
	var wg sync.WaitGroup
	done := make(chan struct{})
	reader := func(read func() (hlc.Timestamp, error)) {
		wg.Go(func() {
			var last uint64
			for {
				low := max(last, acked.Load())
				got, err := read()
				if err != nil || uint64(got) < low {
					t.Errorf("read %d, %v after %d", got, err, low)
					return
				}
				last = uint64(got)
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	key := []byte("k")
	reader(func() (hlc.Timestamp, error) {
		r, err := l.Read(key)
		if err == nil && r.Found && string(r.Bytes) != fmt.Sprint(uint64(r.Version.Timestamp)) {
			err = fmt.Errorf("value %q", r.Bytes)
		}
		return r.Version.Timestamp, err
	})
	reader(func() (hlc.Timestamp, error) {
		r, err := l.ReadToMerge(key)
		return r.Version.Timestamp, err
	})
	reader(func() (hlc.Timestamp, error) {
		page, err := l.Scan(ScanOptions{})
		for e := range page.Live() {
			return e.Version.Timestamp, err
		}
		return 0, err
	})
	reader(func() (hlc.Timestamp, error) { return l.Newest(key) })
	reader(func() (hlc.Timestamp, error) {
		n := acked.Load()
		if n == 0 {
			return 0, nil
		}
		if missing := l.Missing([]DotRange{{"n2-bbbb", 0, 1, n}}); missing != nil {
			return 0, fmt.Errorf("missing %v of %d", missing, n)
		}
		return hlc.Timestamp(acked.Load()), nil
	})
	for n := uint64(1); n <= writes && !t.Failed(); n++ {
		w := remote("n2-bbbb", n, n-1, hlc.Timestamp(n), "k", fmt.Sprint(n))
		w.Dot.Incarnation = 0
		mustDo(t, l.Log.Append([]TentativeWrite{w}))
		acked.Store(n)
		_, err := l.State.Apply([]ApplyEntry{logged(t, n, promotionOf(w.Tentative))})
		ok(t, err)
		l.Log.Settle([]Dot{w.Dot}, n)
		if n%10 == 0 {
			mustDo(t, l.Log.EraseSettled(n))
		}
	}
	close(done)
	wg.Wait()
}

// A replica that is replaced under a reader.
func TestReadersSeeOneStateOrTheOther(t *testing.T) {
	l := openLocal(t)
	other := openReplica(t)
	apply(t, l.State, 5, put("a", "5"), put("b", "5"))
	apply(t, other, 5, put("a", "5"), put("b", "5"))
	// Loses to both states, and so only asks for the exact reading.
	mustDo(t, l.Log.Append([]TentativeWrite{remote("n2-bbbb", 1, 1, 90, "a", "stale")}))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			r, err := l.Read([]byte("a"))
			if err != nil || string(r.Bytes) != fmt.Sprint(r.Applied) {
				t.Errorf("%v, %v", &r, err)
				return
			}
			page, err := l.Scan(ScanOptions{})
			if err != nil || len(page.Entries) != 2 || string(page.Entries[0].Bytes) != fmt.Sprint(page.Applied) ||
				string(page.Entries[1].Bytes) != fmt.Sprint(page.Applied) {
				t.Errorf("%+v, %v", page, err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for n := uint64(6); n < 40; n++ {
		apply(t, other, n, put("a", fmt.Sprint(n)), put("b", fmt.Sprint(n)))
		ok(t, install(l.State, bytes.NewReader(streamOf(t, other))))
	}
	close(done)
	wg.Wait()
}

func TestManyTentativeKeysArePaged(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, put("key-00000x", "committed"), put("zz", "committed"))
	var writes []TentativeWrite
	const keys = localScanKeys + 200
	for n := range uint64(keys) {
		writes = append(writes, remote("n2-bbbb", n+1, 5, 90, fmt.Sprintf("key-%05d", n), "v"))
	}
	mustDo(t, l.Log.Append(writes))
	for _, limit := range []int{0, 1, 100, 5000} {
		seen, pages := 0, 0
		last := ""
		for start, more := []byte(nil), true; more && pages < 10000 && (limit != 1 || pages < 300); pages++ {
			page, err := l.Scan(ScanOptions{Start: start, Limit: limit})
			ok(t, err)
			for e := range page.Live() {
				if string(e.Key) <= last {
					t.Fatalf("key %q after %q", e.Key, last)
				}
				last = string(e.Key)
				seen++
			}
			start, more = page.Next, page.More
		}
		if want := keys + 2; limit != 1 && seen != want {
			t.Fatalf("limit %d: %d keys on %d pages, want %d", limit, seen, pages, want)
		}
		if limit == 1 && seen != 300 {
			t.Fatalf("limit 1: %d keys", seen)
		}
	}
}

func TestValuesOfOtherCandidatesAreBounded(t *testing.T) {
	l := openLocal(t)
	large := strings.Repeat("v", maxLocalExtraBytes/2)
	var writes []TentativeWrite
	for n := range uint64(5) {
		writes = append(writes, remote("n2-bbbb", n+1, 10+n, hlc.Timestamp(90-n), "k", large))
	}
	mustDo(t, l.Log.Append(writes))
	read := func(l Local) (read int) {
		r, err := l.ReadToMerge([]byte("k"))
		ok(t, err)
		if len(r.Candidates) != 5 || string(r.Bytes) != large {
			t.Fatalf("%d candidates, %d bytes", len(r.Candidates), len(r.Bytes))
		}
		for _, c := range r.Candidates {
			if c.Bytes != nil {
				read++
			}
		}
		return read
	}
	if n := read(l); n != 3 {
		t.Fatalf("%d values, want the winner's and two", n)
	}
	// The one that wins under another's state has not been read.
	alone, err := Local{Log: l.Log}.ReadToMerge([]byte("k"))
	ok(t, err)
	apply(t, l.State, 14, put("k", "safe"))
	state, err := Local{State: l.State}.ReadToMerge([]byte("k"))
	ok(t, err)
	m := MergeReads(state, alone)
	if !m.Found || m.Bytes != nil || m.Tentative.Dot != writes[4].Dot {
		t.Fatalf("%v", &m.LocalState)
	}
	if err := (Local{State: l.State}).Complete(&m.LocalEntry); !errors.Is(err, ErrUnread) {
		t.Fatalf("%v", err)
	}
	ok(t, l.Complete(&m.LocalEntry))
	if string(m.Bytes) != large {
		t.Fatalf("%d bytes", len(m.Bytes))
	}
	l.Log.Settle([]Dot{writes[4].Dot}, 15)
	m = MergeReads(state, alone)
	if err := l.Complete(&m.LocalEntry); !errors.Is(err, ErrUnread) {
		t.Fatalf("%v", err)
	}
}

func TestDamagedAnswersAreRefused(t *testing.T) {
	l := openLocal(t)
	apply(t, l.State, 5, put("k", "v"))
	mustDo(t, l.Log.Append([]TentativeWrite{remote("n2-bbbb", 1, 5, 90, "k", "new"), remote("n3-cccc", 1, 6, 80, "k", "newer")}))
	r, err := l.ReadToMerge([]byte("k"))
	ok(t, err)
	page, err := l.Scan(ScanOptions{Limit: 1})
	ok(t, err)
	for name, whole := range map[string][]byte{"read": AppendLocalRead(nil, &r), "page": AppendLocalPage(nil, &page)} {
		decode := func(b []byte) (err error) {
			if name == "read" {
				_, err = DecodeLocalRead(b)
			} else {
				_, err = DecodeLocalPage(b)
			}
			return err
		}
		ok(t, decode(whole))
		for n := range whole {
			if err := decode(whole[:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if err := decode(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("longer %s: %v", name, err)
		}
	}
}

func FuzzLocalRead(f *testing.F) {
	v := Value{Version: Version{9, 8, "n1-a"}, Linearizable: true, LinearizableIndex: 9, Bytes: []byte("value")}
	f.Add(AppendLocalRead(nil, &LocalRead{LocalState{true, 12, 3, 4}, LocalEntry{Key: []byte("k"), Held: &v}}))
	f.Add(AppendLocalRead(nil, &LocalRead{LocalState: LocalState{FateFloor: 4}, LocalEntry: LocalEntry{
		Key: []byte("k"), Candidates: []Tentative{eventual("n2", 1, 5, 9, "a"), eventual("n3", 7, 6, 8, "")},
	}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeLocalRead(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if again := AppendLocalRead(nil, &r); !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func FuzzLocalPage(f *testing.F) {
	v := Value{Version: Version{9, 8, "n1-a"}, Tombstone: true, LinearizableIndex: 2, Base: 5, Dot: Dot{"n1-a", 4, 4}}
	f.Add(AppendLocalPage(nil, &LocalPage{
		LocalState: LocalState{true, 12, 3, 4}, More: true, Next: []byte("n"),
		Entries: []LocalEntry{{Key: []byte("k"), Held: &v}, {Key: []byte("l"), Candidates: []Tentative{eventual("n2", 1, 5, 9, "a")}}},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeLocalPage(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if again := AppendLocalPage(nil, &p); !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func benchLocal(b *testing.B) Local {
	b.Helper()
	l, err := OpenLog(LogOptions{FS: vfs.Default, Dir: b.TempDir(), NodeID: "n1-aaaa"})
	ok(b, err)
	b.Cleanup(func() { ok(b, l.Close()) })
	local := Local{State: benchReplica(b), Log: mustTentative(b, l, partition.ID(3))}
	fill(b, local.State, true)
	applied, _ := local.State.Applied()
	var writes []TentativeWrite
	for n := range uint64(1000) {
		writes = append(writes, remote("n2-bbbb", n+1, applied, 90, benchKey(int(n)*10), string(value256)))
	}
	ok(b, local.Log.Append(writes))
	return local
}

// BenchmarkLocalRead compares with BenchmarkGet what the tentative log adds: the
// key has a tentative write, or it has none.
func BenchmarkLocalRead(b *testing.B) {
	l := benchLocal(b)
	for name, key := range map[string]func(n int) string{
		"committed": func(n int) string { return benchKey(n%1000*10 + 1) },
		"tentative": func(n int) string { return benchKey(n % 1000 * 10) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r, err := l.Read([]byte(key(n)))
				if err != nil || (r.Tentative != nil) != (name == "tentative") {
					b.Fatal(&r, err)
				}
			}
		})
		b.Run("merge/"+name, func(b *testing.B) {
			b.ReportAllocs()
			var buffer []byte
			for n := 0; b.Loop(); n++ {
				r, err := l.ReadToMerge([]byte(key(n)))
				ok(b, err)
				buffer = AppendLocalRead(buffer[:0], &r)
				_, err = DecodeLocalRead(buffer)
				ok(b, err)
			}
		})
	}
}

// BenchmarkLocalScan is the cost of one key.
func BenchmarkLocalScan(b *testing.B) {
	l := benchLocal(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n += 1000 {
		page, err := l.Scan(ScanOptions{Start: []byte(benchKey(n % 9000)), Limit: 1000})
		ok(b, err)
		if len(page.Entries) != 1000 {
			b.Fatalf("%d entries", len(page.Entries))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/key")
}
