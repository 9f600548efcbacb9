package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// spaceFS says how large the disk is, and how much of it is free.
type spaceFS struct {
	vfs.FS
	total uint64
	free  *atomic.Uint64
	err   error
}

func (fs spaceFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: fs.free.Load(), TotalBytes: fs.total}, fs.err
}

func spaceOf(fs vfs.FS, total, free uint64) spaceFS {
	s := spaceFS{FS: fs, total: total, free: &atomic.Uint64{}}
	s.free.Store(free)
	return s
}

func TestPreallocation(t *testing.T) {
	for _, test := range []struct {
		free uint64
		err  error
		want int64
	}{
		{free: 1 << 40, want: 70 << 20}, {free: 64 * 70 << 20, want: 70 << 20}, {free: 6400 << 10, want: 100 << 10}, {free: 0, want: 0},
		{err: errors.New("not supported"), want: 70 << 20},
	} {
		fs := spaceOf(vfs.NewMem(), 1<<40, test.free)
		fs.err = test.err
		if got := preallocation(fs, "d/1.log", 70<<20); got != test.want {
			t.Errorf("%d bytes free: %d, want %d", test.free, got, test.want)
		}
	}
}

// All memtables of both databases fit into the reserve, on a disk of any size:
// what is in memory must get to the disk when nothing else does.
func TestReserveHoldsMemTables(t *testing.T) {
	for total := uint64(128 << 20); total < 1<<40; total += total / 3 {
		fs := spaceOf(vfs.NewMem(), total, total)
		log := scaled(fs, "d/log", logDefaultMemTableBytes, logTableShare, leastLogTable)
		state := scaled(fs, "d/state", DefaultStateMemTableBytes, stateTableShare, leastStateTable)
		if all := logMemTableStop*log + stateStopMemTables*state; all > Reserve(total) {
			t.Errorf("disk of %d MiB: memtables of %d MiB, reserve of %d MiB", total>>20, all>>20, Reserve(total)>>20)
		}
	}
	if got := scaled(spaceOf(vfs.NewMem(), 1<<30, 0), "d", 256<<10, logTableShare, leastLogTable); got != 256<<10 {
		t.Errorf("a small wish became %d", got)
	}
}

func TestStageNeedsRoom(t *testing.T) {
	from := openReplica(t)
	mixed(t, from, 1, 200)
	stream := streamOf(t, from)
	const total = 1 << 30
	fs := spaceOf(vfs.NewMem(), total, total)
	s := openState(t, fs)
	to := replicaOf(t, s, stateReplica)
	enough := s.stageTable + Reserve(total)/2
	fs.free.Store(enough - 1)
	if _, err := to.Stage(); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a stage without room: %v", err)
	}
	fs.free.Store(enough)
	g, err := to.Stage()
	ok(t, err)
	fs.free.Store(enough - 1) // gone before the first table
	if _, err := g.ReadFrom(bytes.NewReader(stream)); !errors.Is(err, ErrNoRoom) {
		t.Errorf("staged without room: %v", err)
	}
	ok(t, g.Close())
	fs.free.Store(enough)
	ok(t, install(to, bytes.NewReader(stream)))
	if dump(t, to) != dump(t, from) {
		t.Error("installed state differs")
	}
	ok(t, s.Close())
}

func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Int())
	}
	return string(b)
}

// tableBytes is what the tables of a database take up; those that were compacted
// away are deleted in the background.
func tableBytes(t *testing.T, db *pebble.DB) (sum uint64) {
	t.Helper()
	levels, err := db.SSTables()
	ok(t, err)
	for _, table := range slices.Concat(levels...) {
		sum += table.Size
	}
	return sum
}

// What was deleted gives its room back although nothing more is written.
func TestStateReclaim(t *testing.T) {
	const total = 128 << 20
	fs := spaceOf(vfs.Default, total, total)
	s, err := OpenState(StateOptions{FS: fs, Dir: filepath.Join(t.TempDir(), "state")})
	ok(t, err)
	r := replicaOf(t, s, stateReplica)
	index := uint64(0)
	apply := func(c Command) {
		index++
		_, err := r.Apply([]ApplyEntry{entry(t, index, c)})
		ok(t, err)
	}
	const keys, size = 400, 64 << 10
	for i := range keys {
		apply(put(fmt.Sprintf("k%04d", i), noise(size)))
	}
	ok(t, s.Reclaim(t.Context()))
	full := tableBytes(t, s.db)
	if full < keys*size {
		t.Fatalf("%d bytes on disk, %d written", full, keys*size)
	}
	for i := range keys - 10 {
		apply(del(fmt.Sprintf("k%04d", i)))
	}
	fs.free.Store(1 << 20)
	if err := s.Reclaim(t.Context()); !errors.Is(err, ErrNoRoom) {
		t.Errorf("without room: %v", err)
	}
	fs.free.Store(total)
	ok(t, s.Reclaim(t.Context()))
	if left := tableBytes(t, s.db); left > full/10 {
		t.Errorf("%d of %d bytes are left", left, full)
	}
	if _, found, err := r.Get([]byte(fmt.Sprintf("k%04d", keys-1))); err != nil || !found {
		t.Errorf("the rest: %v, %v", found, err)
	}
	ok(t, s.Close())
}

// What was cut off from a Raft log does too.
func TestLogReclaim(t *testing.T) {
	fs := spaceOf(vfs.Default, 128<<20, 128<<20)
	l, err := OpenLog(LogOptions{FS: fs, Dir: filepath.Join(t.TempDir(), "log"), NodeID: "n1-aaaa", DiskSlowAfter: -1})
	mustDo(t, err)
	rl := mustReplica(t, l, Replica{1, 1})
	const entries, size = 400, 64 << 10
	for i := uint64(1); i <= entries; i++ {
		mustDo(t, rl.Append([]LogEntry{{Index: i, Term: 1, Data: []byte(noise(size))}}))
	}
	mustDo(t, l.Reclaim(t.Context(), 1<<20))
	before := tableBytes(t, l.db)
	mustDo(t, rl.DropPrefix(entries-10))
	mustDo(t, l.Reclaim(t.Context(), 1<<20))
	if after := tableBytes(t, l.db); after > before/10 {
		t.Errorf("%d of %d bytes are left", after, before)
	}
	if _, err := rl.Entry(entries); err != nil {
		t.Error(err)
	}
	fs.free.Store(1 << 20)
	if err := l.Reclaim(t.Context(), 1<<20); !errors.Is(err, ErrNoRoom) {
		t.Errorf("without room: %v", err)
	}
	mustDo(t, l.Close())
}
