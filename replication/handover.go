package replication

import (
	"time"

	"github.com/hashicorp/raft"
)

// match is how far a follower's log is known to equal that of the leader of a
// term.
type match struct{ term, index uint64 }

const (
	// heirWait bounds how long a leader that stops waits for a voter to have
	// all of its log: an append and its fsync.
	heirWait = 500 * time.Millisecond
	// heirInterval is how often it looks.
	heirInterval = 5 * time.Millisecond
)

// handOver gives leadership away at the end of a leader's life. Nothing is
// proposed any more. It asks for a voter that is heard and has the whole log:
// with any other the library first waits for its replication, and for ever if
// leadership ends meanwhile. If there is none, the others elect as they would
// after a crash.
func (g *Group) handOver() {
	heir, ok := g.heir()
	if !ok {
		return
	}
	done := make(chan struct{})
	go func() { // the library answers within an election timeout
		_ = g.raft.LeadershipTransferToServer(heir.ServerID(), heir.address()).Error()
		close(done)
	}()
	timer := time.NewTimer(2 * g.host.timing.Election)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C: // its main loop hangs in a write
	}
}

// heir is a voter that could lead at once. It waits shortly for one.
func (g *Group) heir() (Member, bool) {
	tick := time.NewTicker(heirInterval)
	defer tick.Stop()
	for until := time.Now().Add(heirWait); ; <-tick.C {
		if g.raft.State() != raft.Leader {
			return Member{}, false
		}
		candidates := 0
		for _, m := range membersOf(g.configuration()) {
			if m.Nonvoter || m == g.member || !g.host.heard(m.Node) {
				continue
			}
			candidates++
			known, _ := g.matched.Load(m.ServerID())
			if at, ok := known.(match); ok && at.term == g.raft.CurrentTerm() && at.index >= g.raft.LastIndex() {
				return m, true
			}
		}
		if candidates == 0 || time.Now().After(until) {
			return Member{}, false
		}
	}
}
