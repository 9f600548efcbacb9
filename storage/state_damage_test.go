package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// damageWorld is a state database in real files, with three replicas of one key
// range each, side by side in the same tables.
type damageWorld struct {
	t        *testing.T
	dir      string
	state    *State
	replicas []Replica
	index    uint64

	mu       sync.Mutex
	corrupt  []EventCorruption
	damaged  []EventReplicaDamaged
	failures int // of compactions
}

const damageKeys = 60

func newDamageWorld(t *testing.T) *damageWorld {
	w := &damageWorld{t: t, dir: filepath.Join(t.TempDir(), "state")}
	for g := range 3 {
		w.replicas = append(w.replicas, Replica{Group: GroupID(3 + g), Generation: 1})
	}
	w.open()
	return w
}

func (w *damageWorld) open() {
	w.t.Helper()
	var err error
	w.state, err = OpenState(StateOptions{FS: vfs.Default, Dir: w.dir, CacheBytes: 1, MemTableBytes: 1 << 20, Events: w.hear})
	ok(w.t, err)
	w.t.Cleanup(func() { _ = w.state.Close() })
}

func (w *damageWorld) hear(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := e.(type) {
	case EventCorruption:
		w.corrupt = append(w.corrupt, e)
	case EventReplicaDamaged:
		w.damaged = append(w.damaged, e)
	case EventCompactionEnd:
		if e.Err != nil {
			w.failures++
		}
	}
}

func damageKey(i int) string { return fmt.Sprintf("k%03d", i) }

// damageValue cannot be compressed, so that it is found in the tables as it is.
func damageValue(r Replica, i int) string {
	bytes := make([]byte, 2000)
	random := rand.NewChaCha8([32]byte{byte(r.Group), byte(i)})
	_, _ = random.Read(bytes)
	return string(bytes)
}

// write writes all keys of all replicas.
func (w *damageWorld) write() {
	w.t.Helper()
	for i := range damageKeys {
		w.index++
		for _, r := range w.replicas {
			_, err := replicaOf(w.t, w.state, r).Apply([]ApplyEntry{entry(w.t, w.index, put(damageKey(i), damageValue(r, i)))})
			ok(w.t, err)
		}
	}
}

func (w *damageWorld) compact() error {
	return w.state.db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
}

// flip changes one byte of that value, wherever it is stored.
func (w *damageWorld) flip(r Replica, key int) {
	w.t.Helper()
	tables, err := filepath.Glob(filepath.Join(w.dir, "*.sst"))
	ok(w.t, err)
	flipped := 0
	for _, table := range tables {
		content, err := os.ReadFile(table)
		ok(w.t, err)
		at := bytes.Index(content, []byte(damageValue(r, key)))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(table, os.O_WRONLY, 0)
		ok(w.t, err)
		_, err = f.WriteAt([]byte{content[at] ^ 0x5a}, int64(at))
		ok(w.t, errors.Join(err, f.Close()))
		flipped++
	}
	if flipped == 0 {
		w.t.Fatalf("key %d of %v is in no table", key, r)
	}
}

// intact checks that all of r can be read, and is what was written.
func (w *damageWorld) intact(r Replica) {
	w.t.Helper()
	rs := replicaOf(w.t, w.state, r)
	if index, _ := rs.Applied(); index != w.index {
		w.t.Errorf("%v has applied %d, want %d", r, index, w.index)
	}
	for i := range damageKeys {
		v, found, err := rs.Get([]byte(damageKey(i)))
		if err != nil || !found || string(v.Bytes) != damageValue(r, i) {
			w.t.Fatalf("key %d of %v: found %v, %v", i, r, found, err)
		}
	}
}

func (w *damageWorld) events() (corrupt []EventCorruption, damaged []EventReplicaDamaged) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.corrupt), slices.Clone(w.damaged)
}

// One flipped byte of a table is met by each kind of read of the replica that it
// belongs to, and by no other replica.
func TestDamageIsMetByItsReplicaAlone(t *testing.T) {
	w := newDamageWorld(t)
	w.write()
	ok(t, w.state.db.Flush())
	ok(t, w.compact())
	hurt := w.replicas[1]
	w.flip(hurt, 30)
	w.intact(w.replicas[0])
	w.intact(w.replicas[2])
	rs := replicaOf(t, w.state, hurt)
	key := []byte(damageKey(30))
	reads := map[string]func() error{
		"get":   func() error { _, _, err := rs.Get(key); return err },
		"local": func() error { _, err := Local{State: rs}.Read(key); return err },
		"merge": func() error { _, err := Local{State: rs}.ReadToMerge(key); return err },
		"newest": func() error {
			_, err := Local{State: rs}.Newest(key)
			return err
		},
		"local scan": func() error { _, err := Local{State: rs}.Scan(ScanOptions{}); return err },
		"scan":       func() error { _, err := rs.Scan(ScanOptions{}); return err },
		"stream": func() error {
			v, err := rs.View()
			ok(t, err)
			_, err = v.WriteTo(io.Discard)
			return errors.Join(err, v.Close())
		},
		"apply": func() error {
			_, err := rs.Apply([]ApplyEntry{entry(t, w.index+1, put(string(key), "x").when(ConditionAbsent))})
			return err
		},
	}
	for what, read := range reads {
		err := read()
		if !errors.Is(err, ErrStateDamaged) {
			t.Errorf("%s: %v", what, err)
		} else if text := err.Error(); strings.Contains(text, "\n") || !strings.Contains(text, ".sst") {
			t.Errorf("%s: the error is not one line that names the table: %q", what, text)
		}
	}
	corrupt, damaged := w.events()
	if len(damaged) != 1 || damaged[0].Replica != hurt {
		t.Errorf("damage was reported %d times: %v", len(damaged), damaged)
	}
	if len(corrupt) == 0 {
		t.Fatal("the damaged table was not reported")
	}
	found, err := w.state.Examine(w.replicas, corrupt[0].Start, corrupt[0].End)
	ok(t, err)
	if len(found) != 1 || !errors.Is(found[hurt], ErrStateDamaged) {
		t.Errorf("examined: %v", found)
	}
}

