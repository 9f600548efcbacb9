package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

const pageBytes = 4096

// boltBench is a bolt file and its marks, as a killed process left them.
type boltBench struct {
	t           *testing.T
	file, marks []byte
	want        string
}

func openMarkedBolt(dir, node string, failed func(error)) (*Store, *storage.Marks, error) {
	m, err := storage.OpenMarks(storage.MarksOptions{Path: filepath.Join(dir, "marks"), NodeID: "n1-aaaa"})
	if err != nil {
		return nil, nil, err
	}
	s, err := OpenBolt(BoltOptions{Path: filepath.Join(dir, "control.bolt"), NodeID: "n1-aaaa", MustExist: node != "", Marks: m, Failed: failed})
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return s, m, nil
}

// inside is all that a store holds.
func inside(t testing.TB, s *Store) string {
	t.Helper()
	first, last, err := s.bounds()
	must(t, err)
	var b strings.Builder
	fmt.Fprint(&b, first, last, s.vote, s.stored().Index)
	for i := first; i <= last; i++ {
		var l raft.Log
		must(t, s.GetLog(i, &l))
		fmt.Fprintf(&b, " %d %d %x", l.Index, l.Term, l.Data)
	}
	term, err := s.GetUint64([]byte(keyCurrentTerm))
	must(t, err)
	fmt.Fprint(&b, term)
	return b.String()
}

func killedBolt(t *testing.T) *boltBench {
	t.Helper()
	dir := t.TempDir()
	s, m, err := openMarkedBolt(dir, "", nil)
	must(t, err)
	must(t, s.Bootstrap(three))
	for i := range uint64(30) {
		l := logs(i+2, i+2, 1)
		l[0].Data = bytes.Repeat([]byte{byte(i)}, int(50+i*13))
		must(t, s.StoreLogs(l))
	}
	putSnapshot(t, s, 20, 1)
	must(t, s.DeleteRange(1, 15))
	must(t, s.SetUint64([]byte(keyCurrentTerm), 7))
	must(t, putVote(s, 7, "b/1"))
	b := &boltBench{t: t, want: inside(t, s)}
	b.file, err = os.ReadFile(filepath.Join(dir, "control.bolt"))
	must(t, err)
	b.marks, err = os.ReadFile(filepath.Join(dir, "marks"))
	must(t, err)
	must(t, errors.Join(s.Close(), m.Close()))
	return b
}

// try opens the file as damage leaves it. It returns what was refused, in one sentence;
// nil means that it opened, and holds what was acknowledged.
func (b *boltBench) try(what string, damage func(file []byte) []byte) error {
	b.t.Helper()
	dir := b.t.TempDir()
	path := filepath.Join(dir, "control.bolt")
	must(b.t, os.WriteFile(filepath.Join(dir, "marks"), b.marks, 0o600))
	if file := damage(bytes.Clone(b.file)); file != nil {
		must(b.t, os.WriteFile(path, file, 0o600))
	}
	for range 2 {
		s, m, err := openMarkedBolt(dir, "n1-aaaa", nil)
		if err != nil {
			if !strings.Contains(err.Error(), "control.bolt") || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "empty the whole data directory") {
				b.t.Errorf("%s: not one sentence that says what to do: %v", what, err)
			}
			return err
		}
		if got := inside(b.t, s); got != b.want {
			b.t.Errorf("%s: it opens, and holds\n%s\nwant\n%s", what, got, b.want)
		}
		must(b.t, errors.Join(s.Close(), m.Close()))
	}
	return nil
}

// Whatever page of the file is damaged: it opens with all that was acknowledged, or it
// does not open and says why. It never panics, and never forgets a vote.
func TestADamagedBoltFileIsRefused(t *testing.T) {
	b := killedBolt(t)
	same := func(f []byte) []byte { return f }
	if err := b.try("undamaged", same); err != nil {
		t.Fatal(err)
	}
	pages := len(b.file) / pageBytes
	random := rand.New(rand.NewPCG(3, 1))
	noise := func(f []byte) {
		for i := range f {
			f[i] = byte(random.Uint32())
		}
	}
	refused := map[int]int{}
	for page := range pages {
		at := page * pageBytes
		tries := map[string]func(f []byte) []byte{
			"zeroed":            func(f []byte) []byte { clear(f[at : at+pageBytes]); return f },
			"noise":             func(f []byte) []byte { noise(f[at : at+pageBytes]); return f },
			"cut":               func(f []byte) []byte { return f[:at] },
			"cut in the middle": func(f []byte) []byte { return f[:at+pageBytes/2] },
		}
		for _, offset := range []int{0, 8, 10, 12, 16, 20, 24, 28, 40, 64} {
			for _, flip := range []byte{1, 0xff} {
				tries[fmt.Sprintf("byte %d by %#x", offset, flip)] = func(f []byte) []byte { f[at+offset] ^= flip; return f }
			}
		}
		for range 6 {
			offset, flip := random.IntN(pageBytes), byte(1<<random.IntN(8))
			tries[fmt.Sprintf("byte %d by %#x", offset, flip)] = func(f []byte) []byte { f[at+offset] ^= flip; return f }
		}
		for what, damage := range tries {
			if err := b.try(fmt.Sprintf("page %d of %d: %s", page, pages, what), damage); err != nil {
				refused[page]++
				if !errors.Is(err, storage.ErrDamaged) && !errors.Is(err, storage.ErrLogLost) && !errors.Is(err, storage.ErrLogMissing) {
					t.Errorf("page %d, %s: %v", page, what, err)
				}
			}
		}
	}
	if len(refused) < 4 {
		t.Errorf("refused by page: %v", refused)
	}
}

