package storage

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/capstan-kv/capstan/storage/hlc"
)

var stateReplica = Replica{Group: 3, Generation: 1}

// fataler is a test, a benchmark, a fuzz target or a rapid check.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func ok(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openState(t fataler, fsys vfs.FS) *State {
	t.Helper()
	ok(t, makeDirectory(fsys, "node"))
	m, err := OpenMarks(MarksOptions{FS: fsys, Path: "node/marks", NodeID: "n1-aaaa"})
	ok(t, err)
	s, err := OpenState(StateOptions{FS: fsys, Dir: "node/state", NodeID: "n1-aaaa", Marks: m, CacheBytes: 1 << 20, MemTableBytes: 256 << 10})
	ok(t, err)
	return s
}

func replicaOf(t fataler, s *State, r Replica) *ReplicaState {
	t.Helper()
	rs, err := s.Replica(r)
	ok(t, err)
	return rs
}

// openReplica opens stateReplica in a database of its own.
func openReplica(t testing.TB) *ReplicaState {
	t.Helper()
	s := openState(t, vfs.NewMem())
	t.Cleanup(func() { ok(t, s.Close()) })
	return replicaOf(t, s, stateReplica)
}

func put(key, value string) Command {
	return Command{Kind: CommandPut, Level: LevelLinearizable, Timestamp: 7, Node: "n1-abcd", Key: []byte(key), Value: []byte(value)}
}

func del(key string) Command {
	return Command{Kind: CommandDelete, Level: LevelLinearizable, Timestamp: 7, Node: "n1-abcd", Key: []byte(key)}
}

func (c Command) at(timestamp hlc.Timestamp) Command { c.Timestamp = timestamp; return c }

func (c Command) when(kind ConditionKind) Command { c.Condition.Kind = kind; return c }

func (c Command) ifVersion(v Version) Command {
	c.Condition = Condition{Kind: ConditionVersion, Version: v}
	return c
}

func entry(t fataler, index uint64, commands ...Command) ApplyEntry {
	t.Helper()
	e := ApplyEntry{Index: index, Term: 1}
	for _, c := range commands {
		encoded, err := AppendCommand(nil, c)
		ok(t, err)
		e.Commands = append(e.Commands, encoded)
	}
	return e
}

// apply takes up one entry and gives its results.
func apply(t fataler, r *ReplicaState, index uint64, commands ...Command) []CommandResult {
	t.Helper()
	results, err := r.Apply([]ApplyEntry{entry(t, index, commands...)})
	ok(t, err)
	return results[0]
}

// live is the value of key; false if there is none or a tombstone.
func live(t fataler, r *ReplicaState, key string) (string, bool) {
	t.Helper()
	v, found, err := r.Get([]byte(key))
	ok(t, err)
	return string(v.Bytes), found && !v.Tombstone
}

func TestConditionsAreJudgedWhereTheyAreApplied(t *testing.T) {
	r := openReplica(t)
	// One entry: every command sees what those before it left.
	results := apply(t, r, 5,
		put("k", "1").at(10).when(ConditionAbsent),
		put("k", "2").at(11).when(ConditionAbsent),
		put("k", "3").at(12).ifVersion(Version{5, 10, "n1-abcd"}),
		del("k").at(13).ifVersion(Version{5, 10, "n1-abcd"}),
		del("k").at(14).when(ConditionPresent),
		del("k").at(15).when(ConditionPresent),
		put("k", "4").at(16).when(ConditionAbsent),
		del("missing").at(17),
	)
	v := func(ts hlc.Timestamp) Version { return Version{5, ts, "n1-abcd"} }
	current10, current12 := v(10), v(12)
	want := []CommandResult{
		{Version: v(10)},
		{Existed: true, ConditionFailed: true, Current: &current10},
		{Version: v(12), Existed: true},
		{Existed: true, ConditionFailed: true, Current: &current12},
		{Version: v(14), Existed: true},
		{ConditionFailed: true},
		{Version: v(16)},
		{Version: v(17)},
	}
	for i, got := range results {
		w := want[i]
		if got.Version != w.Version || got.Existed != w.Existed || got.ConditionFailed != w.ConditionFailed ||
			(got.Current == nil) != (w.Current == nil) || got.Current != nil && *got.Current != *w.Current {
			t.Errorf("command %d: %+v (current %v), want %+v (current %v)", i, got, got.Current, w, w.Current)
		}
	}
	if got, _ := live(t, r, "k"); got != "4" {
		t.Errorf("k is %q, want 4", got)
	}
	// The delete of a key that was not there has left a tombstone.
	tomb, found, err := r.Get([]byte("missing"))
	ok(t, err)
	if !found || !tomb.Tombstone || tomb.LinearizableIndex != 5 || tomb.Version != v(17) {
		t.Errorf("after delete of an absent key: %+v, %v", tomb, found)
	}
	// A failed condition on an absent key leaves nothing at all.
	apply(t, r, 6, del("never").when(ConditionPresent), put("never", "x").ifVersion(v(1)))
	if v, found, err := r.Get([]byte("never")); found || err != nil {
		t.Errorf("after failed conditions: %+v, %v", v, err)
	}
}

