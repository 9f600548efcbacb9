package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// toy is a state machine that counts commands and is durable by itself.
type toy struct {
	mu             sync.Mutex
	applied, count uint64
	installs       int
	installing     func() // called in the middle of an install
	broken         error  // what the next install fails with
}

func (m *toy) Apply(l *raft.Log) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.Index > m.applied {
		m.applied, m.count = l.Index, m.count+1
	}
	return m.count
}

func (m *toy) state() (applied, count uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied, m.count
}

func (m *toy) Snapshot() (raft.FSMSnapshot, error) { return durable{}, nil }
func (m *toy) Restore(r io.ReadCloser) error       { return nil }

type durable struct{}

func (durable) Persist(raft.SnapshotSink) error { return nil }
func (durable) Release()                        {}

func (m *toy) machine() Machine {
	return Machine{
		View:  func() (View, error) { a, c := m.state(); return toyView{a, c}, nil },
		Stage: func() (Stage, error) { return &toyStage{to: m}, nil },
	}
}

type toyView struct{ applied, count uint64 }

func (v toyView) WriteTo(w io.Writer) (int64, error) {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, v.applied), v.count)
	n, err := w.Write(b)
	return int64(n), err
}
func (toyView) Close() error { return nil }

type toyStage struct {
	to             *toy
	applied, count uint64
}

func (s *toyStage) ReadFrom(r io.Reader) (int64, error) {
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 16 {
		return 0, fmt.Errorf("stream of %d bytes: %w", len(b), errors.Join(err, io.ErrUnexpectedEOF))
	}
	s.applied, s.count = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return 16, nil
}

func (s *toyStage) Install() error {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	if s.to.installing != nil {
		s.to.installing()
	}
	if s.to.broken != nil {
		return s.to.broken
	}
	if s.applied > s.to.applied {
		s.to.applied, s.to.count = s.applied, s.count
	}
	s.to.installs++
	return nil
}
func (*toyStage) Close() error { return nil }

// staging is a transport that stages a stream at the receiver before its raft
// hears of it.
type staging struct {
	*raft.InmemTransport
	receivers map[raft.ServerID]*Snapshots
}

func (s staging) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, q *raft.InstallSnapshotRequest, a *raft.InstallSnapshotResponse, data io.Reader) error {
	ticket, err := s.receivers[id].Stage(data)
	if err != nil {
		return err
	}
	q.Size = int64(len(ticket))
	return errors.Join(s.InmemTransport.InstallSnapshot(id, to, q, a, bytes.NewReader(ticket)), s.receivers[id].Drop(ticket))
}

type peer struct {
	raft      *raft.Raft
	store     *Store
	snapshots *Snapshots
	log       *storage.Log
	transport staging
}

func startPeer(t *testing.T, id string, fs vfs.FS, m *toy, receivers map[raft.ServerID]*Snapshots, prepare func(*Store)) *peer {
	p := &peer{}
	p.store, p.log = openShared(t, fs)
	if prepare != nil {
		prepare(p.store)
	}
	p.snapshots = p.store.Snapshots(m.machine())
	receivers[raft.ServerID(id)] = p.snapshots
	_, inmem := raft.NewInmemTransport(raft.ServerAddress(id))
	p.transport = staging{inmem, receivers}
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput, c.NoSnapshotRestoreOnStart, c.TrailingLogs = raft.ServerID(id), io.Discard, true, 1
	c.SnapshotInterval = time.Hour
	var err error
	p.raft, err = raft.NewRaft(c, m, p.store, p.store, p.snapshots, p.transport)
	must(t, err)
	return p
}

