package storage

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// unzipped is what a release wrote.
func unzipped(t testing.TB, name string) *vfs.MemFS {
	t.Helper()
	archive, err := zip.OpenReader(name)
	ok(t, err)
	defer archive.Close()
	fs := vfs.NewMem()
	for _, f := range archive.File {
		from, err := f.Open()
		ok(t, err)
		data, err := io.ReadAll(from)
		ok(t, err)
		ok(t, fs.MkdirAll(fs.PathDir(f.Name), 0o755))
		to, err := fs.Create(f.Name, vfs.WriteCategoryUnspecified)
		ok(t, err)
		_, err = to.Write(data)
		ok(t, err)
		ok(t, to.Close())
	}
	return fs
}

// testdata/format1.zip holds the two databases of a node, as they were before
// there were eventual writes: replicas 1-1 and 2-3, each with k00 to k19 put by
// entries 1 to 20, k00, k04, ... k16 deleted by 21 to 25, and in 26 a delete of
// "never", a put of k04, and a put that failed its condition.
func TestADirectoryWithoutEventualWritesIsTakenOver(t *testing.T) {
	fs := unzipped(t, "testdata/format1.zip")
	for range 2 {
		l, err := OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa", DiskSlowAfter: -1})
		ok(t, err)
		s, err := OpenState(StateOptions{FS: fs, Dir: "state"})
		ok(t, err)
		replicas, err := s.Replicas()
		ok(t, err)
		if fmt.Sprint(replicas) != fmt.Sprint([]Replica{{1, 1}, {2, 3}}) {
			t.Fatalf("replicas %v", replicas)
		}
		for _, name := range replicas {
			checkTakenOver(t, s, l, name)
		}
		ok(t, s.Close())
		ok(t, l.Close())
	}

	// From there eventual writes go on.
	s, err := OpenState(StateOptions{FS: fs, Dir: "state"})
	ok(t, err)
	defer func() { ok(t, s.Close()) }()
	r := replicaOf(t, s, Replica{1, 1})
	stale, heard := eventual("n3-cccc", 1, 20, 1<<40, "stale").of("k08"), eventual("n3-cccc", 2, 26, 1, "heard").of("k12")
	fates := take(t, r, ApplyEntry{Index: 27, Term: 2, Commands: [][]byte{encodeAny(t, promotionOf(stale, heard))}})[0][0].Promoted.Fates
	deleted := Version{23, 1023, "n1-aaaa"}
	if fates[0].Fate != (Fate{FateSuperseded, deleted, 27}) || fates[1].Fate.Kind != FateCommitted {
		t.Errorf("fates %+v", fates)
	}
	take(t, r, ApplyEntry{Index: 28, Term: 2, Commands: [][]byte{encodeAny(t, uint64(27))}})
	for _, key := range []string{"k00", "k08", "k16", "never"} {
		if v, found, err := r.Get([]byte(key)); err != nil || found {
			t.Errorf("%s holds %+v behind the floor (%v)", key, v, err)
		}
	}
	if r.Collectable(27) {
		t.Error("places of tombstones are left behind the floor")
	}
	for key, want := range map[string]string{"k01": "value 1", "k04": "anew", "k12": "heard"} {
		if got, _ := live(t, r, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	// And to a replica that knows nothing of the older format.
	fresh := openReplica(t)
	ok(t, install(fresh, bytes.NewReader(streamOf(t, r))))
	if dump(t, fresh) != dump(t, r) {
		t.Error("the streamed state differs")
	}
}

func checkTakenOver(t *testing.T, s *State, l *Log, name Replica) {
	t.Helper()
	r := replicaOf(t, s, name)
	if index, term := r.Applied(); index != 26 || term != 2 || r.Floor() != 0 || !r.Promoted().IsEmpty() {
		t.Errorf("%v: applied %d, %d, floor %d, promoted %v", name, index, term, r.Floor(), r.Promoted())
	}
	for i := range 20 {
		key, want := fmt.Sprintf("k%02d", i), fmt.Sprint("value ", i)
		switch {
		case i == 4:
			want = "anew"
		case i%4 == 0:
			want = ""
		}
		v, found, err := r.Get([]byte(key))
		if err != nil || !found || v.Tombstone != (want == "") || string(v.Bytes) != want || !v.Linearizable || v.LinearizableIndex != v.Version.Index {
			t.Errorf("%v: %s is %+v, %v, %v", name, key, v, found, err)
		}
	}
	if v, found, err := r.Get([]byte("never")); err != nil || !found || !v.Tombstone || v.Version.Index != 26 {
		t.Errorf("%v: never is %+v, %v, %v", name, v, found, err)
	}
	if !r.Collectable(21) || r.Collectable(20) {
		t.Errorf("%v: its tombstones are not found", name)
	}
	rl, err := l.Replica(name)
	ok(t, err)
	first, last := rl.Bounds()
	vote, err := rl.Get("vote")
	if err != nil || first != 1 || last != 26 || string(vote) != "term 2" {
		t.Errorf("%v: log from %d to %d, vote %q, %v", name, first, last, vote, err)
	}
	if held, err := l.TentativePartitions(); err != nil || len(held) > 0 {
		t.Errorf("tentative writes of %v, %v", held, err)
	}
}
