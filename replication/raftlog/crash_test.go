package raftlog

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// crashPoint is what a power cut at one moment would have left.
type crashPoint struct {
	what   any // what the test had seen acknowledged before that moment
	reopen func(t *testing.T) (s *Store, shut func())
}

// crashes opens a store and collects crash points while it is written to: for
// Pebble before each single write and sync of a file, for bolt around each
// transaction. seen is asked before each.
func crashes(t *testing.T, implementation string, seen func() any) (s *Store, shut func(), points func() []crashPoint) {
	var mu sync.Mutex
	var list []crashPoint
	points = func() []crashPoint { mu.Lock(); defer mu.Unlock(); return list }
	if implementation == "pebble" {
		mem := vfs.NewCrashableMem()
		var opened atomic.Bool
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind {
			case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData:
				mu.Lock()
				defer mu.Unlock()
				for _, unsynced := range []int{0, 60} {
					if unsynced > 0 && !opened.Load() {
						// Pebble makes a new database on a file system that
						// keeps the order of a directory's entries.
						continue
					}
					p := crashPoint{what: seen()}
					clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(uint64(len(list)), 3))})
					p.reopen = func(t *testing.T) (*Store, func()) {
						s, l := openShared(t, clone)
						return s, func() { must(t, l.Close()) }
					}
					list = append(list, p)
				}
			}
			return nil
		}))
		s, l := openShared(t, fs)
		opened.Store(true)
		return s, func() { must(t, l.Close()) }, points
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.bolt")
	s = openBoltAt(t, path)
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		p := crashPoint{what: seen()}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		at := filepath.Join(dir, fmt.Sprint("crash", len(list)))
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Error(err)
		}
		p.reopen = func(t *testing.T) (*Store, func()) {
			s := openBoltAt(t, at)
			return s, func() { must(t, s.Close()) }
		}
		list = append(list, p)
	}
	cut()
	s.disk.(*boltDisk).written = cut
	return s, func() { must(t, s.Close()) }, points
}

var implementations = []string{"pebble", "bolt"}

type idleFSM struct{}

func (idleFSM) Apply(*raft.Log) any                 { return nil }
func (idleFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, io.EOF }
func (idleFSM) Restore(io.ReadCloser) error         { return nil }

// voter runs a real raft on the stores, which never stands for election itself.
func voter(t *testing.T, stable raft.StableStore, s *Store) (ask func(candidate string, term, lastIndex, lastTerm uint64) bool, stop func()) {
	_, tr := raft.NewInmemTransport("V")
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput, c.NoSnapshotRestoreOnStart = "V", io.Discard, true
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = time.Hour, time.Hour, time.Hour
	r, err := raft.NewRaft(c, idleFSM{}, s, stable, s.Snapshots(Machine{}), tr)
	must(t, err)
	ask = func(candidate string, term, lastIndex, lastTerm uint64) bool {
		address, ct := raft.NewInmemTransport(raft.ServerAddress(candidate))
		ct.Connect("V", tr)
		var answer raft.RequestVoteResponse
		err := ct.RequestVote("V", "V", &raft.RequestVoteRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(candidate), Addr: []byte(address)},
			Term:      term, LastLogIndex: lastIndex, LastLogTerm: lastTerm,
		}, &answer)
		must(t, err)
		return answer.Granted
	}
	return ask, func() { must(t, r.Shutdown().Error()) }
}

// naiveVotes is a stable store as raft expects it: each value by itself.
type naiveVotes struct{ *Store }