func (p *peer) stop(t *testing.T) {
	must(t, p.raft.Shutdown().Error())
	must(t, p.transport.Close())
	must(t, p.snapshots.Close())
	must(t, p.store.Close())
	must(t, p.log.Close())
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 1000 { // virtual time
		if done() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

// TestSnapshotCatchesUp runs two real rafts: the leader cuts its log, the
// follower needs the snapshot, both are restarted and go on.
func TestSnapshotCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receivers := map[raft.ServerID]*Snapshots{}
		fsA, fsB := vfs.NewMem(), vfs.NewMem()
		var mA, mB toy
		solo := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}}}
		a := startPeer(t, "A", fsA, &mA, receivers, func(s *Store) { must(t, s.Bootstrap(solo)) })
		b := startPeer(t, "B", fsB, &mB, receivers, nil)
		connect := func() {
			a.transport.Connect("B", b.transport.InmemTransport)
			b.transport.Connect("A", a.transport.InmemTransport)
		}
		connect()
		await(t, "A leads", func() bool { return a.raft.State() == raft.Leader })
		put := func(n int) {
			for range n {
				must(t, a.raft.Apply([]byte("x"), time.Second).Error())
			}
		}
		same := func() bool { i, n := mA.state(); j, m := mB.state(); return i == j && n == m }
		put(30)
		must(t, a.raft.Snapshot().Error())
		if first, _ := a.store.FirstIndex(); first < 25 {
			t.Fatalf("the log still begins at %d", first)
		}
		put(5)
		must(t, a.raft.AddNonvoter("B", "B", 0, 0).Error())
		await(t, "B catches up", same)
		if mB.installs != 1 {
			t.Fatalf("%d installs", mB.installs)
		}
		put(5)
		await(t, "B follows", same)
		must(t, a.raft.Snapshot().Error())

		a.stop(t)
		b.stop(t)
		a = startPeer(t, "A", fsA, &mA, receivers, func(s *Store) { must(t, s.Bootstrap(solo)) })
		b = startPeer(t, "B", fsB, &mB, receivers, nil)
		connect()
		await(t, "A leads again", func() bool { return a.raft.State() == raft.Leader })
		put(5)
		await(t, "B follows again", same)
		if _, n := mB.state(); n != 45 {
			t.Fatalf("%d commands of 45", n)
		}
		if c := b.raft.GetConfiguration(); c.Error() != nil || len(c.Configuration().Servers) != 2 {
			t.Fatalf("configuration %v", c.Configuration())
		}
		a.stop(t)
		b.stop(t)
	})
}

func received(t *testing.T, s *Snapshots, view View, index, term uint64) raft.SnapshotSink {
	t.Helper()
	in, out := io.Pipe()
	go func() { _, err := view.WriteTo(out); out.CloseWithError(err) }()
	ticket, err := s.Stage(in)
	must(t, err)
	k, err := s.Create(1, index, term, three, 1, nil)
	must(t, err)
	_, err = k.Write(ticket)
	must(t, err)
	return k
}

// TestInstallOrder: the state is there before the metadata are, and a state
// that can not be installed leaves the old metadata.
func TestInstallOrder(t *testing.T) {
	for _, b := range benches {
		t.Run(b.name, func(t *testing.T) {
			open, shut := b.make(t)
			store := open()
			var m toy
			s := store.Snapshots(m.machine())
			m.installing = func() {
				if list, err := s.List(); len(list) != 0 || err != nil {
					t.Error("metadata before the state")
				}
			}
			m.broken = errors.New("no room")
			if err := received(t, s, toyView{50, 7}, 50, 2).Close(); !errors.Is(err, m.broken) {
				t.Fatal(err)
			}
			if list, err := s.List(); len(list) != 0 || err != nil {
				t.Fatal("metadata without a state", list, err)
			}
			m.broken = nil
			must(t, received(t, s, toyView{50, 7}, 50, 2).Close())
			m.installing = nil
			if a, n := m.state(); a != 50 || n != 7 {
				t.Fatal(a, n)
			}
			shut(store)
			store = open()
			s = store.Snapshots(m.machine())
			list, err := s.List()
			if err != nil || len(list) != 1 || list[0].Index != 50 || list[0].Term != 2 || list[0].ConfigurationIndex != 1 || len(list[0].Configuration.Servers) != 3 {
				t.Fatal(list, err)
			}
			meta, r, err := s.Open(list[0].ID)
			must(t, err)
			got, err := io.ReadAll(struct{ io.Reader }{r})
			if err != nil || len(got) != 16 || meta.Index != 50 {
				t.Fatal(got, err)
			}
			must(t, r.Close())
			if _, _, err := s.Open("1-1"); err == nil {
				t.Error("a snapshot that is not there was opened")
			}
			shut(store)
		})
	}
}

