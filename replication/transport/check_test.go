package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/logcheck"
	"github.com/capstan-kv/capstan/replication/memnet"
	"github.com/capstan-kv/capstan/storage"
)

// hostile are requests that no replica sends. Term 5 is the highest there is.
func hostile() map[string]any {
	entry := func(e raft.Log) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: e.Index - 1, PrevLogTerm: 1, Entries: []*raft.Log{&e}}
	}
	snapshot := func(change func(*raft.InstallSnapshotRequest)) *raft.InstallSnapshotRequest {
		r := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 5, LastLogIndex: 9, LastLogTerm: 5, ConfigurationIndex: 1, Configuration: oneVoter}
		change(r)
		return r
	}
	return map[string]any{
		"junk configuration":  entry(raft.Log{Index: 2, Term: 5, Type: raft.LogConfiguration, Data: []byte("junk")}),
		"unknown type":        entry(raft.Log{Index: 2, Term: 5, Type: 200}),
		"barrier":             entry(raft.Log{Index: 2, Term: 5, Type: raft.LogBarrier}),
		"entry without index": &raft.AppendEntriesRequest{Term: 5, Entries: []*raft.Log{{Term: 5}}},
		"entry with a gap":    &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 1, Entries: []*raft.Log{{Index: 5, Term: 5}}},
		"entries out of order": &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 1,
			Entries: []*raft.Log{{Index: 4, Term: 5}, {Index: 4, Term: 5}}},
		"terms that fall": &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 1,
			Entries: []*raft.Log{{Index: 4, Term: 5}, {Index: 5, Term: 4}}},
		"an entry of a later term": &raft.AppendEntriesRequest{Term: 5, Entries: []*raft.Log{{Index: 1, Term: 6}}},
		"a previous entry of a later term": &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 6,
			Entries: []*raft.Log{{Index: 4, Term: 6}}},
		"a previous entry without term":  &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3},
		"a previous entry without index": &raft.AppendEntriesRequest{Term: 5, PrevLogTerm: 3},
		"indexes near 2^64":              &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: math.MaxUint64, PrevLogTerm: 3},
		"a command of another format":    entry(raft.Log{Index: 2, Term: 5, Data: []byte("unknown")}),
		"append: term near 2^64":         &raft.AppendEntriesRequest{Term: math.MaxUint64, PrevLogEntry: 1, PrevLogTerm: 1},
		"heartbeat: term near 2^64":      &raft.AppendEntriesRequest{Term: math.MaxUint64 - 1},
		"heartbeat: term out of reach":   &raft.AppendEntriesRequest{Term: 6 + logcheck.MaxTermStep},
		"vote: term near 2^64":           &raft.RequestVoteRequest{Term: math.MaxUint64},
		"vote: log of a later term":      &raft.RequestVoteRequest{Term: 5, LastLogIndex: 9, LastLogTerm: 6},
		"vote: nonsense index":           &raft.RequestVoteRequest{Term: 5, LastLogIndex: 1 << 63, LastLogTerm: 4},
		"pre-vote: term near 2^64":       &raft.RequestPreVoteRequest{Term: math.MaxUint64 - 7},
		"pre-vote: log of a later term":  &raft.RequestPreVoteRequest{Term: 5, LastLogIndex: 9, LastLogTerm: 6},
		"snapshot: term near 2^64":       snapshot(func(r *raft.InstallSnapshotRequest) { r.Term = math.MaxUint64 }),
		"snapshot: junk configuration":   snapshot(func(r *raft.InstallSnapshotRequest) { r.Configuration = []byte("junk") }),
		"snapshot: no entry":             snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = 0 }),
		"snapshot: entry near 2^64":      snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = math.MaxUint64 }),
		"snapshot: entry of later term":  snapshot(func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = 6 }),
		"snapshot: old version":          snapshot(func(r *raft.InstallSnapshotRequest) { r.SnapshotVersion = 0 }),
		"snapshot: later configuration":  snapshot(func(r *raft.InstallSnapshotRequest) { r.ConfigurationIndex = 10 }),
		"snapshot: negative size":        snapshot(func(r *raft.InstallSnapshotRequest) { r.Size = -1 }),
	}
}

// send sends a request of any kind.
func send(g *GroupTransport, to raft.ServerID, request any) error {
	switch r := request.(type) {
	case *raft.AppendEntriesRequest:
		return g.AppendEntries(to, "", r, new(raft.AppendEntriesResponse))
	case *raft.RequestVoteRequest:
		return g.RequestVote(to, "", r, new(raft.RequestVoteResponse))
	case *raft.RequestPreVoteRequest:
		return g.RequestPreVote(to, "", r, new(raft.RequestPreVoteResponse))
	case *raft.InstallSnapshotRequest:
		return g.InstallSnapshot(to, "", r, new(raft.InstallSnapshotResponse), strings.NewReader("data"))
	}
	panic(fmt.Sprintf("request %T", request))
}

