package replication

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// Failover: how a group whose leader is gone has another one soon.
//
// Left to itself the library takes long. A follower looks only now and then,
// at random moments 1 to 2 heartbeat timeouts apart, whether its leader was
// silent for one; if so it asks for pre-votes, which each voter refuses until
// its own random moment has come; and a candidate refused asks again after 1 to
// 2 election timeouts more. With timeouts of 1.5 s that is 3 s in the middle
// and 6 s at the worst, and three times that on slow links.
//
// So the hosts do by a clock and by asking what the library does by chance:
//
//  1. A voter that has heard no leader for Timing.silence asks the others, in
//     one call per node for all groups, whether they have (KindSilence).
//  2. If all that answer have heard none, and they are a quorum, it knows which of
//     them is to stand: the one with the most up-to-date log, of equal logs the one
//     that has applied most, of equals by lot (successor). Where one voter still
//     hears a leader, the others wait a little for it, so that nobody comes to
//     another choice a moment later; then the quorum will do.
//  3. If it is the successor itself, it looks at its own clock again and stands at
//     once, without a pre-vote, at most once in an election timeout, and not while
//     another candidacy may be under way. All voters ask the same question, so
//     nobody needs to be told.
//
// Step 2 is the pre-vote of Raft's thesis (9.6), with the successor chosen
// instead of drawn: nobody splits the vote, and a replica that stands can win.
//
// A replica that cannot apply (watchdog.go) votes and does not stand.
//
// When a candidate stands is of no concern to Raft's safety. What matters is
// not to depose a leader that does its work. That one hears from a quorum at
// least once in its lease, so a quorum hears from it; Timing.silence is longer
// than the lease, and any two quorums share a voter, who says no. A voter cut
// off from a leader that the others hear is outvoted for as long as that lasts.
//
// The library's own timers go on, somewhat longer. They elect where this does
// not: among nodes that do not know the messages, or whose answers take too long.

// succession is what a replica has done lately about its leader's silence.
type succession struct {
	mu        sync.Mutex
	asking    bool
	pause     time.Duration      // between two askings; 0: has not asked
	next      time.Time          // asks no earlier
	hurriedBy []partition.NodeID // in this silence
	stood     time.Time

	term  uint64 // the latest that another stood for,
	began time.Time
}

// candidacy notes that another stands for election.
func (s *succession) candidacy(term uint64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term > s.term {
		s.term, s.began = term, now
	}
}

// contested reports whether another has stood so lately that it may have won
// without having said so yet.
func (s *succession) contested(now time.Time, t Timing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.began.IsZero() && now.Sub(s.began) < t.contest()
}

// begin reports whether it is time to ask; the asking must be ended then.
func (s *succession) begin(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking || now.Before(s.next) {
		return false
	}
	s.asking = true
	return true
}

// end says when to ask again: soon at first, since voters notice the silence
// one after the other, and later on no more often than leaders are elected.
func (s *succession) end(now time.Time, t Timing, soon bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking = false
	if soon {
		s.pause = 0
	}
	s.pause = min(max(2*s.pause, t.watchInterval()), t.Election)
	s.next = now.Add(s.pause)
}

// hurry has the next asking come at once, for the first question of each other voter: it
// has noticed the silence, too, and only the successor itself stands. An asking that
// still waits for a silent node does not hold that up. It reports whether the next one is
// brought forward.
func (s *succession) hurry(by partition.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.hurriedBy, by) {
		return false
	}
	s.hurriedBy = append(s.hurriedBy, by)
	s.pause, s.next, s.asking = 0, time.Time{}, false
	return true
}

// calm says that there is nothing to ask.
func (s *succession) calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause, s.next = 0, time.Time{}
	s.hurriedBy = s.hurriedBy[:0]
}

// mayStand reports whether the replica has not stood for long enough, and
// notes that it does now.
func (s *succession) mayStand(now time.Time, t Timing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stood.IsZero() && now.Sub(s.stood) < t.Election {
		return false
	}
	s.stood = now
	return true
}

// seekLeaders asks for all groups that have missed their leader for too long.
// It does not wait.
func (h *Host) seekLeaders(now time.Time) {
	var missing []*Group
	for _, g := range h.all() {
		switch {
		case !g.misses(now):
			g.succession.calm()
		case !g.stalled() && g.votes() && g.succession.begin(now):
			missing = append(missing, g)
		}
	}
	if len(missing) > 0 {
		h.wg.Go(func() { h.canvass(missing) })
	}
}

