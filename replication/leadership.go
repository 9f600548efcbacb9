package replication

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage/fault"
)

// lead is proof that this replica was elected for term: an entry that this
// process proposed, known by its nonce, was committed with that term, and only
// the leader of a term appends entries of it. index is that entry's; it is
// applied. Whether a later term has begun since, lead does not say.
type lead struct{ term, index uint64 }

// lead is the current proof, or nil.
func (g *Group) lead() *lead {
	l := g.proven.Load()
	if fault.On(fault.ReadUnconfirmed) && l != nil && l.term != g.raft.CurrentTerm() {
		return nil // that one is not given up when leadership ends
	}
	return l
}

// watchLeadership owns the group's leadership: it drains what Raft says about
// it, proposes an own no-op at the start of a term and again when that fails,
// and clears the proof when leadership ends. It ends after Raft has.
func (g *Group) watchLeadership() {
	var (
		leading bool
		proving bool
		pause   time.Duration
		retry   = time.NewTimer(0)
		done    = make(chan error, 1)
		insist  time.Duration // pause between kicks; 0: nothing is stuck
		again   = time.NewTimer(0)
	)
	<-retry.C
	<-again.C
	prove := func() {
		if !leading || proving || g.unusable() != nil {
			return
		}
		n := g.expectNoop()
		proving = g.hand(func() { done <- g.propose(encodeNoop(n)).Error() })
	}
	kick := func() {
		if !leading || g.raft.CommitIndex() >= g.raft.LastIndex() || g.unusable() != nil {
			insist = 0
			return
		}
		insist = min(max(2*insist, stuckAfter), stuckAtMost)
		again.Reset(insist)
		if !g.stalled() {
			n := newNonce()
			g.hand(func() { _ = g.raft.ApplyLog(raft.Log{Data: encodeNoop(n)}, g.host.timing.Election).Error() })
		}
	}
	for {
		select {
		case leading = <-g.notify:
			g.clearLead()
			if fault.On(fault.FreshLeader) && leading {
				g.proven.Store(&lead{term: g.raft.CurrentTerm()})
				g.broadcast()
			}
			pause = 0
			prove()
		case err := <-done:
			proving = false
			if err != nil || leading && g.lead() == nil {
				pause = nextBackoff(pause)
				retry.Reset(pause)
			}
		case <-retry.C:
			if g.lead() == nil {
				prove()
			}
		case <-g.nudges:
			prove()
		case <-g.stuck:
			if insist == 0 {
				kick()
			}
		case <-again.C:
			kick()
		case <-g.raftDone:
			g.clearLead()
			return
		}
	}
}

const (
	// stuckAfter is how long an entry may wait for its quorum before a no-op is
	// sent after it: above the time that takes on a slow disk and network.
	stuckAfter = 100 * time.Millisecond
	// stuckAtMost bounds the pauses between such no-ops.
	stuckAtMost = time.Second
)

// propose hands an entry to Raft, and sees to it that its followers get it.
//
// The library sends when something new is proposed, and else after
// Timing.Commit: an append that a broken connection swallowed is not repeated
// before. If no heartbeat happened to be on its way, nothing else tells. So a
// leader whose last entry stays uncommitted proposes no-ops until it is (see
// kick in watchLeadership), or until it leads no more, after a lease.
func (g *Group) propose(data []byte) raft.ApplyFuture {
	late := time.AfterFunc(stuckAfter, func() { signal(g.stuck) })
	return insisted{g.raft.ApplyLog(raft.Log{Data: data}, g.host.timing.Election), late}
}

type insisted struct {
	raft.ApplyFuture
	late *time.Timer
}

func (f insisted) Error() error {
	defer f.late.Stop()
	return f.ApplyFuture.Error()
}

// nudge makes a leader propose a no-op, which makes the library send to every
// follower what it lacks and look at the term that it answers. Heartbeats do
// neither, and after a failed append the library waits for the next entry.
func (g *Group) nudge() { signal(g.nudges) }

func newNonce() (n nonce) {
	rand.Read(n[:]) // never fails
	return n
}

// expectNoop makes a nonce the one that proves leadership.
func (g *Group) expectNoop() nonce {
	n := newNonce()
	g.leadMu.Lock()
	g.expected = &n
	g.leadMu.Unlock()
	return n
}

// noopApplied is called when a no-op has been applied, anybody's.
func (g *Group) noopApplied(n nonce, index, term uint64) {
	g.leadMu.Lock()
	own := g.expected != nil && *g.expected == n
	if own {
		g.expected = nil
		if old := g.lead(); old != nil && old.term == term {
			own = false // a nudge: nothing new
		} else {
			g.proven.Store(&lead{term: term, index: index})
		}
	}
	g.leadMu.Unlock()
	if own {
		g.broadcast()
		g.host.emit(LeadershipProven{Replica: g.replica, Term: term, Index: index})
	}
}