func TestSnapshotRefusals(t *testing.T) {
	open, shut := benches[0].make(t)
	store := open()
	defer func() { shut(store) }()
	var m toy
	s := store.Snapshots(m.machine())
	sinkOf := func(index, term uint64, data string) error {
		k, err := s.Create(1, index, term, three, 1, nil)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(k, data); err != nil {
			return errors.Join(err, k.Cancel())
		}
		return k.Close()
	}
	must(t, store.StoreLogs(logs(1, 9, 2)))
	for name, err := range map[string]error{
		"no ticket, beyond the log":   sinkOf(20, 2, ""),
		"no ticket, of another term":  sinkOf(9, 3, ""),
		"an unknown ticket":           sinkOf(20, 2, "0123456789abcdef"),
		"data in place of the ticket": sinkOf(20, 2, "0123456789abcdef and more"),
		"only a part of a ticket":     sinkOf(20, 2, "0123"),
	} {
		if !errors.Is(err, ErrNoState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Stage(bytes.NewReader([]byte("cut sho"))); err == nil {
		t.Error("a broken stream was staged")
	}
	must(t, sinkOf(6, 2, "")) // our own
	must(t, sinkOf(6, 2, "")) // once more
	if err := sinkOf(5, 2, ""); !errors.Is(err, ErrStaleSnapshot) {
		t.Error(err)
	}
	k := received(t, s, toyView{9, 9}, 9, 2)
	must(t, k.Cancel())
	must(t, k.Close())
	if m.installs != 0 || s.staged != nil {
		t.Error("a cancelled snapshot was installed or kept")
	}
}

// TestLateInstallKeepsAcknowledgedEntries: a duplicate of an InstallSnapshot
// comes after the entries behind it were acknowledged. raft then deletes the
// whole log; what is behind the snapshot must survive.
func TestLateInstallKeepsAcknowledgedEntries(t *testing.T) {
	for _, b := range benches {
		t.Run(b.name, func(t *testing.T) {
			for _, c := range []struct {
				name                     string
				log                      []*raft.Log
				cut                      uint64
				wantFirst, wantLast, end uint64
			}{
				{"the log has the snapshot's last entry", logs(1, 30, 2), 0, 20, 30, 30},
				{"the log is empty", nil, 0, 0, 0, 0},
				{"the log is shorter", logs(1, 15, 2), 0, 0, 0, 15},
				{"the log diverges", logs(1, 30, 1), 0, 0, 0, 30},
			} {
				open, shut := b.make(t)
				store := open()
				var m toy
				s := store.Snapshots(m.machine())
				must(t, store.StoreLogs(c.log))
				must(t, received(t, s, toyView{20, 20}, 20, 2).Close())
				if c.end > 0 { // what removeOldLogs does
					must(t, store.DeleteRange(1, c.end))
				}
				checkLog(t, store, c.wantFirst, c.wantLast)
				if c.wantLast == 0 {
					must(t, store.StoreLogs(logs(21, 25, 2)))
					checkLog(t, store, 21, 25)
					// Again, late: behind an emptied log the entries stay too.
					must(t, received(t, s, toyView{20, 20}, 20, 2).Close())
					must(t, store.DeleteRange(21, 25))
					checkLog(t, store, 21, 25)
					// And a conflict later on is deleted as ever.
					must(t, store.StoreLogs(logs(26, 27, 3)))
					must(t, store.DeleteRange(26, 27))
					checkLog(t, store, 21, 25)
				}
				shut(store)
			}
		})
	}
}

// TestRealInstallIntoLongerLog drives raft's own installSnapshot on a replica
// that has more than the snapshot.
func TestRealInstallIntoLongerLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receivers := map[raft.ServerID]*Snapshots{}
		m := toy{applied: 15, count: 15}
		pair := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}, {ID: "B", Address: "B"}}}
		fs := vfs.NewMem()
		b := startPeer(t, "B", fs, &m, receivers, func(s *Store) {
			must(t, s.Bootstrap(pair))
			must(t, s.StoreLogs(logs(2, 30, 1)))
		})
		a := raftTransport(t, "A", receivers)
		a.Connect("B", b.transport.InmemTransport)
		var answer raft.InstallSnapshotResponse
		must(t, a.InstallSnapshot("B", "B", &raft.InstallSnapshotRequest{
			RPCHeader:       raft.RPCHeader{ProtocolVersion: 3, ID: []byte("A"), Addr: []byte("A")},
			SnapshotVersion: 1, Term: 1, LastLogIndex: 20, LastLogTerm: 1,
			Configuration: raft.EncodeConfiguration(pair), ConfigurationIndex: 1,
		}, &answer, view(toyView{20, 20})))
		if first, _ := b.store.FirstIndex(); !answer.Success || first != 20 || b.raft.LastIndex() != 30 {
			t.Fatalf("success %v, log from %d to %d", answer.Success, first, b.raft.LastIndex())
		}
		var append_ raft.AppendEntriesResponse
		must(t, a.AppendEntries("B", "B", &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("A"), Addr: []byte("A")},
			Term:      1, PrevLogEntry: 20, PrevLogTerm: 1, Entries: logs(21, 31, 1), LeaderCommitIndex: 31,
		}, &append_))
		await(t, "all is applied", func() bool { i, _ := m.state(); return i == 31 })
		if !append_.Success {
			t.Error("append refused")
		}
		b.stop(t)
		must(t, a.Close())
	})
}

func raftTransport(t *testing.T, id string, receivers map[raft.ServerID]*Snapshots) staging {
	_, inmem := raft.NewInmemTransport(raft.ServerAddress(id))
	return staging{inmem, receivers}
}

func view(v View) io.Reader {
	var b bytes.Buffer
	_, _ = v.WriteTo(&b) // a bytes.Buffer takes all
	return &b
}
