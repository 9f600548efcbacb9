package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/memnet"
	"github.com/capstan-kv/capstan/storage"
)

// serve answers a group's RPCs like a main loop.
func serve(g *GroupTransport, answer func(raft.RPC)) (stop func()) {
	done, quit := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-g.Consumer():
				answer(rpc)
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func success(rpc raft.RPC) {
	switch r := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		rpc.Respond(&raft.AppendEntriesResponse{Term: r.Term, LastLog: r.PrevLogEntry + uint64(len(r.Entries)), Success: true}, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{Term: r.Term, Granted: true}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{Term: r.Term, Granted: true}, nil)
	case *raft.TimeoutNowRequest:
		rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	case *raft.InstallSnapshotRequest:
		rpc.Respond(&raft.InstallSnapshotResponse{Term: r.Term, Success: true}, nil)
	}
}

func raftHeader(id raft.ServerID) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(id), Addr: []byte(id)}
}

// A leader is heard when its request comes, whatever the main loop does; an
// earlier term's is heard no more.
func TestLeaderIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		r := storage.Replica{Group: 5, Generation: 1}
		ga, gb := open(a.Transport, r), open(b.Transport, r)
		if term, from, at := gb.LeaderHeard(); term != 0 || from != "" || !at.IsZero() {
			t.Errorf("before anything: %d by %s, %v", term, from, at)
		}
		// Nobody takes anything from gb's inbox.
		var sending sync.WaitGroup
		send := func(request *raft.AppendEntriesRequest) {
			sending.Go(func() { _ = ga.AppendEntries(ServerID("b", 1), "", request, new(raft.AppendEntriesResponse)) })
			time.Sleep(time.Second)
		}
		send(&raft.AppendEntriesRequest{RPCHeader: raftHeader(ServerID("a", 1)), Term: 8})
		term, from, beat := gb.LeaderHeard()
		if term != 8 || from != ServerID("a", 1) || time.Since(beat) > time.Second {
			t.Errorf("heartbeat: %d by %s, %v ago", term, from, time.Since(beat))
		}
		send(&raft.AppendEntriesRequest{RPCHeader: raftHeader(ServerID("a", 1)), Term: 8, PrevLogEntry: 1, PrevLogTerm: 1})
		if term, _, at := gb.LeaderHeard(); term != 8 || !at.After(beat) {
			t.Errorf("append: %d, %v ago", term, time.Since(at))
		}
		_, _, last := gb.LeaderHeard()
		send(&raft.AppendEntriesRequest{RPCHeader: raftHeader(ServerID("a", 1)), Term: 7})
		sending.Go(func() {
			_ = ga.RequestVote(ServerID("b", 1), "", &raft.RequestVoteRequest{RPCHeader: raftHeader(ServerID("a", 1)), Term: 9}, new(raft.RequestVoteResponse))
		})
		time.Sleep(time.Second)
		if term, _, at := gb.LeaderHeard(); term != 8 || at != last {
			t.Errorf("after an old leader's and a candidate's: %d, %v", term, at)
		}
		_ = ga.Close()
		sending.Wait()
	})
}

func TestEveryRPCArrivesAsItWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		ga := open(a.Transport, storage.Replica{Group: 5, Generation: 2})
		gb := open(b.Transport, storage.Replica{Group: 5, Generation: 9})
		var got raft.RPC
		defer serve(gb, func(rpc raft.RPC) { got = rpc; success(rpc) })()
		to, from := ServerID("b", 9), ServerID("a", 2)
		leader := []byte(from)
		check := func(want any, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%T: %v", want, err)
			} else if !reflect.DeepEqual(got.Command, want) {
				t.Errorf("got  %+v\nwant %+v", got.Command, want)
			}
		}
		entries := &raft.AppendEntriesRequest{
			RPCHeader: raftHeader(from), Term: 7, Leader: leader, PrevLogEntry: 3, PrevLogTerm: 2, LeaderCommitIndex: 1,
			Entries: []*raft.Log{
				{Index: 4, Term: 7, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("more"), AppendedAt: time.Unix(3, 4)},
				{Index: 5, Term: 7, Type: raft.LogNoop},
			},
		}
		var appended raft.AppendEntriesResponse
		check(entries, ga.AppendEntries(to, "", entries, &appended))
		if appended.Term != 7 || appended.LastLog != 5 || !appended.Success {
			t.Errorf("response %+v", appended)
		}
		beat := &raft.AppendEntriesRequest{RPCHeader: raftHeader(from), Term: 8, Leader: leader}
		check(beat, ga.AppendEntries(to, "", beat, &appended))
		if appended.Term != 8 || !appended.Success {
			t.Errorf("response %+v", appended)
		}
		nameless := raftHeader(from)
		nameless.ID = nil
		vote := &raft.RequestVoteRequest{RPCHeader: nameless, Term: 9, Candidate: leader, LastLogIndex: 4, LastLogTerm: 3, LeadershipTransfer: true}
		var voted raft.RequestVoteResponse
		check(vote, ga.RequestVote(to, "", vote, &voted))
		pre := &raft.RequestPreVoteRequest{RPCHeader: raftHeader(from), Term: 9, LastLogIndex: 4, LastLogTerm: 3}
		var preVoted raft.RequestPreVoteResponse
		check(pre, ga.RequestPreVote(to, "", pre, &preVoted))
		if !voted.Granted || !preVoted.Granted || preVoted.Term != 9 {
			t.Errorf("votes %+v %+v", voted, preVoted)
		}
		now := &raft.TimeoutNowRequest{RPCHeader: raftHeader(from)}
		check(now, ga.TimeoutNow(to, "", now, new(raft.TimeoutNowResponse)))

		if response, err := gb.Inject(&raft.AppendEntriesRequest{Term: 3}); err != nil || !response.(*raft.AppendEntriesResponse).Success {
			t.Errorf("inject: %v %v", response, err)
		}
	})
}

// Of entries that do not fit into one message the first ones travel, with a commit index
// that does not name any of the others.
func TestAppendThatDoesNotFitCommitsOnlyWhatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		r := storage.Replica{Group: 5, Generation: 1}
		ga, gb := open(a.Transport, r), open(b.Transport, r)
		var got *raft.AppendEntriesRequest
		defer serve(gb, func(rpc raft.RPC) { got = rpc.Command.(*raft.AppendEntriesRequest); success(rpc) })()
		request := &raft.AppendEntriesRequest{RPCHeader: raftHeader(ServerID("a", 1)), Term: 7, PrevLogEntry: 3, PrevLogTerm: 2, LeaderCommitIndex: 6}
		for i := range uint64(3) {
			request.Entries = append(request.Entries, &raft.Log{Index: 4 + i, Term: 7, Data: make([]byte, MaxMessage/5*2)})
		}
		if err := ga.AppendEntries(ServerID("b", 1), "", request, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		if len(got.Entries) != 2 || got.LeaderCommitIndex != 5 || len(request.Entries) != 2 {
			t.Errorf("%d entries behind 3 arrived with commit index %d; %d are left", len(got.Entries), got.LeaderCommitIndex, len(request.Entries))
		}
	})
}

func TestOtherGenerationsAreNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		g2 := open(a.Transport, storage.Replica{Group: 1, Generation: 2})
		gb := open(b.Transport, storage.Replica{Group: 1, Generation: 4})
		var served atomic.Int64
		defer serve(gb, func(rpc raft.RPC) { served.Add(1); success(rpc) })()
		vote := func(g *GroupTransport, generation uint32) error {
			return g.RequestVote(ServerID("b", generation), "", &raft.RequestVoteRequest{Term: 1}, new(raft.RequestVoteResponse))
		}
		beat := func(g *GroupTransport, generation uint32) error {
			return g.AppendEntries(ServerID("b", generation), "", &raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse))
		}
		for _, generation := range []uint32{3, 5} {
			if err := vote(g2, generation); !errors.Is(err, ErrNoReplica) {
				t.Errorf("vote to generation %d: %v", generation, err)
			}
			if err := beat(g2, generation); !errors.Is(err, ErrNoReplica) {
				t.Errorf("heartbeat to generation %d: %v", generation, err)
			}
		}
		if err := vote(g2, 4); err != nil {
			t.Error(err)
		}
		// Once a newer generation of a's replica has spoken, the older is mute.
		g3 := open(a.Transport, storage.Replica{Group: 1, Generation: 3})
		if err := errors.Join(vote(g3, 4), beat(g3, 4)); err != nil {
			t.Error(err)
		}
		before := served.Load()
		if err := vote(g2, 4); !errors.Is(err, ErrLost) {
			t.Errorf("vote from an older generation: %v", err)
		}
		if served.Load() != before {
			t.Error("an older generation was served")
		}
		// A closed replica is gone, and what waits for it fails at once.
		_ = gb.Close()
		if err := vote(g3, 4); !errors.Is(err, ErrNoReplica) {
			t.Errorf("vote to a closed replica: %v", err)
		}
	})
}

func TestHeartbeatsOfManyGroupsShareFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		if err := echo(t, a, "b"); err != nil {
			t.Fatal(err)
		}
		const groups = 64
		var wg sync.WaitGroup
		for i := range groups {
			r := storage.Replica{Group: storage.GroupID(i), Generation: 1}
			ga, gb := open(a.Transport, r), open(b.Transport, r)
			stop := serve(gb, success)
			defer stop()
			wg.Go(func() {
				begin := time.Now()
				if err := ga.AppendEntries(ServerID("b", 1), "", &raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
					t.Error(err)
				}
				if d := time.Since(begin); d > 2*HeartbeatWindow {
					t.Errorf("a heartbeat took %v", d)
				}
			})
		}
		wg.Wait()
		m := a.Metrics()["b"]
		if m.Heartbeats != groups || m.HeartbeatFrames != 1 {
			t.Errorf("%d heartbeats in %d frames", m.Heartbeats, m.HeartbeatFrames)
		}
		if back := b.Metrics()["a"].FramesSent; back > groups+4 { // one for each introduction
			t.Errorf("%d frames came back", back)
		}
	})
}

func TestFullInboxIsBusyAndBlocksNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		full, fine := storage.Replica{Group: 1, Generation: 1}, storage.Replica{Group: 2, Generation: 1}
		ga, other := open(a.Transport, full), open(a.Transport, fine)
		_ = open(b.Transport, full) // nobody consumes
		defer serve(open(b.Transport, fine), success)()
		var busy atomic.Int64
		var wg sync.WaitGroup
		for range inboxRPCs + 20 {
			wg.Go(func() {
				err := ga.RequestVote(ServerID("b", 1), "", &raft.RequestVoteRequest{}, new(raft.RequestVoteResponse))
				if errors.Is(err, ErrBusy) {
					busy.Add(1)
				} else if !errors.Is(err, ErrLost) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if busy.Load() != 20 {
			t.Errorf("%d were busy, want 20", busy.Load())
		}
		begin := time.Now()
		if err := other.RequestVote(ServerID("b", 1), "", &raft.RequestVoteRequest{}, new(raft.RequestVoteResponse)); err != nil || time.Since(begin) > 0 {
			t.Errorf("another group: %v after %v", err, time.Since(begin))
		}
		_ = ga.Close() // ends the waiting at once
		wg.Wait()
		if time.Since(begin) > 0 {
			t.Errorf("closing took %v", time.Since(begin))
		}
	})
}

// oneVoter is an encoded configuration.
var oneVoter = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a/1", Address: "a/1"}}})

// spool is a Stager that hashes what it gets.
type spool struct {
	sum     [sha256.Size]byte
	n       int64
	stored  uint64 // index of the snapshot that it has
	aborted atomic.Int64
	failed  atomic.Int64
}

func (s *spool) Wants(index uint64) error {
	if index < s.stored {
		return errors.New("there is a younger one")
	}
	return nil
}

func (s *spool) Stage(_ context.Context, r io.Reader) ([]byte, func(), error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		s.failed.Add(1)
		return nil, nil, err
	}
	s.n, s.sum = n, [sha256.Size]byte(h.Sum(nil))
	return []byte("ticket"), func() { s.aborted.Add(1) }, nil
}

func TestSnapshotStreamsBesideHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		network.SetConditionsEverywhere(memnet.Conditions{Latency: 2 * time.Millisecond})
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		r := storage.Replica{Group: 1, Generation: 1}
		ga, gb := open(a.Transport, r), open(b.Transport, r)
		s := &spool{}
		gb.SetStager(s)
		defer serve(gb, func(rpc raft.RPC) {
			if r, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
				ticket, _ := io.ReadAll(rpc.Reader)
				if string(ticket) != "ticket" || r.Size != 6 || r.LastLogIndex != 77 || !bytes.Equal(r.Configuration, oneVoter) {
					t.Errorf("installed %q by %+v", ticket, r)
				}
			}
			success(rpc)
		})()
		data := bytes.Repeat([]byte("0123456789abcdef"), 64<<20/16)
		done := make(chan error, 1)
		go func() {
			done <- ga.InstallSnapshot(ServerID("b", 1), "", &raft.InstallSnapshotRequest{
				SnapshotVersion: 1, Term: 3, LastLogIndex: 77, LastLogTerm: 2, Configuration: oneVoter, Size: int64(len(data)),
			}, new(raft.InstallSnapshotResponse), bytes.NewReader(data))
		}()
		beats := 0
		for {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				if s.n != int64(len(data)) || s.sum != sha256.Sum256(data) || s.aborted.Load() != 0 {
					t.Errorf("%d bytes staged, %d aborted", s.n, s.aborted.Load())
				}
				if beats < 3 {
					t.Errorf("only %d heartbeats beside the snapshot", beats)
				}
				return
			default:
			}
			begin := time.Now()
			if err := ga.AppendEntries(ServerID("b", 1), "", &raft.AppendEntriesRequest{Term: 3}, new(raft.AppendEntriesResponse)); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begin); d > 2*HeartbeatWindow+20*time.Millisecond {
				t.Errorf("a heartbeat beside a snapshot took %v", d)
			}
			beats++
		}
	})
}

// A snapshot older than the stored one is refused before its data travels.
func TestOlderSnapshotIsRefusedBeforeTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		r := storage.Replica{Group: 1, Generation: 1}
		ga, gb := a.Group(r), b.Group(r)
		gb.SetStager(&spool{stored: 10})
		defer serve(gb, success)()
		data := &counted{}
		err := ga.InstallSnapshot(ServerID("b", 1), "", &raft.InstallSnapshotRequest{
			SnapshotVersion: 1, Term: 1, LastLogIndex: 9, LastLogTerm: 1, Configuration: oneVoter,
		}, new(raft.InstallSnapshotResponse), io.LimitReader(data, 1<<30))
		if err == nil || data.n > 2*snapshotWindow {
			t.Errorf("%v, after %d bytes", err, data.n)
		}
	})
}

type counted struct{ n int }