// canvasser is a group's part of a canvass.
type canvasser struct {
	group   *Group
	voters  int
	missing []bereft // self first
	hearing int      // those that hear a leader
	// open counts who has not answered, likely those of them that probably
	// will: the others are not waited for if it goes without them.
	open, likely int
	settled      bool
}

// probably reports whether an answer is to be expected: not of a node that was
// not heard for long, nor of the leader that is missed.
func (h *Host) probably(who Member, missed raft.ServerID) bool {
	return who.ServerID() != missed && h.heardWithin(who.Node, h.timing.lively())
}

// canvass asks the other voters of these groups, and stands where a quorum has heard no
// leader and this replica is the successor.
func (h *Host) canvass(groups []*Group) {
	asked := map[partition.NodeID]*question{}
	for _, g := range groups {
		self := bereft{Member: g.member, tip: g.tip()}
		self.applied, _ = g.applied.last()
		c := &canvasser{group: g, missing: []bereft{self}}
		_, missed, _ := g.transport.LeaderHeard()
		for _, m := range membersOf(g.configuration()) {
			if m.Nonvoter {
				continue
			}
			c.voters++
			if m.ServerID() == g.self {
				continue
			}
			q := asked[m.Node]
			if q == nil {
				q = &question{node: m.Node}
				asked[m.Node] = q
			}
			q.members = append(q.members, m)
			q.replicas = append(q.replicas, storage.Replica{Group: g.replica.Group, Generation: m.Generation})
			q.canvassers = append(q.canvassers, c)
			likely := h.probably(m, missed)
			q.likely = append(q.likely, likely)
			c.open++
			if likely {
				c.likely++
			}
		}
		c.settle()
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.timing.canvassTimeout())
	defer cancel()
	done := make(chan *question, len(asked))
	for _, q := range asked {
		h.wg.Go(func() {
			q.answers, q.err = h.askSilence(ctx, q.node, q.replicas)
			done <- q
		})
	}
	for range asked {
		q := <-done
		for i, c := range q.canvassers {
			if q.err == nil && c.group.counted(q.members[i]) {
				c.answered(q.members[i], q.answers[i])
			}
			if c.open--; q.likely[i] {
				c.likely--
			}
			c.settle()
		}
	}
}

// question is one call of a canvass: to one node, about the replicas it has of
// the groups.
type question struct {
	node       partition.NodeID
	members    []Member
	likely     []bool
	replicas   []storage.Replica
	canvassers []*canvasser
	answers    []silenceAnswer
	err        error
}

func (c *canvasser) answered(who Member, a silenceAnswer) {
	switch a.status {
	case silenceMisses, silenceVotes:
		c.missing = append(c.missing, bereft{who, a.tip, a.applied, a.status == silenceVotes})
	case silenceHears:
		c.hearing++
	}
}

// settle ends the canvass of a group, once it can be.
func (c *canvasser) settle() {
	g := c.group
	who, ok := successor(g.replica.Group, c.voters, c.missing)
	if c.settled || c.open > 0 && (!ok || c.likely > 0) {
		return
	}
	c.settled = true
	now, t := time.Now(), g.host.timing
	early := ok && c.hearing > 0 && g.silence(now) < t.silence()+t.unison()
	g.succession.end(now, t, early)
	if ok && !early && who == g.member {
		g.stand()
	}
}

// stand has the replica stand for election at once, if it misses its leader
// and has not stood lately.
func (g *Group) stand() {
	now := time.Now()
	if !g.misses(now) || g.stalled() || !g.votes() || !g.succession.mayStand(now, g.host.timing) {
		return
	}
	g.host.emit(LeaderMissed{Replica: g.replica, For: g.silence(now)})
	g.hand(func() {
		if g.raft.State() == raft.Candidate {
			g.stopStanding()
		}
		g.Campaign()
	})
}

// stopStanding makes a follower of a candidate. One whose pre-vote was refused
// does nothing until its election timeout, and being told to stand does not
// change that (raft.runCandidate). What does is another's request for votes in
// a higher term. This one is of nobody's: its log is shorter than any, so that
// no vote is given for it, and terms may be passed over freely.
func (g *Group) stopStanding() {
	self := g.transport.EncodePeer(g.self, raft.ServerAddress(g.self))
	_, _ = g.transport.Inject(&raft.RequestVoteRequest{
		RPCHeader:          raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.self), Addr: self},
		Term:               g.raft.CurrentTerm() + 1,
		Candidate:          self,
		LeadershipTransfer: true, // whatever leader is believed in
	})
}