func TestApplySkipsWhatItHasTakenUp(t *testing.T) {
	r := openReplica(t)
	apply(t, r, 5, put("k", "5"))
	results, err := r.Apply([]ApplyEntry{
		entry(t, 4, put("k", "4")), entry(t, 5, put("k", "again")), entry(t, 7), entry(t, 9, put("j", "9")),
	})
	ok(t, err)
	if results[0] != nil || results[1] != nil || results[2] == nil || len(results[2]) != 0 || len(results[3]) != 1 {
		t.Errorf("results %v", results)
	}
	if got, _ := live(t, r, "k"); got != "5" {
		t.Errorf("k is %q: an entry was taken up twice", got)
	}
	if index, _ := r.Applied(); index != 9 {
		t.Errorf("applied %d, want 9", index)
	}
	// The index moves past an entry without commands too, and on disk.
	apply(t, r, 12)
	p, _, err := readApplied(r.state.db, r.prefix)
	ok(t, err)
	if p != (position{12, 1}) {
		t.Errorf("applied on disk is %v", p)
	}
}

func TestApplyRefusesWholeWhatItCanNotTakeUp(t *testing.T) {
	r := openReplica(t)
	apply(t, r, 1, put("k", "1"))
	for name, entries := range map[string][]ApplyEntry{
		"undecodable":  {entry(t, 2, put("k", "2")), {Index: 3, Term: 1, Commands: [][]byte{{9, 9}}}},
		"out of order": {entry(t, 3, put("k", "2")), entry(t, 2, put("k", "3"))},
		"term back":    {{Index: 2, Term: 5}, {Index: 3, Term: 4}},
	} {
		if _, err := r.Apply(entries); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got, _ := live(t, r, "k"); got != "1" {
			t.Errorf("%s: k is %q", name, got)
		}
		if index, _ := r.Applied(); index != 1 {
			t.Errorf("%s: applied %d", name, index)
		}
	}
	if _, err := r.Apply([]ApplyEntry{{Index: 2, Term: 1, Commands: [][]byte{{}}}}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("undecodable command: %v", err)
	}
}

func TestApplySplitsLargeBatchesBetweenEntries(t *testing.T) {
	r := openReplica(t)
	big := string(make([]byte, 1<<20))
	var entries []ApplyEntry
	for i := range uint64(10) {
		entries = append(entries, entry(t, i+1, put("k", big), put("count", string(rune('0'+i))).when(ConditionNone), del("gone")))
	}
	results, err := r.Apply(entries)
	ok(t, err)
	if len(results) != 10 || results[9][2].Version.Index != 10 {
		t.Fatalf("results %v", results)
	}
	if got, _ := live(t, r, "count"); got != "9" {
		t.Errorf("count is %q", got)
	}
}

func TestReplicasDoNotSeeEachOther(t *testing.T) {
	s := openState(t, vfs.NewMem())
	defer func() { ok(t, s.Close()) }()
	list := []Replica{{0, 1}, {1, 1}, {1, 2}, {1, ^uint32(0)}, {2, 0}, {^GroupID(0), ^uint32(0)}}
	for i, r := range list {
		apply(t, replicaOf(t, s, r), uint64(i+1), put("\x00", r.String()), put("\xff\xff", r.String()))
	}
	got, err := s.Replicas()
	ok(t, err)
	if len(got) != len(list) {
		t.Fatalf("replicas %v", got)
	}
	ok(t, s.Destroy(Replica{1, 2}))
	for i, r := range list {
		if got[i] != r {
			t.Errorf("replica %d is %v, want %v", i, got[i], r)
		}
		rs := replicaOf(t, s, r)
		page, err := rs.Scan(ScanOptions{})
		ok(t, err)
		if r == (Replica{1, 2}) {
			if index, _ := rs.Applied(); index != 0 || len(page.Entries) != 0 {
				t.Errorf("destroyed replica has %v at %d", page.Entries, index)
			}
			continue
		}
		if len(page.Entries) != 2 || string(page.Entries[0].Value) != r.String() {
			t.Errorf("%v: %+v", r, page.Entries)
		}
	}
}

