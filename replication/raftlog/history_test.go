package raftlog

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// historyOf is what a replica holds above its snapshot, by index and term.
func historyOf(t testing.TB, s *Store) string {
	t.Helper()
	first, last, err := s.bounds()
	must(t, err)
	covered := uint64(0)
	text := "no snapshot"
	if m := s.stored(); m != nil {
		covered, text = m.Index, m.id()
		if fits, err := s.fits(*m); err != nil || !fits {
			return text // the rest is dropped when it is opened
		}
	}
	for i := max(first, covered+1); i <= last; i++ {
		text += fmt.Sprintf(" %d@%d", i, term(t, s, i))
	}
	return text
}

// TestACrashLeavesTheLogBeforeOrAfter does what raft does to a log: it appends, deletes a
// conflicting suffix and appends what takes its place, installs snapshots, takes its own.
// A power cut at any moment leaves what was there before the step under way, or after it.
// The deletion of a suffix alone is no step.
func TestACrashLeavesTheLogBeforeOrAfter(t *testing.T) {
	for _, implementation := range implementations {
		for seed := range uint64(6) {
			t.Run(fmt.Sprint(implementation, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 5))
				var steps atomic.Int64
				s, shut, crashed := crashes(t, implementation, func() any { return steps.Load() })
				histories := []string{historyOf(t, s)}
				done := func() { histories = append(histories, historyOf(t, s)); steps.Add(1) }
				var m toy
				snapshots := s.Snapshots(m.machine())
				must(t, s.StoreLogs(logs(1, 5, 1)))
				done()
				top := uint64(1)
				for range 25 {
					first, last, err := s.bounds()
					must(t, err)
					covered := uint64(0)
					if m := s.stored(); m != nil {
						covered = m.Index
					}
					switch random.IntN(5) {
					case 0, 1: // append
						top += uint64(random.IntN(2))
						must(t, s.StoreLogs(logs(last+1, last+1+uint64(random.IntN(4)), top)))
						done()
					case 2: // a conflict behind the snapshot
						if last < max(first, covered)+1 {
							continue
						}
						from := max(first, covered) + 1 + uint64(random.IntN(int(last-max(first, covered))))
						must(t, s.DeleteRange(from, last))
						top++
						must(t, s.StoreLogs(logs(from, from+uint64(random.IntN(3)), top)))
						done()
					case 3: // its own snapshot
						if last == 0 || last <= covered {
							continue
						}
						putSnapshot(t, s, last, term(t, s, last))
						done()
						must(t, s.DeleteRange(first, max(first, last-2)))
						done()
					case 4: // a received one, of a history that this log may not share
						top++
						index := max(last, covered) + uint64(random.IntN(3))
						if random.IntN(2) == 0 && last > covered+2 {
							index = last - 1
						}
						must(t, received(t, snapshots, toyView{index, 1}, index, max(1, top-uint64(random.IntN(2)))).Close())
						done()
						must(t, s.DeleteRange(1, max(last, index))) // removeOldLogs
						done()
						must(t, s.StoreLogs(logs(index+1, index+2, top)))
						done()
					}
				}
				must(t, s.SetUint64([]byte("after"), 1))
				done()
				list := crashed()
				shut()
				if len(list) < 20 {
					t.Fatalf("%d power cuts", len(list))
				}
				for i, p := range list {
					s, shut := p.reopen(t)
					step := p.what.(int64)
					if got, before, after := historyOf(t, s), histories[step], histories[min(int(step)+1, len(histories)-1)]; got != before && got != after {
						t.Errorf("cut %d holds\n%s\nbefore the step\n%s\nafter it\n%s", i, got, before, after)
					}
					first, last, err := s.bounds()
					must(t, err)
					checkLog(t, s, first, last)
					shut()
				}
			})
		}
	}
}