// Of the two pages with bolt's roots a damaged one means the transaction before the
// last, without a word. The mark knows better.
func TestALostTransactionIsRefused(t *testing.T) {
	b := killedBolt(t)
	outcomes := map[string]int{}
	for page := range 2 {
		err := b.try(fmt.Sprint("root page ", page), func(f []byte) []byte { f[page*pageBytes+40] ^= 0xff; return f })
		switch {
		case err == nil:
			outcomes["the older one: nothing is lost"]++
		case errors.Is(err, storage.ErrLogLost):
			outcomes["the newer one: a transaction is lost"]++
		default:
			t.Errorf("page %d: %v", page, err)
		}
	}
	if len(outcomes) != 2 {
		t.Errorf("%v", outcomes)
	}
	for what, damage := range map[string]func(f []byte) []byte{
		"both root pages": func(f []byte) []byte { f[40] ^= 0xff; f[pageBytes+40] ^= 0xff; return f },
		"emptied":         func([]byte) []byte { return []byte{} },
		"removed":         func([]byte) []byte { return nil },
		"not bolt's":      func([]byte) []byte { return []byte(strings.Repeat("something else ", 2000)) },
	} {
		if err := b.try(what, damage); err == nil {
			t.Errorf("%s: it opens", what)
		}
	}
}

// An older copy of the file is refused, also one of a former start.
func TestAnOlderBoltFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "control.bolt")
	s, m, err := openMarkedBolt(dir, "", nil)
	must(t, err)
	must(t, s.StoreLogs(logs(1, 3, 1)))
	copyOf := func() []byte {
		b, err := os.ReadFile(path)
		must(t, err)
		return b
	}
	within := copyOf()
	must(t, putVote(s, 3, "a/1"))
	must(t, errors.Join(s.Close(), m.Close()))
	before := copyOf()
	for what, old := range map[string][]byte{"of the same start": within, "of the same start, which was stopped since": before} {
		if what != "of the same start" {
			s, m, err := openMarkedBolt(dir, "n1-aaaa", nil)
			must(t, err)
			must(t, errors.Join(s.Close(), m.Close()))
		}
		now := copyOf()
		must(t, os.WriteFile(path, old, 0o600))
		if _, _, err := openMarkedBolt(dir, "n1-aaaa", nil); !errors.Is(err, storage.ErrLogLost) {
			t.Errorf("a copy %s: %v", what, err)
		}
		must(t, os.WriteFile(path, now, 0o600))
	}
	s, m, err = openMarkedBolt(dir, "n1-aaaa", nil)
	must(t, err)
	must(t, errors.Join(s.Close(), m.Close()))
}

// A file that is damaged while it is open is told, and never read again.
func TestABoltFileDamagedWhileOpen(t *testing.T) {
	dir := t.TempDir()
	var told []error
	s, m, err := openMarkedBolt(dir, "", func(err error) { told = append(told, err) })
	must(t, err)
	for i := range uint64(40) {
		l := logs(i+1, i+1, 1)
		l[0].Data = bytes.Repeat([]byte{byte(i)}, 3000)
		must(t, s.StoreLogs(l))
	}
	must(t, os.Truncate(filepath.Join(dir, "control.bolt"), 2*pageBytes))
	var l raft.Log
	var failure error
	for i := uint64(1); i <= 40 && failure == nil; i++ {
		failure = s.GetLog(i, &l)
	}
	if !errors.Is(failure, storage.ErrDamaged) || !strings.Contains(failure.Error(), "control.bolt") || len(told) != 1 {
		t.Errorf("%v, told %v", failure, told)
	}
	if err := s.StoreLogs(logs(41, 41, 1)); !errors.Is(err, storage.ErrDamaged) || len(told) != 1 {
		t.Errorf("a write afterwards: %v, told %v", err, told)
	}
	must(t, errors.Join(s.Close(), m.Close()))
}
