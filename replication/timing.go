package replication

import (
	"cmp"
	"fmt"
	"time"
)

// Timing holds the clocks of all groups of a host. Every node of a cluster
// should use the same. Zero fields take the default.
type Timing struct {
	// Heartbeat is how long a follower hears no leader before it would have
	// another, and a tenth more; leaders send about five signs of life in that
	// time. Default 1.5 s.
	Heartbeat time.Duration
	// Election is how long a replica that has stood for election does not stand
	// again, and how long a node may be silent and still count as reachable. At
	// least Heartbeat. Default 1.5 s.
	Election time.Duration
	// Lease is how long a leader stays one without hearing from a quorum. No
	// read rests on it. It must be above the worst stall of the disk, or a
	// stall deposes leaders, and at most Heartbeat. Default 1.5 s.
	Lease time.Duration
	// Commit is how often an idle leader repeats its commit index to its
	// followers. Commit notices make it unimportant, and its frames are the
	// largest part of the idle cost. Default 10 s.
	Commit time.Duration
}

// Defaults of [Timing].
const (
	defaultHeartbeat = 1500 * time.Millisecond
	defaultCommit    = 10 * time.Second
)

func (t Timing) withDefaults() Timing {
	t.Heartbeat = cmp.Or(t.Heartbeat, defaultHeartbeat)
	t.Election = cmp.Or(t.Election, t.Heartbeat)
	t.Lease = cmp.Or(t.Lease, t.Heartbeat)
	t.Commit = cmp.Or(t.Commit, defaultCommit)
	return t
}

func (t Timing) validate() error {
	const least = 10 * time.Millisecond // below this the library's own timers no longer work
	switch {
	case min(t.Heartbeat, t.Election, t.Lease, t.Commit) < least:
		return fmt.Errorf("timing: every timeout must be at least %v: %+v", least, t)
	case t.Lease > t.Heartbeat:
		return fmt.Errorf("timing: lease %v above heartbeat %v", t.Lease, t.Heartbeat)
	case t.Election < t.Heartbeat:
		return fmt.Errorf("timing: election %v below heartbeat %v", t.Election, t.Heartbeat)
	}
	return nil
}

const (
	// minBackoff and maxBackoff bound the pause between two attempts to get a
	// read index or to prove leadership. Most waits end sooner, by an event.
	minBackoff = 10 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
	// noticeWindow is how long commit notices gather before one frame a peer
	// carries them: short beside a network round trip and an fsync, long
	// enough to hold the notices of every group of a busy node.
	noticeWindow = 2 * time.Millisecond
)

// confirmTimeout bounds one round: longer than any healthy round trip, and no
// longer than followers take to elect somebody else.
func (t Timing) confirmTimeout() time.Duration { return t.Heartbeat }

// stallBound is how old a write in flight may be before the disk counts as
// stalled, and what is being applied before the state machine does. A shorter stall
// is weathered; a longer one would outlive the lease.
func (t Timing) stallBound() time.Duration { return t.Lease }

// proofBound is how long a leader whose log moves may need to prove that it leads: one
// more entry, above what that takes on a disk that is not stalled yet.
func (t Timing) proofBound() time.Duration { return 2 * (t.Heartbeat + t.Lease) }

// silence is how long a voter hears no leader before it would have another:
// longer than the lease by what an answer may take on its way, so that a leader
// whose lease lasts is not missed by a quorum.
func (t Timing) silence() time.Duration { return t.Heartbeat + t.Heartbeat/10 }

// unison is how long after the first of a quorum the last voter may notice that
// the leader is silent: heartbeats do not reach all at once, nor a delayed one.
func (t Timing) unison() time.Duration { return t.Heartbeat / 2 }

// contest is how long a candidate is left alone: to be voted for, and to say that
// it was elected.
func (t Timing) contest() time.Duration { return t.Election / 2 }

// library is the library's own heartbeat and election timeout. It acts at a
// random moment between this and three times as much (followers), or twice
// (candidates), and is needed where asking other voters comes to nothing. Before
// that it must not get in the way: a follower that stands by itself while
// another is chosen may split the vote.
func (t Timing) library() time.Duration { return max(t.Heartbeat*4/3, t.Election) }

// canvassTimeout bounds asking whether others miss a leader, too: above a slow
// round trip, and short enough that a voter that vanished together with the
// leader does not hold up the election of another.
func (t Timing) canvassTimeout() time.Duration { return t.Election / 3 }

// lively is how lately a node was heard that is waited for when voters are
// asked: above the pause between two signs of life of an idle node, and well
// below silence, or a node that vanished together with the leader would be
// waited for.
func (t Timing) lively() time.Duration { return t.Election * 2 / 3 }

// watchInterval is how often the watchdog looks: often enough to add little to
// stallBound and silence.
func (t Timing) watchInterval() time.Duration { return t.Lease / 8 }

// recheck is how often a wait for a leader looks again whether a quorum is
// reachable, which no event tells.
func (t Timing) recheck() time.Duration { return t.Election / 4 }

func nextBackoff(d time.Duration) time.Duration { return min(max(2*d, minBackoff), maxBackoff) }
