package replication

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/fault"
)

// reach counts the voters that were heard from lately, self included, and how
// many make a quorum.
func reach(members []Member, self Member, heard func(Member) bool) (reachable, needed int) {
	voters := 0
	for _, m := range members {
		if m.Nonvoter {
			continue
		}
		voters++
		if m.Node == self.Node && m.Generation == self.Generation || heard(m) {
			reachable++
		}
	}
	return reachable, voters/2 + 1
}

// Reachable counts the group's voters that this node heard from within an
// election timeout, itself included, and how many make a quorum. A leader does not count
// a voter whose node it hears and whose replica has answered none of its heartbeats for
// that long: it has failed, or is not open.
func (g *Group) Reachable() (reachable, needed int) {
	now := time.Now()
	return reach(membersOf(g.configuration()), g.member, func(m Member) bool {
		return g.host.heard(m.Node) && !g.unanswered.longer(m.ServerID(), now, g.host.timing.Election)
	})
}

// unanswered is since when heartbeats of a leader to replicas have failed although it
// hears their nodes.
type unanswered struct {
	mu    sync.Mutex
	since map[raft.ServerID]time.Time
}

func (u *unanswered) note(id raft.ServerID, failed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch _, known := u.since[id]; {
	case !failed:
		delete(u.since, id)
	case !known && u.since == nil:
		u.since = map[raft.ServerID]time.Time{id: time.Now()}
	case !known:
		u.since[id] = time.Now()
	}
}

func (u *unanswered) clear() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.since)
}

func (u *unanswered) longer(id raft.ServerID, now time.Time, than time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	since, ok := u.since[id]
	return ok && now.Sub(since) >= than
}

func (h *Host) heard(node partition.NodeID) bool { return h.heardWithin(node, h.timing.Election) }

func (h *Host) heardWithin(node partition.NodeID, within time.Duration) bool {
	ago, ok := h.peers.LastHeard(node)
	return ok && ago < within
}

// Refuses is why any linearizable operation would be refused here at once: the
// replica has failed or is stopping, or has heard of no quorum for an election
// timeout. Nil if it would be tried.
func (g *Group) Refuses() error { return g.refusal() }

// refusal says why the replica can serve nothing linearizable now, or nil: it
// is stopping or has failed, or no quorum was reachable for an election
// timeout. A follower that hears its leader relies on that one's quorum.
func (g *Group) refusal() error {
	if err := g.unusable(); err != nil {
		return err
	}
	if (fault.On(fault.ReadUnconfirmed) || fault.On(fault.VerifyLeader)) && g.lead() != nil {
		return nil
	}
	now := time.Now()
	if now.Sub(g.opened) < g.host.timing.Election {
		return nil // not long enough here to have missed anybody
	}
	last := g.reachAt.Load()
	if last == nil || now.Sub(last.at) >= reachAge || last.reachable < last.needed {
		reachable, needed := g.Reachable()
		last = &reachability{at: now, reachable: reachable, needed: needed}
		g.reachAt.Store(last)
	}
	if last.reachable >= last.needed {
		return nil
	}
	if leader := g.leader(); leader.Node != "" && leader != g.member && g.host.heard(leader.Node) {
		return nil
	}
	return noQuorum(last.reachable, last.needed)
}

// reachAge is how long a count that makes a quorum is used again: far below any
// election timeout, and long enough to cost nothing an operation. One that makes
// none is not: the next request may be the first after a heal.
const reachAge = 20 * time.Millisecond

type reachability struct {
	at                time.Time
	reachable, needed int
}
