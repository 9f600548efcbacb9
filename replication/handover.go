package replication

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"

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
	return able[rand.IntN(len(able))], nil
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
	if err == nil || errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrNotLeader) {
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
