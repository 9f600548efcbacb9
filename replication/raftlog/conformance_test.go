package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/storage"
)

// bench is one implementation under test: open opens the same replica's store
// again each time, after the one before was closed.
type bench struct {
	name string
	make func(t testing.TB) (open func() *Store, close func(*Store))
}

var replica = storage.Replica{Group: 2, Generation: 1}

func openShared(t testing.TB, fs vfs.FS) (*Store, *storage.Log) {
	t.Helper()
	l, err := storage.OpenLog(storage.LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa", MemTableBytes: 256 << 10, DiskSlowAfter: -1})
	must(t, err)
	rl, err := l.Replica(replica)
	must(t, err)
	s, err := Open(rl)
	must(t, err)
	return s, l
}

func openBoltAt(t testing.TB, path string) *Store {
	t.Helper()
	s, err := OpenBolt(BoltOptions{Path: path, NodeID: "n1-aaaa"})
	must(t, err)
	return s
}

var benches = []bench{
	{"pebble", func(t testing.TB) (func() *Store, func(*Store)) {
		fs := vfs.NewMem()
		var l *storage.Log
		return func() (s *Store) { s, l = openShared(t, fs); return s }, func(s *Store) { must(t, s.Close()); must(t, l.Close()) }
	}},
	{"bolt", func(t testing.TB) (func() *Store, func(*Store)) {
		path := filepath.Join(t.TempDir(), "raft.bolt")
		return func() *Store { return openBoltAt(t, path) }, func(s *Store) { must(t, s.Close()) }
	}},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func logs(from, to, term uint64) []*raft.Log {
	var ls []*raft.Log
	for i := from; i <= to; i++ {
		ls = append(ls, &raft.Log{Index: i, Term: term, Data: fmt.Appendf(nil, "%d@%d", i, term)})
	}
	return ls
}

func checkLog(t testing.TB, s *Store, first, last uint64) {
	t.Helper()
	f, err1 := s.FirstIndex()
	l, err2 := s.LastIndex()
	if f != first || l != last || err1 != nil || err2 != nil {
		t.Fatalf("log is %d to %d, want %d to %d (%v, %v)", f, l, first, last, err1, err2)
	}
	for i := first; i <= last && i > 0; i++ {
		var e raft.Log
		if err := s.GetLog(i, &e); err != nil || e.Index != i {
			t.Fatalf("entry %d of %d to %d: %v", i, first, last, err)
		}
	}
	for _, i := range []uint64{first - 1, last + 1} {
		err := s.GetLog(i, new(raft.Log))
		if m := s.stored(); m != nil && m.Index == i && i > 1 {
			if err != nil {
				t.Fatalf("the snapshot's last entry %d: %v", i, err)
			}
		} else if !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("entry %d outside of %d to %d: %v", i, first, last, err)
		}
	}
}

func term(t testing.TB, s *Store, index uint64) uint64 {
	t.Helper()
	var e raft.Log
	must(t, s.GetLog(index, &e))
	return e.Term
}

func putVote(s *Store, term uint64, candidate string) error {
	return errors.Join(s.SetUint64([]byte(keyLastVoteTerm), term), s.Set([]byte(keyLastVoteCand), []byte(candidate)))
}

func checkVote(t testing.TB, s *Store, term uint64, candidate string) {
	t.Helper()
	n, err1 := s.GetUint64([]byte(keyLastVoteTerm))
	c, err2 := s.Get([]byte(keyLastVoteCand))
	if n != term || string(c) != candidate || err1 != nil || err2 != nil {
		t.Fatalf("vote is %d for %q (%v, %v), want %d for %q", n, c, err1, err2, term, candidate)
	}
}

func putSnapshot(t testing.TB, s *Store, index, term uint64) {
	t.Helper()
	must(t, s.setSnapshot(meta{Version: 1, Index: index, Term: term, Configuration: three, ConfigurationIndex: 1}, 0))
}

var three = raft.Configuration{Servers: []raft.Server{
	{ID: "a/1", Address: "a/1"}, {ID: "b/1", Address: "b/1"}, {Suffrage: raft.Nonvoter, ID: "c/1", Address: "c/1"},
}}

func TestConformance(t *testing.T) {
	cases := map[string]func(t *testing.T, s *Store, reopen func() *Store){
		"an empty log": func(t *testing.T, s *Store, reopen func() *Store) {
			checkLog(t, s, 0, 0)
			checkLog(t, reopen(), 0, 0)
			if !s.IsMonotonic() {
				t.Error("not monotonic")
			}
		},
		"entries come back as they were": func(t *testing.T, s *Store, reopen func() *Store) {
			want := []*raft.Log{
				{Index: 1, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(5, 6)},
				{Index: 2, Term: 3, Type: raft.LogBarrier},
				{Index: 3, Term: 3, Type: raft.LogNoop, Extensions: []byte{0}},
				{Index: 4, Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte("x"), 4<<20)},
			}
			must(t, s.StoreLog(want[0]))
			must(t, s.StoreLogs(want[1:]))
			must(t, s.StoreLogs(nil))
			for range 2 {
				checkLog(t, s, 1, 4)
				for _, w := range want {
					got := raft.Log{Data: []byte("left over"), Extensions: []byte("left over")}
					must(t, s.GetLog(w.Index, &got))
					if got.Index != w.Index || got.Term != w.Term || got.Type != w.Type || !bytes.Equal(got.Data, w.Data) ||
						!bytes.Equal(got.Extensions, w.Extensions) || !got.AppendedAt.Equal(w.AppendedAt) {
						t.Fatalf("entry %d came back changed", w.Index)
					}
				}
				s = reopen()
			}
		},
		"a conflicting suffix is deleted and written anew": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, s.StoreLogs(logs(1, 9, 1)))
			must(t, s.DeleteRange(5, 9))
			checkLog(t, s, 1, 4)
			s = reopen() // as if the request had not come
			checkLog(t, s, 1, 9)
			must(t, s.DeleteRange(5, 9))
			must(t, s.StoreLogs(logs(5, 6, 2)))
			s = reopen()
			checkLog(t, s, 1, 6)
			if term(t, s, 4) != 1 || term(t, s, 5) != 2 {
				t.Error("wrong terms")
			}
		},
		"an overlap replaces the suffix": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, s.StoreLogs(logs(1, 9, 1)))
			must(t, s.StoreLogs(logs(4, 5, 2)))
			checkLog(t, s, 1, 5)
			must(t, s.StoreLogs(logs(1, 2, 3)))
			checkLog(t, reopen(), 1, 2)
		},
		"a prefix is cut off": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, s.StoreLogs(logs(1, 9, 1)))
			must(t, s.DeleteRange(1, 4))
			checkLog(t, s, 5, 9)
			must(t, s.DeleteRange(1, 6))
			s = reopen()
			checkLog(t, s, 7, 9)
			if err := s.StoreLogs(logs(5, 8, 1)); err == nil {
				t.Error("entries below the first were taken")
			}
			if err := s.DeleteRange(8, 8); err == nil {
				t.Error("a hole was cut")
			}
			must(t, s.DeleteRange(1, 3))
			must(t, s.DeleteRange(12, 15))
			checkLog(t, s, 7, 9)
		},
		"all is deleted": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, s.StoreLogs(logs(1, 9, 1)))
			must(t, s.DeleteRange(1, 9))
			checkLog(t, s, 0, 0)
			must(t, s.DeleteRange(1, 9))
			checkLog(t, s, 0, 0)
			must(t, s.StoreLogs(logs(1, 2, 2)))
			checkLog(t, reopen(), 1, 2)
		},
		"a hole needs a snapshot that covers it": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, s.StoreLogs(logs(1, 5, 1)))
			for _, from := range []uint64{7, 20} {
				if err := s.StoreLogs(logs(from, from+1, 1)); !errors.Is(err, ErrHole) {
					t.Fatalf("from %d: %v", from, err)
				}
			}
			if err := s.StoreLogs([]*raft.Log{{Index: 6}, {Index: 8}}); !errors.Is(err, ErrHole) {
				t.Fatal(err)
			}
			putSnapshot(t, s, 19, 2)
			must(t, s.StoreLogs(logs(20, 22, 2)))
			checkLog(t, s, 20, 22)
			checkLog(t, reopen(), 20, 22)
		},
		"values": func(t *testing.T, s *Store, reopen func() *Store) {
			if _, err := s.Get([]byte("k")); err == nil || err.Error() != "not found" {
				t.Fatal(err)
			}
			for _, k := range []string{keyCurrentTerm, keyLastVoteTerm} {
				if n, err := s.GetUint64([]byte(k)); n != 0 || err == nil || err.Error() != "not found" {
					t.Fatal(n, err)
				}
			}
			if c, err := s.Get([]byte(keyLastVoteCand)); c != nil || err == nil || err.Error() != "not found" {
				t.Fatal(c, err)
			}
			must(t, s.Set([]byte("k"), []byte("v")))
			must(t, s.Set([]byte("empty"), nil))
			must(t, s.SetUint64([]byte(keyCurrentTerm), 7))
			s = reopen()
			v, err1 := s.Get([]byte("k"))
			e, err2 := s.Get([]byte("empty"))
			n, err3 := s.GetUint64([]byte(keyCurrentTerm))
			if string(v) != "v" || len(e) != 0 || n != 7 || errors.Join(err1, err2, err3) != nil {
				t.Fatal(v, e, n, err1, err2, err3)
			}
		},
		"a vote is one piece": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, putVote(s, 3, "A"))
			checkVote(t, s, 3, "A")
			must(t, s.SetUint64([]byte(keyLastVoteTerm), 5)) // the candidate is still to come
			checkVote(t, s, 3, "A")
			s = reopen() // and never does
			checkVote(t, s, 3, "A")
			if err := s.Set([]byte(keyLastVoteCand), []byte("B")); !errors.Is(err, ErrVote) {
				t.Fatal("a candidate without its term was taken:", err)
			}
			must(t, putVote(s, 5, "B"))
			must(t, putVote(s, 5, "B"))
			for _, refused := range []vote{{5, "A"}, {4, "B"}} {
				if err := putVote(s, refused.Term, refused.Candidate); !errors.Is(err, ErrVote) {
					t.Fatalf("%v after 5 for B: %v", refused, err)
				}
			}
			checkVote(t, s, 5, "B")
			checkVote(t, reopen(), 5, "B")
		},
		"bootstrap": func(t *testing.T, s *Store, reopen func() *Store) {
			if err := s.Bootstrap(raft.Configuration{}); err == nil {
				t.Fatal("no voter")
			}
			must(t, s.SetUint64([]byte(keyCurrentTerm), 0)) // raft was started on it once
			must(t, s.Bootstrap(three))
			must(t, s.Bootstrap(three))
			s = reopen()
			must(t, s.Bootstrap(three))
			checkLog(t, s, 1, 1)
			var e raft.Log
			must(t, s.GetLog(1, &e))
			n, err := s.GetUint64([]byte(keyCurrentTerm))
			if err != nil || n != 1 || e.Term != 1 || e.Type != raft.LogConfiguration || !bytes.Equal(e.Data, raft.EncodeConfiguration(three)) {
				t.Fatal(n, err, e)
			}
			if has, err := raft.HasExistingState(s, s, s.Snapshots(Machine{})); !has || err != nil {
				t.Fatal(has, err)
			}
			must(t, s.StoreLogs(logs(2, 5, 1)))
			putSnapshot(t, s, 5, 1)
			must(t, s.DeleteRange(1, 5))
			must(t, s.StoreLogs(logs(6, 6, 1)))
			s = reopen()
			must(t, s.Bootstrap(three))
			checkLog(t, s, 6, 6) // is not done again
		},
		"no bootstrap of a replica that has a history": func(t *testing.T, s *Store, reopen func() *Store) {
			must(t, s.SetUint64([]byte(keyCurrentTerm), 4))
			if err := s.Bootstrap(three); !errors.Is(err, raft.ErrCantBootstrap) {
				t.Fatal(err)
			}
			checkLog(t, reopen(), 0, 0)
		},
	}
	for _, b := range benches {
		for name, run := range cases {
			t.Run(b.name+"/"+name, func(t *testing.T) {
				open, shut := b.make(t)
				s := open()
				run(t, s, func() *Store { shut(s); s = open(); return s })
				shut(s)
			})
		}
	}
}

