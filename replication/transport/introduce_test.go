package transport

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/replication/memnet"
	"github.com/capstan-kv/capstan/storage"
)

var shard = storage.Replica{Group: 1, Generation: 1}

// append2 is an append of entries 1 and 2 of that term.
func append2(term uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: term, Entries: []*raft.Log{{Index: 1, Term: term}, {Index: 2, Term: term}}}
}

func claimed(term, index uint64) knowledge.Claim {
	return knowledge.Claim{Term: term, End: knowledge.Entry{Term: term, Index: index}}
}

// restart ends b and starts it again, with a replica whose disk holds c.
func restart(t *testing.T, network *memnet.Network, a, b *node, incarnation uint64, r storage.Replica, c knowledge.Claim) (*node, *GroupTransport) {
	t.Helper()
	network.Crash("b")
	_ = b.Close()
	b = start(t, network, "b", func(cfg *Config) { cfg.Start = func() (uint64, uint64) { return 1, incarnation } })
	gb := b.Group(r)
	gb.Introduce(c, "")
	a.Kick("b")
	return b, gb
}

// A replica that comes back with what it has acknowledged is counted; one that has
// lost it is not, hears why, and is not counted by any later connection either.
func TestARolledBackReplicaIsRefuted(t *testing.T) {
	for name, c := range map[string]struct {
		claim knowledge.Claim
		lost  bool
	}{
		"all of it":        {claimed(3, 2), false},
		"more":             {claimed(3, 9), false},
		"a later term":     {knowledge.Claim{Term: 5, End: knowledge.Entry{Term: 2, Index: 1}}, false},
		"an entry is gone": {claimed(3, 1), true},
		"the term is gone": {claimed(2, 2), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", nil), start(t, network, "b", nil)
				ga, gb := open(a.Transport, shard), open(b.Transport, shard)
				stop := serve(gb, success)
				if err := send(ga, ServerID("b", 1), append2(3)); err != nil {
					t.Fatal(err)
				}
				stop()
				for incarnation := range uint64(2) {
					b, gb = restart(t, network, a, b, incarnation+2, shard, c.claim)
					stop := serve(gb, success)
					err := send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: max(3, c.claim.Term)})
					synctest.Wait()
					if errors.Is(err, ErrNoReplica) != c.lost || !c.lost && err != nil {
						t.Errorf("a's heartbeat: %v", err)
					}
					err = send(gb, ServerID("a", 1), &raft.RequestPreVoteRequest{Term: 1}) // nobody serves ga
					if errors.Is(err, ErrNoReplica) != c.lost {
						t.Errorf("b's request: %v", err)
					}
					if a.Counted("b", shard) == c.lost {
						t.Errorf("counted: %v", !c.lost)
					}
					told := count(b, func(e Refuted) bool { return e.Peer == "a" && e.Replica == shard && e.Loss != nil })
					disowned := count(a, func(e Disowned) bool { return e.Peer == "b" && strings.Contains(e.Loss.Error(), "term 3") })
					if (told > 0) != c.lost || (disowned > 0) != c.lost {
						t.Errorf("b was told %d times, a says so %d times", told, disowned)
					}
					stop()
				}
			})
		})
	}
}

// A leader's own log is known by what it has sent, a vote by whom it was given to.
func TestWhatElseIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		show      func(ga, gb *GroupTransport) error
		lost      knowledge.Claim
		held      knowledge.Claim
		candidate raft.ServerID
	}{
		"a leader's log": {
			func(_, gb *GroupTransport) error { return send(gb, ServerID("a", 1), append2(3)) },
			claimed(3, 1), claimed(3, 2), "",
		},
		"a leader's heartbeat": {
			func(_, gb *GroupTransport) error {
				return send(gb, ServerID("a", 1), &raft.AppendEntriesRequest{Term: 3})
			},
			claimed(2, 9), claimed(3, 1), "",
		},
		"a candidate's term": {
			func(_, gb *GroupTransport) error {
				return send(gb, ServerID("a", 1), &raft.RequestVoteRequest{Term: 3})
			},
			claimed(2, 9), claimed(3, 1), "",
		},
		"a vote": {
			func(ga, _ *GroupTransport) error {
				return send(ga, ServerID("b", 1), &raft.RequestVoteRequest{Term: 3})
			},
			knowledge.Claim{Term: 3}, knowledge.Claim{Term: 3, VoteTerm: 3}, "a/1",
		},
		"a snapshot": {
			func(ga, gb *GroupTransport) error {
				gb.SetStager(&spool{})
				return send(ga, ServerID("b", 1), &raft.InstallSnapshotRequest{
					SnapshotVersion: 1, Term: 3, LastLogIndex: 7, LastLogTerm: 2, Configuration: oneVoter})
			},
			knowledge.Claim{Term: 3, End: knowledge.Entry{Term: 2, Index: 6}}, knowledge.Claim{Term: 3, End: knowledge.Entry{Term: 2, Index: 7}}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", nil), start(t, network, "b", nil)
				ga, gb := open(a.Transport, shard), open(b.Transport, shard)
				defer serve(ga, success)()
				stop := serve(gb, success)
				if err := c.show(ga, gb); err != nil {
					t.Fatal(err)
				}
				stop()
				b, _ = restart(t, network, a, b, 2, shard, c.lost)
				_ = echo(t, a, "b")
				synctest.Wait()
				if a.Counted("b", shard) {
					t.Error("one that has lost it is counted")
				}
				network.Crash("b")
				_ = b.Close()
				b = start(t, network, "b", func(cfg *Config) { cfg.Start = func() (uint64, uint64) { return 1, 3 } })
				gb = b.Group(shard)
				gb.Introduce(c.held, c.candidate)
				a.Kick("b")
				_ = echo(t, a, "b")
				synctest.Wait()
				if !a.Counted("b", shard) {
					t.Errorf("one that has it is not counted: %+v", a.events)
				}
			})
		})
	}
}

