package storage

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func openTestMarks(t testing.TB, fs vfs.FS) *Marks {
	t.Helper()
	m, err := OpenMarks(MarksOptions{FS: fs, Path: "marks", NodeID: "n1-aaaa"})
	mustDo(t, err)
	return m
}

func readFile(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	mustDo(t, err)
	b, err := io.ReadAll(f)
	mustDo(t, errors.Join(err, f.Close()))
	return b
}

func writeFile(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	mustDo(t, err)
	_, err = f.Write(b)
	mustDo(t, errors.Join(err, f.Sync(), f.Close()))
}

func TestMarksComeBackAsTheyWere(t *testing.T) {
	fs := vfs.NewMem()
	m := openTestMarks(t, fs)
	want := marksRecord{
		log:     databaseMarks{synced: 7, manifest: 3, manifestBytes: 900, wals: []walMark{{4, 1}, {9, 0}}},
		state:   databaseMarks{manifest: 1, wals: []walMark{{2, 5}}},
		control: ControlMark{File: 2, Transaction: 88},
	}
	mustDo(t, m.change(func(r *marksRecord) bool { *r = want; return true }))
	check := func(m *Marks) {
		t.Helper()
		if got := fmt.Sprint(m.record); got != fmt.Sprint(want) {
			t.Errorf("%s, want %v", got, want)
		}
	}
	check(openTestMarks(t, fs)) // as a killed process leaves it
	mustDo(t, m.Close())
	mustDo(t, m.Close())
	if err := m.raiseSynced(9); err == nil {
		t.Error("a closed file takes marks")
	}
	m = openTestMarks(t, fs)
	check(m)
	for seq := range uint64(20) { // a lower one changes nothing
		mustDo(t, m.raiseSynced(seq))
	}
	mustDo(t, m.SetControl(ControlMark{3, 1}))
	want.log.synced, want.control = 19, ControlMark{3, 1}
	check(openTestMarks(t, fs))
}

// One copy may be torn by a power cut. All three may not: then nobody knows any more.
func TestMarksSurviveOneTornCopy(t *testing.T) {
	fs := vfs.NewMem()
	m := openTestMarks(t, fs)
	for seq := range uint64(4) {
		mustDo(t, m.raiseSynced(100+seq))
		mustDo(t, m.sync())
	}
	mustDo(t, m.raiseSynced(200))
	newest := m.slot
	mustDo(t, m.Close())
	whole := readFile(t, fs, "marks")
	if len(whole) != marksSlots*marksSlotBytes {
		t.Fatalf("%d bytes", len(whole))
	}
	for at := range marksHeader + 40 {
		torn := slices.Clone(whole)
		torn[newest*marksSlotBytes+at] ^= 0x40
		writeFile(t, fs, "marks", torn)
		if m := openTestMarks(t, fs); m.record.log.synced != 103 {
			t.Fatalf("byte %d of the newest copy damaged: synced up to %d, want 103", at, m.record.log.synced)
		}
	}
	refused := func(what string, b []byte) {
		t.Helper()
		writeFile(t, fs, "marks", b)
		_, err := OpenMarks(MarksOptions{FS: fs, Path: "marks", NodeID: "n1-aaaa", MustExist: true})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "marks") || !strings.Contains(err.Error(), "empty the whole data directory") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	all := slices.Clone(whole)
	for slot := range marksSlots {
		all[slot*marksSlotBytes+marksHeader] ^= 1
	}
	refused("all copies damaged", all)
	refused("emptied", nil)
	refused("cut", whole[:20])
	refused("zeroed", make([]byte, len(whole)))
	mustDo(t, fs.Remove("marks"))
	if _, err := OpenMarks(MarksOptions{FS: fs, Path: "marks", NodeID: "n1-aaaa", MustExist: true}); !errors.Is(err, ErrDamaged) {
		t.Errorf("missing: %v", err)
	}
	writeFile(t, fs, "marks", whole)
	if _, err := OpenMarks(MarksOptions{FS: fs, Path: "marks", NodeID: "n2-bbbb"}); !errors.Is(err, ErrMarksOtherNode) {
		t.Errorf("another node's: %v", err)
	}
}