// underASnapshot is what a power cut leaves of a replica that had a tail nobody
// committed (11 to 20 of term 3), and was sent a snapshot up to entry 30 of term 5
// before it: the cut comes before anything is appended behind the snapshot.
func underASnapshot(t *testing.T, five raft.Configuration) (s *Store, shut func()) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	s, l := openShared(t, mem)
	must(t, s.Bootstrap(five))
	must(t, s.StoreLogs(logs(2, 10, 1)))
	must(t, s.StoreLogs(logs(11, 20, 3)))
	must(t, s.SetUint64([]byte(keyCurrentTerm), 5))
	var m toy
	k := received(t, s.Snapshots(m.machine()), toyView{30, 30}, 30, 5)
	k.(*sink).meta.Configuration = five
	must(t, k.Close())
	must(t, s.DeleteRange(1, 20)) // removeOldLogs
	checkLog(t, s, 0, 0)
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(2, 2))})
	must(t, s.Close())
	must(t, l.Close())
	s, l = openShared(t, clone)
	return s, func() { must(t, s.Close()); must(t, l.Close()) }
}

func TestNothingStaysUnderAReceivedSnapshot(t *testing.T) {
	s, shut := underASnapshot(t, three)
	defer shut()
	checkLog(t, s, 0, 0)
	if err := s.GetLog(15, new(raft.Log)); err == nil {
		t.Error("entry 15, which nobody committed, is still there")
	}
}

// record is a state machine that remembers what it has applied.
type record struct {
	durable
	mu      sync.Mutex
	entries map[uint64]uint64 // terms
}

func (r *record) Apply(l *raft.Log) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries[l.Index] = l.Term
	return nil
}
func (r *record) Snapshot() (raft.FSMSnapshot, error) { return durable{}, nil }
func (r *record) Restore(io.ReadCloser) error         { return nil }

// slow is a log on a disk that takes its time.
type slow struct{ *Store }

func (s slow) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }
func (s slow) StoreLogs(logs []*raft.Log) error {
	time.Sleep(20 * time.Millisecond)
	return s.Store.StoreLogs(logs)
}

// Raft replicates before it has stored its first entry as a leader. A replica that is
// elected right after such a power cut must not send on what lies under its snapshot.
func TestALeaderSendsNothingFromUnderItsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var five raft.Configuration
		for _, id := range []string{"L", "F", "X", "Y", "Z"} {
			five.Servers = append(five.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
		}
		header := func(id string) raft.RPCHeader {
			return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(id), Addr: []byte(id)}
		}
		ofL, shutL := underASnapshot(t, five)
		defer shutL()
		lagging := func(last, term uint64) (*Store, func()) {
			s, l := openShared(t, vfs.NewMem())
			must(t, s.Bootstrap(five))
			must(t, s.StoreLogs(logs(2, 10, 1)))
			must(t, s.StoreLogs(logs(11, last, term)))
			must(t, s.SetUint64([]byte(keyCurrentTerm), term))
			return s, func() { must(t, l.Close()) }
		}
		ofF, shutF := lagging(15, 3) // shares a part of the tail
		ofZ, shutZ := lagging(30, 5) // has what was committed
		defer shutF()
		defer shutZ()
		transports, receivers := map[string]*raft.InmemTransport{}, map[raft.ServerID]*Snapshots{}
		for _, id := range []string{"L", "F", "X", "Z"} {
			_, transports[id] = raft.NewInmemTransport(raft.ServerAddress(id))
		}
		machines := map[string]*record{}
		start := func(id string, s *Store, disk raft.LogStore) *raft.Raft {
			for other, to := range transports {
				transports[id].Connect(raft.ServerAddress(other), to)
			}
			var state toy
			receivers[raft.ServerID(id)] = s.Snapshots(state.machine())
			machines[id] = &record{entries: map[uint64]uint64{}}
			c := raft.DefaultConfig()
			c.LocalID, c.LogOutput, c.NoSnapshotRestoreOnStart = raft.ServerID(id), io.Discard, true
			c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.SnapshotInterval = time.Hour, time.Hour, time.Hour, time.Hour
			r, err := raft.NewRaft(c, machines[id], disk, s, receivers[raft.ServerID(id)], staging{transports[id], receivers})
			must(t, err)
			return r
		}
		rafts := []*raft.Raft{start("L", ofL, slow{ofL}), start("F", ofF, ofF), start("Z", ofZ, ofZ)}
		x := transports["X"]
		x.Connect("L", transports["L"])
		// The leader of term 5 says what is committed, hands L the leadership, and is gone.
		var answer raft.AppendEntriesResponse
		must(t, x.AppendEntries("L", "L", &raft.AppendEntriesRequest{RPCHeader: header("X"), Term: 5, PrevLogEntry: 30, PrevLogTerm: 5, LeaderCommitIndex: 30}, &answer))
		if !answer.Success || rafts[0].CommitIndex() != 30 {
			t.Fatalf("%+v, commit index %d", answer, rafts[0].CommitIndex())
		}
		must(t, x.TimeoutNow("L", "L", &raft.TimeoutNowRequest{RPCHeader: header("X")}, new(raft.TimeoutNowResponse)))
		await(t, "L leads", func() bool { return rafts[0].State() == raft.Leader })
		time.Sleep(5 * time.Second)
		must(t, rafts[0].Apply([]byte("x"), time.Second).Error())
		time.Sleep(5 * time.Second)
		for index, term := range machines["F"].entries {
			if index > 10 && term == 3 {
				t.Errorf("F has applied entry %d of term 3, which nobody committed", index)
			}
		}
		if machines["F"].entries[32] == 0 && machines["Z"].entries[32] == 0 {
			t.Error("nobody follows the new leader")
		}
		for _, r := range rafts {
			must(t, r.Shutdown().Error())
		}
	})
}

