package storage

import (
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

var localReaders = map[string]func(l Local) (LocalEntry, error){
	"read": func(l Local) (LocalEntry, error) {
		r, err := l.ReadToMerge([]byte("k"))
		return r.LocalEntry, err
	},
	"scan": func(l Local) (LocalEntry, error) {
		page, err := l.Scan(ScanOptions{})
		for e := range page.Live() {
			return *e, err
		}
		return LocalEntry{}, err
	},
}

// duringTheRead has each kind of read interrupted while it is in the state
// database: it reads the ledger from a table, as nobody else does, and "k",
// committed at 6, from memory.
func duringTheRead(t *testing.T, meanwhile func(l Local), check func(t *testing.T, e LocalEntry)) {
	for name, read := range localReaders {
		t.Run(name, func(t *testing.T) {
			var during atomic.Pointer[func()]
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileReadAt || op.Kind == errorfs.OpFileRead {
					if f := during.Swap(nil); f != nil {
						(*f)()
					}
				}
				return nil
			}))
			s := openState(t, fs)
			defer func() { ok(t, s.Close()) }()
			l := openLocal(t)
			l.State = replicaOf(t, s, stateReplica)
			_, err := l.State.Apply([]ApplyEntry{logged(t, 5, uint64(1))})
			ok(t, err)
			ok(t, s.db.Flush())
			apply(t, l.State, 6, put("k", "old"))
			mustDo(t, l.Log.Append([]TentativeWrite{remote("n2-bbbb", 1, 6, 90, "k", "new")}))
			f := func() { meanwhile(l) }
			during.Store(&f)
			e, err := read(l)
			ok(t, err)
			if during.Load() != nil {
				t.Fatal("the read was not interrupted")
			}
			check(t, e)
		})
	}
}

// A write that is committed and forgotten is shown all the same, in whatever a
// read looks first.
func TestAWriteThatIsForgottenDuringTheReadIsSeen(t *testing.T) {
	duringTheRead(t, func(l Local) {
		w := remote("n2-bbbb", 1, 6, 90, "k", "new")
		_, err := l.State.Apply([]ApplyEntry{logged(t, 7, promotionOf(w.Tentative))})
		ok(t, err)
		l.Log.Settle([]Dot{w.Dot}, 7)
	}, func(t *testing.T, e LocalEntry) {
		if string(e.Bytes) != "new" || e.Version.Index != 7 {
			t.Fatalf("read %q %v", e.Bytes, e.Version)
		}
	})
}

// A write that comes to this node while it is looked for and read is either
// asked of others or part of the read.
func TestAWriteThatComesDuringTheReadIsAskedFor(t *testing.T) {
	var during atomic.Pointer[func()]
	l := openTestLog(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt {
			if f := during.Swap(nil); f != nil {
				(*f)()
			}
		}
		return nil
	})))
	defer func() { mustDo(t, l.Close()) }()
	log := mustTentative(t, l, testPartition)
	mustDo(t, log.Append([]TentativeWrite{remote("n2-bbbb", 1, 6, 90, "k", "old")}))
	mustDo(t, l.db.Flush())
	late := remote("n3-cccc", 1, 6, 95, "k", "new")
	f := func() { mustDo(t, log.Append([]TentativeWrite{late})) }
	during.Store(&f)
	r, missing, err := Local{Log: log}.ReadToMergeWith([]byte("k"), []DotRange{RangeOf(late.Dot)})
	ok(t, err)
	if during.Load() != nil {
		t.Fatal("the read was not interrupted")
	}
	if seen := string(r.Bytes) == "new"; !seen && len(missing) == 0 {
		t.Errorf("read %q, and nothing is missing", r.Bytes)
	}
}
