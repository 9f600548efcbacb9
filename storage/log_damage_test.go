package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// heldTables is a disk on which no table can be made until it is let go: memtables
// wait for their flush, and several write-ahead logs hold what nothing else holds.
type heldTables struct {
	vfs.FS
	once sync.Once
	free chan struct{}
}

func holdTables() *heldTables { return &heldTables{FS: vfs.Default, free: make(chan struct{})} }

func (h *heldTables) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") {
		<-h.free
	}
	return h.FS.Create(name, c)
}

func (h *heldTables) letGo() { h.once.Do(func() { close(h.free) }) }

// damageBench is a data directory on a real disk, as a killed process left it.
type damageBench struct {
	t    *testing.T
	dir  string // as it was left; never touched
	last uint64 // the last entry acknowledged in it
}

func openMarked(t testing.TB, fsys vfs.FS, dir string) (*Log, *Marks, error) {
	t.Helper()
	m, err := OpenMarks(MarksOptions{FS: fsys, Path: filepath.Join(dir, "marks"), NodeID: "n1-aaaa"})
	if err != nil {
		return nil, nil, err
	}
	l, err := OpenLog(LogOptions{FS: fsys, Dir: filepath.Join(dir, "log"), NodeID: "n1-aaaa", Marks: m, MemTableBytes: logTestMemTable, DiskSlowAfter: -1})
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return l, m, nil
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	mustDo(t, os.RemoveAll(to))
	mustDo(t, os.CopyFS(to, os.DirFS(from)))
}

// killed fills a log and copies it as it stands: with some tables, and then, if hold,
// with several write-ahead logs that no table holds yet.
func killed(t *testing.T, hold bool) *damageBench {
	t.Helper()
	live := t.TempDir()
	disk := holdTables()
	disk.letGo()
	l, m, err := openMarked(t, disk, live)
	mustDo(t, err)
	rl := mustReplica(t, l, testReplica)
	random := rand.New(rand.NewPCG(1, 2))
	last := uint64(0)
	fill := func(bytes int) {
		for size := 0; size < bytes; {
			last++
			data := make([]byte, 2000+random.IntN(2000))
			for i := range data {
				data[i] = byte(random.IntN(256))
			}
			size += len(data)
			mustDo(t, rl.Append([]LogEntry{{Index: last, Term: 1, Data: data}}))
		}
	}
	fill(1 << 20)
	if hold {
		mustDo(t, l.db.Flush())
		disk = holdTables()
		l.guard.FS = disk // from here on nothing is flushed
		fill(650 << 10)
	} else {
		fill(20 << 10)
	}
	b := &damageBench{t: t, dir: t.TempDir(), last: last}
	copyDir(t, live, b.dir)
	disk.letGo()
	mustDo(t, errors.Join(l.Close(), m.Close()))
	return b
}

// try damages a copy and opens it. It returns what was refused; nil means that it
// opened, and holds all that was acknowledged.
func (b *damageBench) try(what string, damage func(dir string)) error {
	b.t.Helper()
	dir := filepath.Join(b.t.TempDir(), "d")
	copyDir(b.t, b.dir, dir)
	damage(dir)
	for range 2 { // what is refused once is refused again
		l, m, err := openMarked(b.t, vfs.Default, dir)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				b.t.Errorf("%s: more than a sentence: %v", what, err)
			}
			if l, _, again := openMarked(b.t, vfs.Default, dir); again == nil {
				b.t.Errorf("%s: refused once, and not the second time: %v", what, err)
				mustDo(b.t, l.Close())
			}
			return err
		}
		rl := mustReplica(b.t, l, testReplica)
		missing := 0
		for i := uint64(1); i <= b.last; i++ {
			if e, err := rl.Entry(i); err != nil || e.Term != 1 {
				missing++
			}
		}
		if missing > 0 || rl.LastIndex() != b.last {
			b.t.Errorf("%s: opened, and %d of %d acknowledged entries are missing", what, missing, b.last)
		}
		mustDo(b.t, errors.Join(l.Close(), m.Close()))
	}
	return nil
}

func files(t testing.TB, dir, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, pattern))
	mustDo(t, err)
	slices.Sort(list)
	return list
}