// A power cut at any moment leaves a file that opens, and says no less than what the
// fsyncs before it had made durable, and no more than was written.
func TestMarksSurvivePowerCuts(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		mem := vfs.NewCrashableMem()
		var durable, written atomic.Uint64
		var made atomic.Bool
		var mu sync.Mutex
		cuts := 0
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			cuts++
			least, most := durable.Load(), written.Load()
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: rand.New(rand.NewPCG(seed, uint64(cuts)))})
			m, err := OpenMarks(MarksOptions{FS: clone, Path: "marks", NodeID: "n1-aaaa", MustExist: made.Load()})
			if err != nil {
				t.Errorf("seed %d, cut %d, at %v of %s: %v", seed, cuts, op.Kind, op.Path, err)
				return nil
			}
			if got := m.record.log.synced; got < least || got > most {
				t.Errorf("seed %d, cut %d: synced up to %d, want %d to %d", seed, cuts, got, least, most)
			}
			return errors.Join(m.Close(), nil)
		}))
		m, err := OpenMarks(MarksOptions{FS: fs, Path: "marks", NodeID: "n1-aaaa"})
		mustDo(t, err)
		made.Store(true)
		for seq := uint64(1); seq < 30; seq++ {
			written.Store(seq)
			mustDo(t, m.raiseSynced(seq))
			if random.IntN(3) == 0 {
				mustDo(t, m.sync())
				durable.Store(seq)
			}
		}
		mustDo(t, m.Close())
		if cuts < 40 {
			t.Fatalf("%d cuts", cuts)
		}
	}
}

// The file is synced in the background while it changes, and not when it does not.
func TestMarksAreSyncedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewCrashableMem()
		m := openTestMarks(t, mem)
		mustDo(t, m.raiseSynced(5))
		durable := func() uint64 { return openTestMarks(t, mem.CrashClone(vfs.CrashCloneCfg{})).record.log.synced }
		if got := durable(); got != 0 {
			t.Fatalf("synced up to %d at once", got)
		}
		time.Sleep(marksSyncEvery)
		synctest.Wait()
		if got := durable(); got != 5 {
			t.Fatalf("%d is durable after %v, want 5", got, marksSyncEvery)
		}
		if m.dirty {
			t.Error("it is dirty")
		}
		mustDo(t, m.changeDurably(func(r *marksRecord) bool { r.log.synced = 6; return true }))
		if got := durable(); got != 6 {
			t.Errorf("%d is durable, want 6", got)
		}
		mustDo(t, m.Close())
	})
}

// A disk error is told, and from then on nothing is marked.
func TestMarksFailForGood(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileWriteAt, errorfs.OpFileSyncData} {
		var broken atomic.Bool
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && op.Kind == kind {
				return errorfs.ErrInjected
			}
			return nil
		}))
		var told []error
		m, err := OpenMarks(MarksOptions{FS: fs, Path: "marks", NodeID: "n1-aaaa", Failed: func(err error) { told = append(told, err) }})
		mustDo(t, err)
		mustDo(t, m.raiseSynced(1))
		broken.Store(true)
		err = m.changeDurably(func(r *marksRecord) bool { r.log.synced = 2; return true })
		broken.Store(false)
		if !errors.Is(err, errorfs.ErrInjected) || len(told) != 1 {
			t.Errorf("%v: %v, told %v", kind, err, told)
		}
		if err := m.raiseSynced(3); !errors.Is(err, errorfs.ErrInjected) || len(told) != 1 {
			t.Errorf("%v, afterwards: %v, told %v", kind, err, told)
		}
	}
}

func FuzzMarks(f *testing.F) {
	m := Marks{node: "n1-aaaa", record: marksRecord{log: databaseMarks{synced: 5, wals: []walMark{{1, 2}}}}}
	if err := m.encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(m.buffer[:m.encodedLen()])
	f.Add([]byte(marksMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		version, node, record, err := decodeMarks(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Fatal("untyped:", err)
			}
			return
		}
		again := Marks{node: node, record: record, version: version - 1}
		if err := again.encode(); err != nil || string(again.buffer[:again.encodedLen()]) != string(b[:again.encodedLen()]) {
			t.Fatalf("%x decodes and encodes to %x, %v", b, again.buffer[:again.encodedLen()], err)
		}
	})
}