func (c *counted) Read(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func TestBrokenSnapshotIsAborted(t *testing.T) {
	for name, c := range map[string]struct {
		data  func(*memnet.Network) io.Reader
		serve func(raft.RPC)
		abort int64
	}{
		"the reader fails": {func(*memnet.Network) io.Reader {
			return io.MultiReader(bytes.NewReader(make([]byte, 5<<20)), &failing{})
		}, success, 0},
		"the connection breaks": {func(n *memnet.Network) io.Reader {
			return io.MultiReader(bytes.NewReader(make([]byte, 5<<20)), &failing{func() { n.Reset("a", "b") }}, bytes.NewReader(make([]byte, 5<<20)))
		}, success, 0},
		"Raft refuses": {func(*memnet.Network) io.Reader { return bytes.NewReader(make([]byte, 1<<20)) }, func(rpc raft.RPC) {
			rpc.Respond(nil, errors.New("no"))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", nil), start(t, network, "b", nil)
				r := storage.Replica{Group: 1, Generation: 1}
				ga, gb := open(a.Transport, r), open(b.Transport, r)
				s := &spool{}
				gb.SetStager(s)
				defer serve(gb, c.serve)()
				install := func(data io.Reader) error {
					return ga.InstallSnapshot(ServerID("b", 1), "", &raft.InstallSnapshotRequest{
						SnapshotVersion: 1, Term: 1, LastLogIndex: 9, LastLogTerm: 1, Configuration: oneVoter,
					}, new(raft.InstallSnapshotResponse), data)
				}
				if err := install(c.data(network)); err == nil {
					t.Error("no error at the sender")
				}
				synctest.Wait()
				if s.aborted.Load() != c.abort || s.failed.Load() != 1-c.abort {
					t.Errorf("%d aborted, %d failed", s.aborted.Load(), s.failed.Load())
				}
				if c.abort == 0 { // the place is free again
					if err := install(bytes.NewReader(make([]byte, 1<<20))); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// failing is a reader that does something and fails, or ends if it did.
type failing struct{ do func() }

func (f *failing) Read([]byte) (int, error) {
	if f.do != nil {
		f.do()
		return 0, io.EOF
	}
	return 0, errors.New("disk")
}

// list is a state machine that remembers what was applied.
type list struct {
	mu   sync.Mutex
	data []string
}

func (l *list) Apply(e *raft.Log) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, string(e.Data))
	return nil
}
func (l *list) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (l *list) Restore(io.ReadCloser) error         { return errors.New("none") }
func (l *list) all() string                         { l.mu.Lock(); defer l.mu.Unlock(); return fmt.Sprint(l.data) }

func TestThreeRaftNodesOfSeveralGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond, Jitter: time.Millisecond})
		names := []string{"n1", "n2", "n3"}
		const groups = 4
		type replica struct {
			*raft.Raft
			fsm  *list
			node string
		}
		var all [groups][]replica
		nodes := map[string]*node{}
		for _, name := range names {
			nodes[name] = start(t, network, name, nil)
		}
		for g := range groups {
			var servers []raft.Server
			for _, name := range names {
				id := ServerID(partition.NodeID(name), 1)
				servers = append(servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
			}
			for _, name := range names {
				cfg := raft.DefaultConfig()
				cfg.LocalID = ServerID(partition.NodeID(name), 1)
				cfg.LogOutput = io.Discard
				store, snaps, fsm := raft.NewInmemStore(), raft.NewInmemSnapshotStore(), &list{}
				trans := open(nodes[name].Transport, storage.Replica{Group: storage.GroupID(g), Generation: 1})
				if err := raft.BootstrapCluster(cfg, store, store, snaps, trans, raft.Configuration{Servers: servers}); err != nil {
					t.Fatal(err)
				}
				r, err := raft.NewRaft(cfg, fsm, store, store, snaps, trans)
				if err != nil {
					t.Fatal(err)
				}
				all[g] = append(all[g], replica{r, fsm, name})
			}
		}
		defer func() {
			for _, g := range all {
				for _, r := range g {
					future := r.Shutdown()
					if err := future.Error(); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		leader := func(g int, not string) *replica {
			for range 600 {
				for i := range all[g] {
					if r := &all[g][i]; r.State() == raft.Leader && r.node != not {
						return r
					}
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Fatalf("group %d has no leader", g)
			return nil
		}
		write := func(g int, l *replica, text string) {
			t.Helper()
			if err := l.Apply([]byte(text), 5*time.Second).Error(); err != nil {
				t.Fatalf("group %d: %v", g, err)
			}
		}
		for g := range groups {
			for i := range 20 {
				write(g, leader(g, ""), fmt.Sprint("before ", i))
			}
		}
		lost := leader(0, "").node
		network.Isolate(lost)
		time.Sleep(5 * time.Second)
		for g := range groups {
			write(g, leader(g, lost), "during")
		}
		network.Heal()
		time.Sleep(5 * time.Second)
		for g := range groups {
			write(g, leader(g, ""), "after")
		}
		time.Sleep(5 * time.Second)
		for g := range groups {
			want := all[g][0].fsm.all()
			for _, r := range all[g][1:] {
				if got := r.fsm.all(); got != want || len(r.fsm.data) != 22 {
					t.Errorf("group %d: %s has %s, want %s", g, r.node, got, want)
				}
			}
		}
		// While idle, heartbeats of groups with one leader share frames.
		for name, n := range nodes {
			for peer, m := range n.Metrics() {
				t.Logf("%s to %s: %+v", name, peer, m)
			}
		}
	})
}