func TestHostileRequestsDoNotReachRaft(t *testing.T) {
	for name, request := range hostile() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", nil), start(t, network, "b", nil)
				r := storage.Replica{Group: 1, Generation: 1}
				ga, gb := open(a.Transport, r), open(b.Transport, r)
				gb.SetStager(&spool{})
				gb.SetContent(func(data []byte) error {
					if string(data) == "unknown" {
						return errors.New("unknown command")
					}
					return nil
				})
				var got []any
				defer serve(gb, func(rpc raft.RPC) { got = append(got, rpc.Command); success(rpc) })()
				beat := &raft.AppendEntriesRequest{Term: 5}
				if err := send(ga, ServerID("b", 1), beat); err != nil {
					t.Fatal(err)
				}
				if err := send(ga, ServerID("b", 1), request); !errors.Is(err, ErrRefused) {
					t.Errorf("answered %v", err)
				}
				if len(got) != 1 {
					t.Errorf("Raft got %+v", got[1:])
				}
				if count(b, func(e Rejected) bool { return e.Peer == "a" && errors.Is(e.Err, logcheck.ErrInvalid) }) != 1 {
					t.Errorf("events: %+v", b.events)
				}
				// The connection stands, and serves what is right.
				if err := send(ga, ServerID("b", 1), beat); err != nil || b.Metrics()["a"].Connects != 1 {
					t.Errorf("afterwards: %v, %d connections", err, b.Metrics()["a"].Connects)
				}
			})
		})
	}
}

func TestHostileAnswersDoNotReachRaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		r := storage.Replica{Group: 1, Generation: 1}
		ga, gb := open(a.Transport, r), open(b.Transport, r)
		gb.SetStager(&spool{})
		const far = math.MaxUint64
		defer serve(gb, func(rpc raft.RPC) {
			switch rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Respond(&raft.AppendEntriesResponse{Term: far}, nil)
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{Term: far, Granted: true}, nil)
			case *raft.RequestPreVoteRequest:
				rpc.Respond(&raft.RequestPreVoteResponse{Term: far, Granted: true}, nil)
			case *raft.InstallSnapshotRequest:
				rpc.Respond(&raft.InstallSnapshotResponse{Term: far}, nil)
			}
		})()
		for _, request := range []any{
			&raft.AppendEntriesRequest{Term: 1},
			&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1, PrevLogTerm: 1},
			&raft.RequestVoteRequest{Term: 1}, &raft.RequestPreVoteRequest{Term: 1},
			&raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 1, LastLogIndex: 1, LastLogTerm: 1, Configuration: oneVoter},
		} {
			if err := send(ga, ServerID("b", 1), request); !errors.Is(err, logcheck.ErrInvalid) {
				t.Errorf("%T: %v", request, err)
			}
		}
	})
}

// Terms rise by a bounded step for each that the replica itself has taken: a peer
// cannot raise them by asking for pre-votes.
func TestTermsRiseByBoundedSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		r := storage.Replica{Group: 1, Generation: 1}
		ga, gb := open(a.Transport, r), open(b.Transport, r)
		defer serve(gb, success)()
		beat := func(term uint64) error {
			return send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: term})
		}
		pre := func(term uint64) error {
			return send(ga, ServerID("b", 1), &raft.RequestPreVoteRequest{Term: term})
		}
		if err := errors.Join(pre(logcheck.MaxTermStep), pre(logcheck.MaxTermStep)); err != nil {
			t.Fatal(err)
		}
		if err := beat(logcheck.MaxTermStep + 1); !errors.Is(err, ErrRefused) {
			t.Errorf("a term that only pre-votes have named: %v", err)
		}
		if err := errors.Join(beat(logcheck.MaxTermStep), beat(2*logcheck.MaxTermStep)); err != nil {
			t.Errorf("step by step: %v", err)
		}
	})
}

// A commit index beyond what the request vouches for is held to that.
func TestCommitIndexIsHeldToTheRequest(t *testing.T) {
	r := &raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 4, PrevLogTerm: 1, LeaderCommitIndex: 9}
	if err := checkAppend(r); err != nil || r.LeaderCommitIndex != 4 {
		t.Errorf("without entries: %d, %v", r.LeaderCommitIndex, err)
	}
	r.Entries, r.LeaderCommitIndex = []*raft.Log{{Index: 5, Term: 2}, {Index: 6, Term: 2}}, 9
	if err := checkAppend(r); err != nil || r.LeaderCommitIndex != 6 {
		t.Errorf("with entries: %d, %v", r.LeaderCommitIndex, err)
	}
	r.LeaderCommitIndex = 5
	if err := checkAppend(r); err != nil || r.LeaderCommitIndex != 5 {
		t.Errorf("a lower one: %d, %v", r.LeaderCommitIndex, err)
	}
}

type panickingStager struct{}

func (panickingStager) Wants(uint64) error { return nil }

func (panickingStager) Stage(context.Context, io.Reader) ([]byte, func(), error) { panic("stager") }

