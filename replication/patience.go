package replication

import (
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage/fault"
)

// patient is a transport that does not try to send the log to a peer from
// which nothing is heard: it waits.
//
// The library counts failed attempts and pauses ever longer between them, up
// to ten seconds, in a sleep that nothing ends. After an outage under load a
// follower would stay behind that long after it is back, and a second failure
// in that time would cost the quorum. Heartbeats go on as ever.
type patient struct {
	Transport
	group *Group
}

// patienceInterval is how often a wait looks whether the peer is back: no more
// than that is added to its absence. One goroutine a silent follower waits.
const patienceInterval = 100 * time.Millisecond

var errStalled = errors.New("this replica has stalled and must not lead")

var errNothingToSend = errors.New("leadership or the peer's membership ended while the peer was silent")

func (p patient) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := args.PrevLogEntry == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
	// Raft's follower commits at most up to the last entry that the request compares with
	// its log. The library's commits up to the last entry of its own log (raft.go:1591),
	// and the commit index here may be younger than the rest of the request.
	if compared := args.PrevLogEntry + uint64(len(args.Entries)); !fault.On(fault.CommitUncompared) {
		args.LeaderCommitIndex = min(args.LeaderCommitIndex, compared)
	}
	if !heartbeat {
		if err := p.wait(id, args.Term); err != nil {
			return err
		}
	}
	if p.group.stalled() {
		return errStalled // any request of a leader's is a sign of its life
	}
	err := p.Transport.AppendEntries(id, target, args, resp)
	if heartbeat && p.group.ready.Load() && p.group.raft.State() == raft.Leader {
		m, _ := ParseServerID(id)
		p.group.unanswered.note(id, err != nil && p.group.host.heard(m.Node))
	}
	if err == nil && resp.Success && !heartbeat {
		matched := args.PrevLogEntry + uint64(len(args.Entries))
		p.group.matched.Store(id, match{args.Term, matched})
		p.group.holds.matched(id, matched, p.group.raft.LastIndex())
	}
	return err
}

// RequestVote sends a vote request without the candidate's id; its address names it as
// well. The library's voter refuses an id that its own configuration does not know as a
// voter (raft.go:1667, 1703), where Raft has it vote for whoever asks (thesis 4.1). One
// that missed the change of members that made the candidate a voter would refuse it for
// ever, though its vote may be needed for any leader, and only a leader can tell it. No
// id is taken for an old release's request, and is not checked.
//
// Nodes that were removed do not disturb by that: they stand where a quorum misses its
// leader (failover.go), or behind a pre-vote, which is checked.
//
// A replica that cannot apply asks for no votes: it could not prove its leadership.
func (p patient) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if p.group.stalled() {
		return errStalled
	}
	nameless := *args // the library sends one request to all
	nameless.ID = nil
	return p.Transport.RequestVote(id, target, &nameless, resp)
}

// RequestPreVote: see RequestVote.
func (p patient) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if p.group.stalled() {
		return errStalled
	}
	return p.Transport.RequestPreVote(id, target, args, resp)
}

func (p patient) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := p.wait(id, args.Term); err != nil {
		return err
	}
	p.group.holds.begin(id, args.LastLogIndex)
	err := p.Transport.InstallSnapshot(id, target, args, resp, data)
	if err != nil || !resp.Success {
		p.group.holds.end(id)
	}
	return err
}

// wait returns nil when the peer is heard and the replica has not stalled, and an error
// when the leader of term has nothing to send any more.
func (p patient) wait(id raft.ServerID, term uint64) error {
	g := p.group
	m, err := ParseServerID(id)
	if err != nil || !g.ready.Load() || g.host.heard(m.Node) && !g.stalled() {
		return err
	}
	tick := time.NewTicker(patienceInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.quiet:
			return errNothingToSend
		}
		switch {
		case g.host.heard(m.Node) && !g.stalled():
			return nil
		case g.raft.State() != raft.Leader || g.raft.CurrentTerm() != term || !g.has(id):
			return errNothingToSend
		}
	}
}

func (g *Group) has(id raft.ServerID) bool {
	for _, s := range g.configuration().Servers {
		if s.ID == id {
			return true
		}
	}
	return false
}
