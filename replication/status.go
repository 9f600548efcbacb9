package replication

import (
	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// Status is what a replica knows about its group and itself.
type Status struct {
	Replica storage.Replica
	// State is "leader", "follower", "candidate", "stopping", or "failed".
	State string
	// Leader is the zero Member if none is known.
	Leader Member
	// Serving: the replica has proven its leadership.
	Serving  bool
	Term     uint64
	Commit   uint64
	Applied  uint64
	Last     uint64 // last entry in its log
	Members  []Member
	CaughtUp bool
	// Reachable and Needed count voters; see [Group.Reachable].
	Reachable, Needed int
	// DiskStalled and ApplyStalled: see the events of these names.
	DiskStalled, ApplyStalled bool
	// Err is why the replica failed.
	Err error
}

// Status of the replica now. The fields are read one after the other.
func (g *Group) Status() Status {
	s := Status{
		Replica:      g.replica,
		Leader:       g.leader(),
		Serving:      g.lead() != nil,
		Term:         g.raft.CurrentTerm(),
		Commit:       g.raft.CommitIndex(),
		Last:         g.raft.LastIndex(),
		Members:      membersOf(g.configuration()),
		CaughtUp:     g.CaughtUp(),
		DiskStalled:  g.stall.disk.Load(),
		ApplyStalled: g.stall.apply.Load(),
	}
	s.Applied, _ = g.applied.last()
	s.Reachable, s.Needed = g.Reachable()
	switch g.raft.State() {
	case raft.Leader:
		s.State = "leader"
	case raft.Candidate:
		s.State = "candidate"
	case raft.Follower:
		s.State = "follower"
	default:
		s.State = "stopping"
	}
	if err := g.Err(); err != nil {
		s.State, s.Err = "failed", err
	}
	return s
}
