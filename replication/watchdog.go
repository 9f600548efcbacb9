package replication

import (
	"context"
	"time"
)

// The watchdog finds leaders whose disk hangs, candidates that are stuck, and
// groups whose leader is gone (failover.go).
//
// A leader stores entries on the main loop and sends heartbeats from other
// goroutines. While a write hangs it goes on telling its followers that it
// lives, so nobody else is elected, and commits nothing: a zombie. When a write
// has been under way for stallBound the watchdog stops the replica's
// heartbeats and commit notices; the followers elect another leader within
// their timeout. When the write returns, the old leader finds its lease long
// over, or the new leader's term, and steps down.

func (h *Host) watch(ctx context.Context) {
	ticker := time.NewTicker(h.timing.watchInterval())
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			h.attention.look(now)
			for _, g := range h.all() {
				g.checkDisk()
				g.freeCandidate(now)
			}
			h.seekLeaders(now)
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) checkDisk() {
	if g.stalledFor == nil {
		return
	}
	age := g.stalledFor()
	stalled := age >= g.host.timing.stallBound()
	if g.stalled.Swap(stalled) == stalled {
		return
	}
	if stalled {
		g.host.emit(DiskStalled{Replica: g.replica, For: age})
	} else {
		g.host.emit(DiskRecovered{Replica: g.replica})
	}
}
