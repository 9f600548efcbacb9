package replication

import (
	"time"

	"github.com/hashicorp/raft"
)

// A candidate that was told to stand (raft.timeoutNow) and hears of another's
// victory in its own term keeps standing, and yet notes the new leader
// (raft.appendEntries, while candidateFromLeadershipTransfer is set). A later
// word of that leader makes it a follower. If none comes, as after a cut, it
// stands for ever with a leader's name in its memory, and for that name's sake
// refuses the pre-vote of everybody else: without an end where its vote is
// needed and its log is too short to win.

// freeCandidate has a replica that stood for election for long, and believes
// in a leader all the while, forget that leader: being told to stand once more
// does no more than that.
func (g *Group) freeCandidate(now time.Time) {
	if g.raft.State() != raft.Candidate || g.leader() == (Member{}) {
		g.torn = time.Time{}
		return
	}
	if g.torn.IsZero() {
		g.torn = now
	}
	// A candidacy lasts up to two of the library's timeouts, and a living leader
	// is heard soon after that.
	if now.Sub(g.torn) < 2*g.host.timing.library()+g.host.timing.Heartbeat/2 {
		return
	}
	g.torn = time.Time{}
	g.host.wg.Go(g.Campaign)
}