func TestDestroyedHandleFails(t *testing.T) {
	r := openReplica(t)
	apply(t, r, 1, put("k", "1"))
	view, err := r.View()
	ok(t, err)
	ok(t, r.state.Destroy(stateReplica))
	if _, err := r.Apply([]ApplyEntry{{Index: 2, Term: 1}}); !errors.Is(err, ErrReplicaDestroyed) {
		t.Errorf("Apply: %v", err)
	}
	if _, _, err := r.Get([]byte("k")); !errors.Is(err, ErrReplicaDestroyed) {
		t.Errorf("Get: %v", err)
	}
	if _, err := r.View(); !errors.Is(err, ErrReplicaDestroyed) {
		t.Errorf("View: %v", err)
	}
	if _, err := r.Stage(); !errors.Is(err, ErrReplicaDestroyed) {
		t.Errorf("Stage: %v", err)
	}
	if _, err := view.Scan(ScanOptions{}); !errors.Is(err, ErrViewReplaced) {
		t.Errorf("Scan of an old view: %v", err)
	}
	ok(t, view.Close())
}

func TestSecondOpenIsRefused(t *testing.T) {
	for name, o := range map[string]StateOptions{
		"memory": {FS: vfs.NewMem(), Dir: "d"},
		"disk":   {FS: vfs.Default, Dir: t.TempDir()},
	} {
		s, err := OpenState(o)
		ok(t, err)
		if _, err := OpenState(o); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: second open: %v", name, err)
		}
		ok(t, s.Close())
		s, err = OpenState(o)
		ok(t, err)
		ok(t, s.Close())
		if err := s.Close(); !errors.Is(err, ErrStateClosed) {
			t.Errorf("%s: second close: %v", name, err)
		}
		if err := s.Sync(); !errors.Is(err, ErrStateClosed) {
			t.Errorf("%s: sync after close: %v", name, err)
		}
	}
	// A directory that can not be made is not "in use".
	_, err := OpenState(StateOptions{Dir: "/dev/null/state"})
	if pathErr := (*fs.PathError)(nil); !errors.As(err, &pathErr) || errors.Is(err, ErrInUse) {
		t.Errorf("impossible directory: %v", err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	mem := vfs.NewMem()
	s := openState(t, mem)
	ok(t, s.db.Set(formatKey, binary.LittleEndian.AppendUint32(nil, stateFormat+1), pebble.Sync))
	ok(t, s.Close())
	for range 2 { // the refusal leaves the directory unlocked
		if _, err := OpenState(StateOptions{FS: mem, Dir: "node/state"}); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("newer format: %v", err)
		}
	}
}

func TestCloseWaitsForNobodyButSaysSo(t *testing.T) {
	s := openState(t, vfs.NewMem())
	v, err := replicaOf(t, s, stateReplica).View()
	ok(t, err)
	if err := s.Close(); err == nil {
		t.Error("closed under an open view")
	}
	ok(t, v.Close())
	ok(t, v.Close())
	ok(t, s.Close())
}

func TestBlob(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openState(t, mem)
	r := Replica{ControlGroup, 1}
	b := s.Blob(r)
	record, err := b.Load()
	ok(t, err)
	if record.Index != 0 || record.Data != nil {
		t.Errorf("empty blob %+v", record)
	}
	ok(t, b.StoreSync(BlobRecord{4, 2, []byte("four")}))
	ok(t, b.Store(BlobRecord{5, 2, []byte("five")}))
	if record, err = b.Load(); err != nil || record.Index != 5 || string(record.Data) != "five" {
		t.Errorf("blob %+v, %v", record, err)
	}
	if err := b.Store(BlobRecord{6, 2, make([]byte, MaxBlobBytes+1)}); err == nil {
		t.Error("stored too large a blob")
	}
	crashed := openState(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	if record, err = crashed.Blob(r).Load(); err != nil || record.Index != 4 || string(record.Data) != "four" {
		t.Errorf("blob after a crash %+v, %v", record, err)
	}
	ok(t, crashed.Close())
	ok(t, s.Destroy(r))
	if record, err = b.Load(); err != nil || record.Index != 0 {
		t.Errorf("destroyed blob %+v, %v", record, err)
	}
	ok(t, s.Close())
}

// heard collects events.
type heard struct {
	mu     sync.Mutex
	events []Event
}

func (h *heard) listen(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func countEvents[E Event](h *heard) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if _, is := e.(E); is {
			n++
		}
	}
	return n
}