// used is the length of a file without the zeroes at its end.
func used(t testing.TB, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	mustDo(t, err)
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

// walEnd is where the records of a write-ahead log end; a reused file is longer.
func walEnd(t testing.TB, path string) int {
	t.Helper()
	number, _ := walNumber(filepath.Base(path))
	f, err := os.Open(path)
	mustDo(t, err)
	defer f.Close()
	reader := newRecordReader(f, number)
	end := 0
	for {
		if _, err := nextBatch(reader); err != nil {
			return end
		}
		end = int(reader.Offset())
	}
}

func flip(t testing.TB, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	mustDo(t, err)
	b[at] ^= 0x5a
	mustDo(t, os.WriteFile(path, b, 0o600))
}

func cut(t testing.TB, path string, at int) {
	t.Helper()
	mustDo(t, os.Truncate(path, int64(at)))
}

// Each way to lose acknowledged entries is refused at the next start, in one sentence.
func TestALogThatHasLostEntriesIsRefused(t *testing.T) {
	for _, hold := range []bool{false, true} {
		b := killed(t, hold)
		if err := b.try("undamaged", func(string) {}); err != nil {
			t.Fatalf("undamaged, hold %v: %v", hold, err)
		}
		refused := func(what string, damage func(dir string)) {
			t.Helper()
			err := b.try(what, damage)
			if !errors.Is(err, ErrLogLost) && !errors.Is(err, ErrLogCorrupt) && !errors.Is(err, ErrLogMissing) {
				t.Errorf("%s, hold %v: %v", what, hold, err)
			} else if !strings.Contains(err.Error(), "empty the whole data directory") {
				t.Errorf("%s, hold %v: no way out in %v", what, hold, err)
			}
		}
		wals := files(t, b.dir, "log/*.log")
		newest := filepath.Base(wals[len(wals)-1])
		at := func(dir string, name string) string { return filepath.Join(dir, "log", name) }
		refused("newest WAL flipped at its start", func(d string) { flip(t, at(d, newest), 30) })
		refused("newest WAL flipped in the middle", func(d string) { p := at(d, newest); flip(t, p, walEnd(t, p)/2) })
		refused("newest WAL flipped 1,000 bytes before its end", func(d string) { p := at(d, newest); flip(t, p, walEnd(t, p)-1000) })
		refused("newest WAL flipped at its end", func(d string) { p := at(d, newest); flip(t, p, walEnd(t, p)-1) })
		refused("newest WAL cut", func(d string) { p := at(d, newest); cut(t, p, walEnd(t, p)-5000) })
		refused("newest WAL cut by a byte", func(d string) { p := at(d, newest); cut(t, p, walEnd(t, p)-1) })
		refused("newest WAL emptied", func(d string) { cut(t, at(d, newest), 0) })
		refused("newest WAL removed", func(d string) { mustDo(t, os.Remove(at(d, newest))) })
		refused("all WALs emptied", func(d string) {
			for _, p := range files(t, d, "log/*.log") {
				cut(t, p, 0)
			}
		})
		refused("all WALs removed", func(d string) {
			for _, p := range files(t, d, "log/*.log") {
				mustDo(t, os.Remove(p))
			}
		})
		if hold {
			if len(wals) < 3 {
				t.Fatalf("only %d write-ahead logs", len(wals))
			}
			for i := range 3 {
				name := filepath.Base(wals[len(wals)-1-i])
				refused(fmt.Sprintf("WAL %d from the end removed", i), func(d string) { mustDo(t, os.Remove(at(d, name))) })
				refused(fmt.Sprintf("WAL %d from the end emptied", i), func(d string) { cut(t, at(d, name), 0) })
				refused(fmt.Sprintf("WAL %d from the end cut at a block", i), func(d string) { cut(t, at(d, name), 32<<10) })
				refused(fmt.Sprintf("WAL %d from the end flipped", i), func(d string) { flip(t, at(d, name), 70_000) })
			}
		}
		manifest := filepath.Base(files(t, b.dir, "log/MANIFEST-*")[0])
		refused("MANIFEST flipped in the middle", func(d string) { p := at(d, manifest); flip(t, p, used(t, p)/2) })
		refused("MANIFEST flipped at its end", func(d string) { p := at(d, manifest); flip(t, p, used(t, p)-3) })
		refused("MANIFEST cut", func(d string) { p := at(d, manifest); cut(t, p, used(t, p)-3) })
		refused("MANIFEST emptied", func(d string) { cut(t, at(d, manifest), 0) })
		refused("MANIFEST removed", func(d string) { mustDo(t, os.Remove(at(d, manifest))) })
		refused("log/ removed", func(d string) { mustDo(t, os.RemoveAll(filepath.Join(d, "log"))) })
		refused("log/ emptied", func(d string) {
			mustDo(t, os.RemoveAll(filepath.Join(d, "log")))
			mustDo(t, os.Mkdir(filepath.Join(d, "log"), 0o700))
		})
	}
}

// Whatever byte of log/ is changed, wherever a file of it is cut: it opens with all that
// was acknowledged, or it does not open. Tables are read as they are needed; what a
// damaged one says is told when it is read.
func TestALogOpensWholeOrNotAtAll(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	for _, hold := range []bool{false, true} {
		b := killed(t, hold)
		var names []string
		mustDo(t, fs.WalkDir(os.DirFS(filepath.Join(b.dir, "log")), ".", func(p string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && !strings.HasSuffix(p, ".sst") && !strings.HasPrefix(p, "OPTIONS") {
				names = append(names, p)
			}
			return err
		}))
		refusals := 0
		for range 60 {
			name := names[random.IntN(len(names))]
			at := used(t, filepath.Join(b.dir, "log", name))
			where := random.IntN(at + 1)
			if where > 0 && random.IntN(2) == 0 {
				where = at - random.IntN(min(at, 4000)) - 1
			}
			what, damage := "removed", func(p string) { mustDo(t, os.Remove(p)) }
			switch random.IntN(5) {
			case 0, 1, 2:
				if at > 0 && where < at {
					what, damage = fmt.Sprint("flipped at ", where, " of ", at), func(p string) { flip(t, p, where) }
				}
			case 3:
				what, damage = fmt.Sprint("cut at ", where, " of ", at), func(p string) { cut(t, p, where) }
			}
			if err := b.try(name+" "+what, func(d string) { damage(filepath.Join(d, "log", name)) }); err != nil {
				refusals++
			}
		}
		if refusals < 20 {
			t.Errorf("only %d of 60 were refused", refusals)
		}
	}
}

// A state database may end too early: the Raft logs bring the rest again. It may not
// have a gap, which nobody would fill.
func TestAStateWithAGapIsRefused(t *testing.T) {
	live, left := t.TempDir(), t.TempDir()
	openMarkedState := func(fsys vfs.FS, dir string) (*State, error) {
		m, err := OpenMarks(MarksOptions{FS: fsys, Path: filepath.Join(dir, "marks"), NodeID: "n1-aaaa"})
		mustDo(t, err)
		s, err := OpenState(StateOptions{FS: fsys, Dir: filepath.Join(dir, "state"), NodeID: "n1-aaaa", Marks: m, CacheBytes: 1 << 20, MemTableBytes: logTestMemTable})
		if err != nil {
			mustDo(t, m.Close())
		}
		return s, err
	}
	disk := holdTables()
	s, err := openMarkedState(disk, live)
	mustDo(t, err)
	r := replicaOf(t, s, stateReplica)
	random, last := rand.New(rand.NewPCG(3, 3)), uint64(0)
	for range 200 {
		value := make([]byte, 3000)
		for i := range value {
			value[i] = byte(random.IntN(256))
		}
		last++
		c := put(fmt.Sprint("key", last), string(value))
		_, err := r.Apply([]ApplyEntry{{Index: last, Term: 1, Commands: [][]byte{encodeAny(t, c)}}})
		mustDo(t, err)
	}
	mustDo(t, s.Sync())
	copyDir(t, live, left)
	disk.letGo()
	mustDo(t, s.Close())
	wals := files(t, left, "state/*.log")
	if len(wals) < 3 {
		t.Fatalf("%d write-ahead logs", len(wals))
	}
	try := func(what string, gap bool, damage func(path string), name string) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "d")
		copyDir(t, left, dir)
		damage(filepath.Join(dir, "state", filepath.Base(name)))
		s, err := openMarkedState(vfs.Default, dir)
		if gap {
			if err == nil {
				mustDo(t, s.Close())
			}
			if !errors.Is(err, ErrStateLost) && !errors.Is(err, ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "empty the whole data directory") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		for again := range 3 { // what was missing is not missed later
			r := replicaOf(t, s, stateReplica)
			applied, _ := r.Applied()
			for i := uint64(1); i <= applied; i++ {
				if _, found, err := r.Get([]byte(fmt.Sprint("key", i))); !found || err != nil {
					t.Errorf("%s: applied %d of %d, and entry %d is missing: %v", what, applied, last, i, err)
					break
				}
			}
			c := put(fmt.Sprint("key", applied+1), "again")
			_, err := r.Apply([]ApplyEntry{{Index: applied + 1, Term: 1, Commands: [][]byte{encodeAny(t, c)}}})
			mustDo(t, errors.Join(err, s.Close()))
			if s, err = openMarkedState(vfs.Default, dir); err != nil {
				t.Fatalf("%s, start %d: %v", what, again+2, err)
			}
		}
		mustDo(t, s.Close())
	}
	newest, middle, oldest := wals[len(wals)-1], wals[len(wals)-2], wals[0]
	nothing := func(string) {}
	remove := func(p string) { mustDo(t, os.Remove(p)) }
	empty := func(p string) { cut(t, p, 0) }
	try("undamaged", false, nothing, newest)
	try("newest WAL removed", false, remove, newest)
	try("newest WAL emptied", false, empty, newest)
	try("state/ removed", false, func(p string) { mustDo(t, os.RemoveAll(filepath.Dir(p))) }, newest)
	try("newest WAL cut", false, func(p string) { cut(t, p, 20_000) }, newest)
	try("newest WAL flipped near its end", false, func(p string) { flip(t, p, walEnd(t, p)-10) }, newest)
	for _, name := range []string{middle, oldest} {
		try("older WAL removed", true, remove, name)
		try("older WAL emptied", true, empty, name)
		try("older WAL cut", true, func(p string) { cut(t, p, 40_000) }, name)
		try("older WAL without its end", true, func(p string) { cut(t, p, walEnd(t, p)) }, name)
		try("older WAL flipped", true, func(p string) { flip(t, p, 100_000) }, name)
	}
	manifest := files(t, left, "state/MANIFEST-*")[0]
	try("MANIFEST flipped in the middle", true, func(p string) { flip(t, p, used(t, p)/2) }, manifest)
	try("MANIFEST flipped at its end", true, func(p string) { flip(t, p, used(t, p)-3) }, manifest)
	try("MANIFEST cut", true, func(p string) { cut(t, p, used(t, p)-3) }, manifest)
	try("MANIFEST removed", true, remove, manifest)
}