// The answer to a pre-vote repeats a term that the voter has not entered.
func TestAPreVoteShowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		ga, gb := open(a.Transport, shard), open(b.Transport, shard)
		stop := serve(gb, success)
		if err := send(ga, ServerID("b", 1), &raft.RequestPreVoteRequest{Term: 9}); err != nil {
			t.Fatal(err)
		}
		stop()
		restart(t, network, a, b, 2, shard, knowledge.Claim{Term: 8})
		_ = echo(t, a, "b")
		synctest.Wait()
		if !a.Counted("b", shard) {
			t.Error("not counted")
		}
	})
}

// A replica that is opened on a connection that stands introduces itself before it
// says anything; one that is opened again is held to what it has shown before.
func TestAReplicaOpenedLaterIntroducesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond, Jitter: time.Millisecond})
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		if err := echo(t, a, "b"); err != nil {
			t.Fatal(err)
		}
		ga := a.Group(shard)
		if err := send(ga, ServerID("b", 1), append2(3)); !errors.Is(err, ErrNoReplica) {
			t.Errorf("before it is open: %v", err)
		}
		gb := open(b.Transport, shard)
		defer serve(gb, success)()
		ga.Introduce(knowledge.Claim{}, "")
		if err := send(ga, ServerID("b", 1), append2(3)); err != nil {
			t.Errorf("right after its introduction: %v", err)
		}
		_ = gb.Close()
		gb = b.Group(shard)
		defer serve(gb, success)()
		gb.Introduce(claimed(3, 2), "")
		if err := send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: 3}); err != nil {
			t.Errorf("opened again: %v", err)
		}
		_ = gb.Close()
		gb = b.Group(shard)
		defer serve(gb, success)()
		gb.Introduce(claimed(3, 1), "")
		if err := send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: 3}); !errors.Is(err, ErrNoReplica) {
			t.Errorf("opened again, an entry is gone: %v", err)
		}
		// A later generation has another log: nothing was shown of it.
		_ = gb.Close()
		later := storage.Replica{Group: 1, Generation: 2}
		defer serve(open(b.Transport, later), success)()
		if err := send(ga, ServerID("b", 2), &raft.AppendEntriesRequest{Term: 3}); err != nil {
			t.Errorf("a later generation: %v", err)
		}
		if n := a.Metrics()["b"].Connects; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// The node that knows is started again on what it had saved, while the replica goes
// on: it is not held to what its disk held when it was opened.
func TestARestartOfTheNodeThatKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		book := knowledge.NewBook(nil)
		a, b := start(t, network, "a", func(c *Config) { c.Book = book }), start(t, network, "b", nil)
		ga, gb := open(a.Transport, shard), open(b.Transport, shard)
		defer serve(gb, success)()
		if err := send(ga, ServerID("b", 1), append2(3)); err != nil {
			t.Fatal(err)
		}
		saved := book.Changes()
		network.Crash("a")
		_ = a.Close()
		a = start(t, network, "a", func(c *Config) { c.Book, c.Start = knowledge.NewBook(saved), func() (uint64, uint64) { return 1, 2 } })
		ga = a.Group(shard)
		ga.Introduce(claimed(3, 2), "") // b knows what a has sent as a leader
		b.Kick("a")
		if err := send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: 3}); err != nil {
			t.Error(err)
		}
	})
}

// A node that has started again, and has opened no replica yet, refutes by what it
// had saved: it is believed.
func TestANodeWithoutOpenReplicasRefutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		saved := map[knowledge.Key]knowledge.Record{
			{Node: "b", Replica: shard}: {Opening: 7, Shown: knowledge.Shown{Term: 4}},
		}
		a := start(t, network, "a", func(c *Config) { c.Book = knowledge.NewBook(saved) })
		b := start(t, network, "b", nil)
		b.Group(shard).Introduce(claimed(3, 2), "")
		if err := echo(t, a, "b"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if count(b, func(e Refuted) bool { return e.Peer == "a" && e.Replica == shard }) != 1 {
			t.Errorf("events: %+v", b.events)
		}
	})
}

// A peer cannot refute a claim that was not made, nor one that lacks nothing.
func TestARefutationIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		ga, gb := open(a.Transport, shard), b.Group(shard)
		gb.Introduce(claimed(3, 2), "")
		defer serve(gb, success)()
		if err := send(ga, ServerID("b", 1), &raft.AppendEntriesRequest{Term: 3}); err != nil {
			t.Fatal(err)
		}
		l := b.peer("a").link.Load()
		refute := func(r storage.Replica, opening uint64, s knowledge.Shown) {
			t.Helper()
			b := appendUints(appendEnvelope(nil, envelope{group: r.Group, from: r.Generation})[:8], opening, s.Term, s.Acked, s.End.Term, s.End.Index, s.Voted)
			if err := l.onRefute(b); err != nil {
				t.Fatal(err)
			}
		}
		more := knowledge.Shown{Term: 4}
		opening := gb.introduced.Load().opening
		refute(shard, opening+2, more)
		refute(shard, opening, knowledge.Shown{Term: 3, Acked: 3, End: knowledge.Entry{Term: 3, Index: 2}})
		refute(storage.Replica{Group: 2, Generation: 1}, opening, more)
		if n := count(b, func(Refuted) bool { return true }); n != 0 {
			t.Errorf("%d were believed", n)
		}
		refute(shard, opening, more)
		if n := count(b, func(Refuted) bool { return true }); n != 1 {
			t.Errorf("%d true ones were believed", n)
		}
	})
}