func TestFlushesAndCompactionsAreTold(t *testing.T) {
	var h heard
	s, err := OpenState(StateOptions{FS: vfs.NewMem(), Dir: "d", MemTableBytes: 256 << 10, Events: h.listen})
	ok(t, err)
	r := replicaOf(t, s, stateReplica)
	for i := range uint64(40) {
		apply(t, r, i+1, put(string(rune('a'+i%7)), string(make([]byte, 64<<10))))
	}
	ok(t, s.db.Flush())
	start, end := replicaSpan(stateReplica)
	ok(t, s.db.Compact(t.Context(), start, end, false))
	m := s.Metrics()
	if m.Flushes == 0 || m.Compactions == 0 || m.TableBytes == 0 || m.WALBytesIn == 0 || m.DiskBytes == 0 {
		t.Errorf("metrics %+v", m)
	}
	if n, err := r.DiskBytes(); err != nil || n == 0 {
		t.Errorf("disk bytes %d, %v", n, err)
	}
	ok(t, s.Close())
	if begun, ended := countEvents[EventFlushBegin](&h), countEvents[EventFlushEnd](&h); begun == 0 || begun != ended {
		t.Errorf("%d flushes begun, %d ended", begun, ended)
	}
	if begun, ended := countEvents[EventCompactionBegin](&h), countEvents[EventCompactionEnd](&h); begun == 0 || begun != ended {
		t.Errorf("%d compactions begun, %d ended", begun, ended)
	}
}

// The log's own goroutine meets the error first: it is told from there.
func TestABrokenLogIsToldBeforeItIsMet(t *testing.T) {
	var h heard
	w := &walWatch{FS: errorfs.Wrap(vfs.NewMem(), errorfs.ErrInjected.If(errorfs.Writes)), fail: func(err error) {
		onceFatal(h.listen)(EventFatal{Err: err})
	}}
	if _, err := w.Create("000001.log", vfs.WriteCategoryUnspecified); err == nil {
		t.Errorf("create: %v", err)
	}
	if _, err := w.Create("000001.sst", vfs.WriteCategoryUnspecified); err == nil {
		t.Errorf("create a table: %v", err)
	}
	if n := countEvents[EventFatal](&h); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestABrokenLogIsToldAndSticks(t *testing.T) {
	var h heard
	failing := &errorfs.Toggle{Injector: errorfs.ErrInjected.If(errorfs.Writes)}
	s, err := OpenState(StateOptions{FS: errorfs.Wrap(vfs.NewMem(), failing), Dir: "d", Events: h.listen})
	ok(t, err)
	r := replicaOf(t, s, stateReplica)
	apply(t, r, 1, put("k", "1"))
	ok(t, s.Sync())
	failing.On()
	if _, err := r.Apply([]ApplyEntry{entry(t, 2, put("k", "2"))}); err == nil {
		err = s.Sync()
		if !errors.Is(err, ErrBroken) {
			t.Fatalf("sync on a failing disk: %v", err)
		}
	}
	failing.Off()
	if _, err := r.Apply([]ApplyEntry{entry(t, 3, put("k", "3"))}); !errors.Is(err, ErrBroken) {
		t.Errorf("apply to a broken database: %v", err)
	}
	// Readers are refused too: Pebble died with its locks held.
	if _, err := r.View(); !errors.Is(err, ErrBroken) {
		t.Errorf("view of a broken database: %v", err)
	}
	if _, _, err := r.Get([]byte("k")); !errors.Is(err, ErrBroken) {
		t.Errorf("get from a broken database: %v", err)
	}
	if countEvents[EventFatal](&h) != 1 {
		t.Errorf("events %+v", h.events)
	}
	if err := s.Close(); !errors.Is(err, ErrBroken) {
		t.Errorf("close of a broken database: %v", err)
	}
}

// What a burst of commands needed is let go: it is neither kept in memory nor
// cleared again by each call that follows.
func TestApplyLetsGoOfABurst(t *testing.T) {
	r := openReplica(t)
	burst(t, r, 64*1024)
	if n := cap(r.commands); n > maxKeptCommands {
		t.Errorf("room for %d commands is kept", n)
	}
	burst(t, r, maxKeptCommands/2)
	if cap(r.commands) == 0 {
		t.Error("no room is kept")
	}
	for _, c := range r.commands[:cap(r.commands)] {
		if c.other != nil || c.Key != nil || c.Value != nil {
			t.Fatal("an applied command is held on to")
		}
	}
}
