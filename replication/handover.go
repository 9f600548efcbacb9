package replication

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
)

// TransferLeadership hands leadership to the given voter, or to any that was
// heard from lately if to is empty. Meanwhile proposals are refused, definitely.
// It takes an election timeout at most; ctx may end the waiting earlier, not
// the transfer.
func (g *Group) TransferLeadership(ctx context.Context, to partition.NodeID) error {
	if err := g.unusable(); err != nil {
		return err
	}
	if g.raft.State() != raft.Leader {
		return notLeader(g.leader(), nil)
	}
	if to == g.member.Node {
		return nil
	}
	heir, err := g.heir(to)
	if err != nil {
		return err
	}
	return g.await(ctx, func() raft.Future { return handover{g, heir} }, "handing over leadership")
}

// heir is who may take over: to, or somebody if that is empty. It has to be
// within reach, since proposals are refused until it has taken over or not.
func (g *Group) heir(to partition.NodeID) (Member, error) {
	var able []Member
	known := to == ""
	for _, m := range membersOf(g.configuration()) {
		if m.Nonvoter || m == g.member || to != "" && m.Node != to {
			continue
		}
		known = true
		if g.host.heard(m.Node) && !g.isBarred(m) {
			able = append(able, m)
		}
	}
	switch {
	case !known:
		return Member{}, &Error{Reason: BadOption, Outcome: NotApplied, Message: string(to) + " is no voter of this group"}
	case len(able) == 0:
		who := cmp.Or(string(to), "no other voter")
		return Member{}, &Error{Reason: NoReplica, Outcome: NotApplied,
			Message: "leadership stays: " + who + " was not heard from lately, or did not take over before", Try: "again when it is reachable"}
	}
	return slices.MaxFunc(able, func(a, b Member) int { return cmp.Compare(g.match(a), g.match(b)) }), nil
}

// match is how far a follower's log is known to equal that of the leader of a
// term.
type match struct{ term, index uint64 }

// match is how far m's log is known to equal this leader's; 0 if nothing is
// known in this term.
func (g *Group) match(m Member) uint64 {
	known, _ := g.matched.Load(m.ServerID())
	if at, ok := known.(match); ok && at.term == g.raft.CurrentTerm() {
		return at.index
	}
	return 0
}

const (
	// heirWait bounds how long a leader that stops waits for a voter to have
	// all of its log: an append and its fsync.
	heirWait = 500 * time.Millisecond
	// heirInterval is how often it looks.
	heirInterval = 5 * time.Millisecond
)

// bequeath gives leadership away at the end of a leader's life. Nothing is
// proposed any more. It waits shortly for a voter that has the whole log: with
// any other the library first waits for its replication, and for ever if
// leadership ends meanwhile. If there is none, the others elect as they would
// after a crash.
func (g *Group) bequeath() {
	tick := time.NewTicker(heirInterval)
	defer tick.Stop()
	for until := time.Now().Add(heirWait); ; <-tick.C {
		heir, err := g.heir("")
		if err != nil || g.raft.State() != raft.Leader || time.Now().After(until) {
			return
		}
		if g.match(heir) < g.raft.LastIndex() {
			continue
		}
		done := make(chan struct{})
		go func() { // the library answers within its election timeout
			_ = g.handOver(heir)
			close(done)
		}()
		timer := time.NewTimer(2 * g.host.timing.library())
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C: // its main loop hangs in a write
		}
		return
	}
}

// handOver has the library hand over, once in a term for a member that does
// not take over in time. The library keeps one request a follower to catch up;
// a second one, behind a first that a vanished follower left there, blocks for
// ever, and with it the flag that has the leader refuse all proposals.
func (g *Group) handOver(to Member) error {
	term := g.raft.CurrentTerm()
	if !g.bar(to, term) {
		return raft.ErrLeadershipTransferInProgress
	}
	err := g.raft.LeadershipTransferToServer(to.ServerID(), to.address()).Error()
	if err == nil || definite(err) { // done, or not taken by the library
		g.unbar(to)
	}
	return err
}

// handover is handOver as a future of the library.
type handover struct {
	group *Group
	to    Member
}

func (h handover) Error() error { return h.group.handOver(h.to) }

func (g *Group) isBarred(m Member) bool {
	g.leadMu.Lock()
	defer g.leadMu.Unlock()
	term, ok := g.barred[m.ServerID()]
	return ok && term == g.raft.CurrentTerm()
}

// bar says whether m was not barred in that term before.
func (g *Group) bar(m Member, term uint64) bool {
	g.leadMu.Lock()
	defer g.leadMu.Unlock()
	if barred, ok := g.barred[m.ServerID()]; ok && barred == term {
		return false
	}
	if g.barred == nil {
		g.barred = map[raft.ServerID]uint64{}
	}
	g.barred[m.ServerID()] = term
	return true
}

func (g *Group) unbar(m Member) {
	g.leadMu.Lock()
	defer g.leadMu.Unlock()
	delete(g.barred, m.ServerID())
}