func (n naiveVotes) Set(k, v []byte) error        { return n.disk.SetValue(string(k), v) }
func (n naiveVotes) Get(k []byte) ([]byte, error) { return n.disk.Value(string(k)) }
func (n naiveVotes) SetUint64(k []byte, v uint64) error {
	return n.Set(k, binary.BigEndian.AppendUint64(nil, v))
}
func (n naiveVotes) GetUint64(k []byte) (uint64, error) {
	b, err := n.Get(k)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// elections lets V vote for A in term 3, fill its log in term 4, and vote for B
// in term 5. Then it reopens every crash point, and returns how many of them
// vote wrongly: for A, whose log is too short, or for two candidates.
func elections(t *testing.T, implementation string, stable func(*Store) raft.StableStore) (wrong, points int) {
	var granted atomic.Bool // B in term 5
	s, shut, crashed := crashes(t, implementation, func() any { return granted.Load() })
	var servers []raft.Server
	for _, id := range []string{"A", "B", "V"} {
		servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	must(t, s.Bootstrap(raft.Configuration{Servers: servers}))
	ask, stop := voter(t, stable(s), s)
	if !ask("A", 3, 1, 1) {
		t.Fatal("no vote for A")
	}
	stop()
	must(t, s.StoreLogs(logs(2, 10, 4)))
	must(t, s.SetUint64([]byte(keyCurrentTerm), 4))
	from := len(crashed())
	ask, stop = voter(t, stable(s), s)
	if !ask("B", 5, 10, 4) {
		t.Fatal("no vote for B")
	}
	granted.Store(true)
	stop()
	must(t, s.SetUint64([]byte("after"), 1)) // so that there are crash points behind it
	list := crashed()[from:]
	shut()
	for _, p := range list {
		s, shut := p.reopen(t)
		if _, last, _ := s.disk.Bounds(); last != 10 {
			t.Errorf("log ends at %d after the crash", last)
		}
		ask, stop := voter(t, stable(s), s)
		short, a, b := ask("A", 5, 1, 1), ask("A", 5, 10, 4), ask("B", 5, 10, 4)
		if short || a && b || a && p.what.(bool) {
			wrong++
		}
		stop()
		shut()
	}
	return wrong, len(list)
}

func TestCrashAroundElections(t *testing.T) {
	for _, implementation := range implementations {
		t.Run(implementation, func(t *testing.T) {
			wrong, points := elections(t, implementation, func(s *Store) raft.StableStore { return s })
			if wrong != 0 || points < 4 {
				t.Errorf("%d of %d crash points vote wrongly", wrong, points)
			}
			// The test can see what it looks for: written one by one, votes tear.
			wrong, points = elections(t, implementation, func(s *Store) raft.StableStore { return naiveVotes{s} })
			if wrong == 0 {
				t.Errorf("no torn vote found in %d crash points", points)
			}
		})
	}
}

func TestCrashInBootstrap(t *testing.T) {
	for _, implementation := range implementations {
		t.Run(implementation, func(t *testing.T) {
			var done atomic.Bool
			s, shut, crashed := crashes(t, implementation, func() any { return done.Load() })
			must(t, s.Bootstrap(three))
			done.Store(true)
			must(t, s.SetUint64([]byte("after"), 1))
			shut()
			for _, p := range crashed() {
				s, shut := p.reopen(t)
				n, _ := s.GetUint64([]byte(keyCurrentTerm))
				_, last, _ := s.disk.Bounds()
				if n != last || p.what.(bool) && last != 1 {
					t.Errorf("half a bootstrap: term %d, last entry %d", n, last)
				}
				must(t, s.Bootstrap(three))
				checkLog(t, s, 1, 1)
				shut()
			}
		})
	}
}

func TestCrashKeepsAcknowledgedEntries(t *testing.T) {
	for _, implementation := range implementations {
		t.Run(implementation, func(t *testing.T) {
			type state struct{ last, snapshot uint64 }
			var acknowledged atomic.Pointer[state]
			acknowledged.Store(&state{})
			s, shut, crashed := crashes(t, implementation, func() any { return *acknowledged.Load() })
			ack := func(last, snapshot uint64, err error) {
				must(t, err)
				acknowledged.Store(&state{last, snapshot})
			}
			ack(3, 0, s.StoreLogs(logs(1, 3, 1)))
			ack(8, 0, s.StoreLogs(logs(4, 8, 1)))
			putSnapshot(t, s, 5, 1)
			ack(8, 5, nil)
			ack(8, 5, s.DeleteRange(1, 4))
			putSnapshot(t, s, 20, 1)
			ack(8, 20, nil)
			ack(22, 20, s.StoreLogs(logs(21, 22, 1))) // behind a hole
			must(t, s.SetUint64([]byte("after"), 1))
			shut()
			for _, p := range crashed() {
				want := p.what.(state)
				s, shut := p.reopen(t)
				first, last, _ := s.disk.Bounds()
				var snapshot uint64
				if m := s.stored(); m != nil {
					snapshot = m.Index
				}
				checkLog(t, s, first, last)
				if max(last, snapshot) < max(want.last, want.snapshot) || snapshot < want.snapshot || last != 0 && first > snapshot+1 {
					t.Errorf("%d to %d, snapshot %d after the crash; acknowledged %+v", first, last, snapshot, want)
				}
				shut()
			}
		})
	}
}