func TestPanicsEndTheConnectionOnly(t *testing.T) {
	const kindPanic, kindPanicControl = 19, 9
	panics := func(context.Context, partition.NodeID, []byte) ([]byte, error) { panic("handler") }
	r := storage.Replica{Group: 1, Generation: 1}
	for name, c := range map[string]func(t *testing.T, a, b *node, ga *GroupTransport) error{
		"a call": func(t *testing.T, a, b *node, ga *GroupTransport) error {
			_, err := a.Call(t.Context(), "b", kindPanic, nil)
			return err
		},
		"a control call": func(t *testing.T, a, b *node, ga *GroupTransport) error {
			_, err := a.Call(t.Context(), "b", kindPanicControl, nil)
			return err
		},
		"a notification": func(t *testing.T, a, b *node, ga *GroupTransport) error {
			if err := a.Notify("b", kindPanic, nil); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			return ErrLost
		},
		"a snapshot's stream": func(t *testing.T, a, b *node, ga *GroupTransport) error {
			return send(ga, ServerID("b", 1), &raft.InstallSnapshotRequest{
				SnapshotVersion: 1, Term: 1, LastLogIndex: 1, LastLogTerm: 1, Configuration: oneVoter})
		},
		"an entry's check": func(t *testing.T, a, b *node, ga *GroupTransport) error {
			return send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: 1, Entries: []*raft.Log{{Index: 1, Term: 1}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", nil), start(t, network, "b", nil)
				ga, gb := open(a.Transport, r), open(b.Transport, r)
				gb.SetStager(panickingStager{})
				gb.SetContent(func([]byte) error { panic("check") })
				b.Handle(kindPanic, panics)
				b.Handle(kindPanicControl, panics)
				defer serve(gb, success)()
				if err := echo(t, a, "b"); err != nil {
					t.Fatal(err)
				}
				if err := c(t, a, b, ga); !errors.Is(err, ErrLost) {
					t.Errorf("the caller hears %v", err)
				}
				synctest.Wait()
				if count(b, func(e Panicked) bool { return e.Peer == "a" && len(e.Stack) > 0 }) != 1 {
					t.Errorf("events: %+v", b.events)
				}
				if b.Connected("a") {
					t.Error("the connection stands")
				}
				if err := echo(t, a, "b"); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

// FuzzDeliver hands requests of any bytes to a real replica, which must survive
// them and go on to answer.
func FuzzDeliver(f *testing.F) {
	for kind, b := range requests() {
		f.Add(byte(kind), b)
	}
	for _, request := range hostile() {
		switch r := request.(type) {
		case *raft.AppendEntriesRequest:
			f.Add(byte(rpcAppendEntries), appendAppendEntries(nil, r))
		case *raft.RequestVoteRequest:
			f.Add(byte(rpcRequestVote), appendRequest(nil, r))
		case *raft.RequestPreVoteRequest:
			f.Add(byte(rpcRequestPreVote), appendRequest(nil, r))
		}
	}
	r := storage.Replica{Group: 1, Generation: 1}
	t, err := New(Config{
		Self: "b", Dial: dialNobody, Resolve: func(partition.NodeID) (string, bool) { return "", false },
	})
	if err != nil {
		f.Fatal(err)
	}
	g := open(t, r)
	cfg := raft.DefaultConfig()
	cfg.LocalID, cfg.LogOutput = ServerID("b", 1), io.Discard
	store := raft.NewInmemStore()
	id := func(node partition.NodeID) raft.Server {
		return raft.Server{ID: ServerID(node, 1), Address: raft.ServerAddress(ServerID(node, 1))}
	}
	snapshots := raft.NewInmemSnapshotStore()
	if err := raft.BootstrapCluster(cfg, store, store, snapshots, g, raft.Configuration{Servers: []raft.Server{id("a"), id("b"), id("c")}}); err != nil {
		f.Fatal(err)
	}
	machine, err := raft.NewRaft(cfg, &list{}, store, store, snapshots, g)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = machine.Shutdown().Error(); _ = t.Close() })
	var mu sync.Mutex
	f.Fuzz(func(tt *testing.T, kind byte, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		d := decoder{b: b}
		request, err := d.request(rpcKind(kind), "a/1")
		if err != nil {
			return
		}
		if _, snapshot := request.(*raft.InstallSnapshotRequest); snapshot {
			_ = g.checkRequest(request) // needs a stream to go further
			return
		}
		if g.checkRequest(request) != nil {
			return
		}
		for _, command := range []any{request, &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a/1"), Addr: []byte("a/1")}}} {
			response, err := g.Inject(command)
			if err == nil {
				g.own.raiseBy(response)
			} else if errors.Is(err, ErrLost) || errors.Is(err, ErrBusy) {
				tt.Fatalf("%T: no answer: %v", command, err)
			}
		}
		// Whatever was stored can be read again at the next start.
		first, _ := store.FirstIndex()
		last, _ := store.LastIndex()
		for i := max(first, last-min(last, 80)); i <= last; i++ {
			var e raft.Log
			if err := store.GetLog(i, &e); err != nil {
				tt.Fatal(err)
			}
			if err := logcheck.Entry(&e); err != nil {
				tt.Fatalf("stored: %v", err)
			}
		}
	})
}

func dialNobody(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") }
