package replication

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// The watchdog finds leaders that hang, candidates that are stuck, and groups whose
// leader is gone (failover.go).
//
// A leader stores entries on the main loop, applies them on another goroutine, and
// sends heartbeats from others again. While a write to the log or to the state hangs it
// goes on telling its followers that it lives, so nobody else is elected, and answers
// nothing: a zombie. When either has been under way for stallBound the watchdog stops
// the replica's heartbeats and commit notices; the followers elect another leader within
// their timeout. The old leader finds its lease over, or the new leader's term, and
// steps down.
//
// A replica that cannot apply must not be elected either: it could not prove its
// leadership, and would hold up the others with its heartbeats. It votes, but does not
// stand (failover.go, patience.go).

// stall says what hangs. Both are set by the watchdog.
type stall struct{ disk, apply atomic.Bool }

// stalled reports whether the replica must not show signs of a leader's life.
func (g *Group) stalled() bool { return g.stall.disk.Load() || g.stall.apply.Load() }

// stallRefusal is why a stalled replica takes no proposals, or nil.
func (g *Group) stallRefusal(now time.Time) error {
	switch {
	case g.stall.disk.Load():
		return stalledDisk(g.stalledFor())
	case g.stall.apply.Load():
		return stalledApply(g.fsm.underWay(now))
	}
	return nil
}

func (h *Host) watch(ctx context.Context) {
	ticker := time.NewTicker(h.timing.watchInterval())
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			h.attention.look(now)
			for _, g := range h.all() {
				g.checkStall(now)
				g.checkCaughtUp(now)
				g.freeCandidate(now)
			}
			h.seekLeaders(now)
		case <-h.hurry:
			h.seekLeaders(time.Now())
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) checkStall(now time.Time) {
	bound := g.host.timing.stallBound()
	if g.stalledFor != nil {
		age := g.stalledFor()
		g.alarm(&g.stall.disk, age >= bound, DiskStalled{Replica: g.replica, For: age}, DiskRecovered{Replica: g.replica})
	}
	age, unproven := g.fsm.underWay(now), g.unproven.since(g, now)
	g.alarm(&g.stall.apply, age >= bound || unproven >= g.host.timing.proofBound(),
		ApplyStalled{Replica: g.replica, For: max(age, unproven)}, ApplyRecovered{Replica: g.replica})
}

func (g *Group) alarm(was *atomic.Bool, is bool, begin, end Event) {
	switch {
	case was.Swap(is) == is:
	case is:
		g.host.emit(begin)
	default:
		g.host.emit(end)
	}
}

// unproven is how long a replica has led without proof, as the watchdog sees it.
type unproven struct {
	began time.Time
	last  uint64 // of its log then
}

// since is how long the replica has led, by the library's word, without getting an entry
// of its own through, while a quorum takes its log; 0 if it does not. The library can
// refuse all proposals of a leader for good (handover.go).
func (u *unproven) since(g *Group, now time.Time) time.Duration {
	switch {
	case g.raft.State() != raft.Leader || g.lead() != nil:
		*u = unproven{}
		return 0
	case u.began.IsZero():
		*u = unproven{now, g.raft.LastIndex()}
	}
	if g.raft.CommitIndex() < u.last {
		return 0
	}
	return now.Sub(u.began)
}