func (g *Group) clearLead() {
	if fault.On(fault.ReadUnconfirmed) && g.lead() != nil {
		return
	}
	g.holds.clear()
	g.unanswered.clear()
	g.leadMu.Lock()
	had := g.proven.Swap(nil) != nil
	g.expected = nil
	g.leadMu.Unlock()
	g.broadcast()
	if had {
		g.host.emit(LeadershipLost{Replica: g.replica})
	}
}

// watchLeader passes on changes of the leader that the replica follows. The
// library drops observations when the channel is full; that loses nothing,
// since what changed is read only after one is taken out.
func (g *Group) watchLeader() {
	var last Member
	for {
		select {
		case <-g.observations:
			g.broadcast()
			if leader := g.leader(); leader != last {
				last = leader
				g.host.emit(LeaderObserved{Replica: g.replica, Leader: leader, Term: g.raft.CurrentTerm()})
			}
		case <-g.ctx.Done():
			return
		}
	}
}

// leader is the member that the replica follows, itself included; zero if it
// knows none.
func (g *Group) leader() Member {
	_, id := g.raft.LeaderWithID()
	if id == "" {
		return Member{}
	}
	m, err := ParseServerID(id)
	if err != nil {
		return Member{}
	}
	return m
}

func (g *Group) leaderless() bool { return g.leader() == Member{} }

// Campaign asks the replica to stand for election now, without the pre-vote
// and against a leader that may exist: for the replica that is preferred as
// first leader. It does nothing at a leader or a non-voter.
//
// It is what the library does on a TimeoutNow request from a leader that hands
// over (raft.timeoutNow): the replica becomes a candidate, raises its term and
// asks for votes that others give although they know a leader. Raft's safety
// does not depend on when a candidate stands; the only cost of a bad moment is
// an election more. If it does not win, the flag that skips the pre-vote is
// reset (raft.runCandidate).
// If the request is not taken, the replica stands after its timeout, as ever.
func (g *Group) Campaign() {
	if g.unusable() != nil || g.raft.State() == raft.Leader || !g.votes() {
		return
	}
	_, _ = g.transport.Inject(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax,
		ID:              []byte(g.self),
		Addr:            g.transport.EncodePeer(g.self, raft.ServerAddress(g.self)),
	}})
}

// alone reports whether the replica is its group's only voter: there is nobody
// whose leadership it would have to wait for.
func (g *Group) alone() bool {
	voters := 0
	for _, m := range membersOf(g.configuration()) {
		if !m.Nonvoter {
			voters++
		}
	}
	return voters == 1 && g.votes()
}

func (g *Group) votes() bool {
	for _, m := range membersOf(g.configuration()) {
		if m.ServerID() == g.self {
			return !m.Nonvoter
		}
	}
	return false
}

// AddNonvoter, AddVoter and Remove change the group's configuration by one
// member, at the leader, and return when the change is committed. A voter
// votes at once: add it as a non-voter first and let it catch up.
func (g *Group) AddNonvoter(ctx context.Context, m Member) error {
	return g.change(ctx, func() raft.Future {
		return g.raft.AddNonvoter(m.ServerID(), m.address(), 0, g.host.timing.Election)
	})
}

// AddVoter: see [Group.AddNonvoter].
func (g *Group) AddVoter(ctx context.Context, m Member) error {
	return g.change(ctx, func() raft.Future {
		return g.raft.AddVoter(m.ServerID(), m.address(), 0, g.host.timing.Election)
	})
}

// Remove: see [Group.AddNonvoter]. A leader that removes itself steps down.
func (g *Group) Remove(ctx context.Context, m Member) error {
	return g.change(ctx, func() raft.Future {
		return g.raft.RemoveServer(m.ServerID(), 0, g.host.timing.Election)
	})
}

func (g *Group) change(ctx context.Context, start func() raft.Future) error {
	if err := g.refusal(); err != nil {
		return err
	}
	return g.await(ctx, start, "changing the group's members")
}

// await waits for one of the library's futures, in a goroutine that Close
// waits for: the library answers each once the main loop has turned to it.
func (g *Group) await(ctx context.Context, start func() raft.Future, doing string) error {
	done := make(chan error, 1)
	if !g.hand(func() {
		late := time.AfterFunc(stuckAfter, func() { signal(g.stuck) })
		defer late.Stop()
		done <- start().Error()
	}) {
		return stopping()
	}
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		if e := g.unusable(); e != nil && definite(err) {
			return e
		}
		return changeError(err, doing, g.leader())
	case <-ctx.Done():
		return deadline(Unknown, doing, ctx.Err())
	}
}