// A replica has entries right behind a received snapshot that were never committed. The
// next leader's log goes on otherwise right there: its appends must fit, at once.
func TestAppendsFitBehindAReceivedSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receivers := map[raft.ServerID]*Snapshots{}
		m := toy{applied: 20, count: 20}
		pair := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}, {ID: "B", Address: "B"}}}
		b := startPeer(t, "B", vfs.NewMem(), &m, receivers, func(s *Store) {
			must(t, s.Bootstrap(pair))
			must(t, s.StoreLogs(logs(2, 10, 1)))
			var other toy
			must(t, received(t, s.Snapshots(other.machine()), toyView{20, 20}, 20, 2).Close())
			must(t, s.DeleteRange(1, 10))
			must(t, s.StoreLogs(logs(21, 25, 2)))
			must(t, s.SetUint64([]byte(keyCurrentTerm), 2))
		})
		a := raftTransport(t, "A", receivers)
		a.Connect("B", b.transport.InmemTransport)
		var answer raft.AppendEntriesResponse
		must(t, a.AppendEntries("B", "B", &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("A"), Addr: []byte("A")},
			Term:      5, PrevLogEntry: 20, PrevLogTerm: 2, Entries: logs(21, 23, 5), LeaderCommitIndex: 20,
		}, &answer))
		if !answer.Success {
			t.Error("the append does not fit")
		}
		checkLog(t, b.store, 21, 23)
		if term(t, b.store, 21) != 5 {
			t.Error("the old entries are still there")
		}
		b.stop(t)
		must(t, a.Close())
	})
}

// A snapshot comes a second time. What stands behind its index stays only if it goes on
// from the snapshot's last entry.
func TestASecondInstallKeepsNoOtherHistory(t *testing.T) {
	for _, b := range benches {
		t.Run(b.name, func(t *testing.T) {
			open, shut := b.make(t)
			s := open()
			defer func() { shut(s) }()
			var m toy
			must(t, s.StoreLogs(logs(1, 40, 3)))
			must(t, received(t, s.Snapshots(m.machine()), toyView{30, 30}, 30, 5).Close())
			shut(s) // a crash: the log was not emptied
			s = open()
			must(t, received(t, s.Snapshots(m.machine()), toyView{30, 30}, 30, 5).Close())
			must(t, s.DeleteRange(1, 40))
			checkLog(t, s, 0, 0)
		})
	}
}