// A command that cannot be decoded says nothing about the state.
func TestABadCommandIsNoDamage(t *testing.T) {
	r := openReplica(t)
	_, err := r.Apply([]ApplyEntry{{Index: 1, Term: 1, Commands: [][]byte{{0xff}}}})
	if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrStateDamaged) {
		t.Error(err)
	}
}

// Once the damaged replica is discarded, compactions get on, and the others are whole;
// also when the damaged block holds the end of one replica and the beginning of the next.
func TestDiscardFreesTheDatabaseOfDamage(t *testing.T) {
	for name, at := range map[string]struct {
		of, key int
		lost    []int
	}{
		"in the middle of a replica": {1, 30, []int{1}},
		"where two replicas meet":    {0, damageKeys - 1, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDamageWorld(t)
			w.write()
			ok(t, w.state.db.Flush())
			ok(t, w.compact())
			w.flip(w.replicas[at.of], at.key)
			w.write() // so that there is something to compact
			if err := w.compact(); !pebble.IsCorruptionError(err) {
				t.Fatalf("compaction over damage: %v", err)
			}
			corrupt, _ := w.events()
			found, err := w.state.Examine(w.replicas, corrupt[0].Start, corrupt[0].End)
			ok(t, err)
			var lost []Replica
			for _, n := range at.lost {
				lost = append(lost, w.replicas[n])
				if found[w.replicas[n]] == nil {
					t.Errorf("%v is not found to be damaged", w.replicas[n])
				}
			}
			if len(found) != len(lost) {
				t.Errorf("examined: %v", found)
			}
			handle := replicaOf(t, w.state, lost[0])
			view, err := handle.View()
			ok(t, err)
			ok(t, w.state.Discard(lost, w.replicas))
			if _, err := view.Scan(ScanOptions{}); !errors.Is(err, ErrViewReplaced) {
				t.Errorf("a view of what was discarded: %v", err)
			}
			ok(t, view.Close())
			if _, _, err := handle.Get([]byte("k")); !errors.Is(err, ErrReplicaDestroyed) {
				t.Errorf("a read of what was discarded: %v", err)
			}
			ok(t, w.compact())
			for n, r := range w.replicas {
				if !slices.Contains(at.lost, n) {
					w.intact(r)
				}
			}
			ok(t, w.state.Close())
			w.open()
			for n, r := range w.replicas {
				if !slices.Contains(at.lost, n) {
					w.intact(r)
				} else if index, _ := replicaOf(t, w.state, r).Applied(); index != 0 {
					t.Errorf("%v was discarded and has applied %d", r, index)
				}
			}
		})
	}
}

// Pebble takes a damaged block beside the span that it excises for the end of the table.
// To destroy or install a replica beside undetected damage must not take its neighbor's
// keys with it.
func TestExciseBesideDamageIsRefused(t *testing.T) {
	w := newDamageWorld(t)
	w.write()
	ok(t, w.state.db.Flush())
	ok(t, w.compact())
	// The last keys of the first replica share their block with the next one's first;
	// where the block begins is a matter of sizes, so the damage is a little before.
	w.flip(w.replicas[0], damageKeys-1)
	var stream bytes.Buffer
	source := openReplica(t)
	_, err := source.Apply([]ApplyEntry{entry(t, 1000, put("k", "v"))})
	ok(t, err)
	v, err := source.View()
	ok(t, err)
	_, err = v.WriteTo(&stream)
	ok(t, errors.Join(err, v.Close()))
	stage, err := replicaOf(t, w.state, w.replicas[1]).Stage()
	ok(t, err)
	_, err = stage.ReadFrom(&stream)
	ok(t, err)
	if err := stage.Install(); err == nil || errors.Is(err, ErrStateDamaged) {
		t.Errorf("install: %v", err)
	}
	ok(t, stage.Close())
	if err := w.state.Destroy(w.replicas[1]); err == nil {
		t.Error("destroyed")
	}
	for i := range damageKeys / 2 { // far from the damaged block
		v, found, err := replicaOf(t, w.state, w.replicas[0]).Get([]byte(damageKey(i)))
		if err != nil || !found || string(v.Bytes) != damageValue(w.replicas[0], i) {
			t.Fatalf("key %d of the neighbor: found %v, %v", i, found, err)
		}
	}
}

func TestCompactionFailuresInARow(t *testing.T) {
	broken := errors.New("no")
	now := time.Unix(0, 0)
	var f compactionFailures
	for range 100 * maxCompactionFailures { // a hot loop
		if err := f.ended(broken, now); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(compactionPatience)
	if err := f.ended(nil, now); err != nil {
		t.Fatal(err)
	}
	for i := range maxCompactionFailures {
		err := f.ended(broken, now)
		if (err != nil) != (i == maxCompactionFailures-1) {
			t.Fatalf("after %d failures: %v", i+1, err)
		}
		now = now.Add(compactionPatience/(maxCompactionFailures-1) + 1)
	}
}