// TestImplementationsAgree runs the same random calls on both.
func TestImplementationsAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, l := openShared(t, vfs.NewMem())
		b := openBoltAt(t, filepath.Join(t.TempDir(), "raft.bolt"))
		defer func() { must(t, b.Close()); must(t, l.Close()) }()
		for step := range rapid.IntRange(1, 15).Draw(rt, "steps") {
			from := uint64(rapid.IntRange(1, 12).Draw(rt, "from"))
			to := from + uint64(rapid.IntRange(0, 6).Draw(rt, "more"))
			var errs [2]error
			for i, s := range []*Store{p, b} {
				if step%3 == 2 {
					errs[i] = s.DeleteRange(from, to)
				} else {
					errs[i] = s.StoreLogs(logs(from, to, uint64(step)))
				}
			}
			pf, pl, _ := p.bounds()
			bf, bl, _ := b.bounds()
			if (errs[0] == nil) != (errs[1] == nil) || pf != bf || pl != bl {
				t.Fatalf("%d to %d: pebble %v %d-%d, bolt %v %d-%d", from, to, errs[0], pf, pl, errs[1], bf, bl)
			}
			for i := pf; i <= pl && i > 0; i++ {
				if term(t, p, i) != term(t, b, i) {
					t.Fatalf("entry %d differs", i)
				}
			}
		}
	})
}

func TestBoltFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.bolt")
	if _, err := OpenBolt(BoltOptions{Path: path, NodeID: "n1-aaaa", MustExist: true}); !errors.Is(err, storage.ErrLogMissing) {
		t.Fatal(err)
	}
	s := openBoltAt(t, path)
	if _, err := OpenBolt(BoltOptions{Path: path, NodeID: "n1-aaaa"}); !errors.Is(err, storage.ErrLogInUse) {
		t.Fatal(err)
	}
	must(t, s.Close())
	if _, err := OpenBolt(BoltOptions{Path: path, NodeID: "n2-bbbb"}); !errors.Is(err, storage.ErrLogOtherNode) {
		t.Fatal(err)
	}
	must(t, openBoltAt(t, path).Close())
}

func FuzzMeta(f *testing.F) {
	b, err := meta{Version: 1, Index: 9, Term: 2, ConfigurationIndex: 1, Configuration: three}.encode()
	must(f, err)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Fatal("untyped:", err)
			}
			return
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes to %x, %v", b, again, err)
		}
	})
}

func FuzzVote(f *testing.F) {
	f.Add(vote{5, "a/1"}.encode())
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVote(b)
		if err == nil && !bytes.Equal(v.encode(), b) {
			t.Fatalf("%x decodes and encodes to %x", b, v.encode())
		}
	})
}
