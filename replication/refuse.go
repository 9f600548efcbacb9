package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// definite reports whether an error from the Raft library about a proposal
// that was handed to it says that the entry is in no log and never will be.
//
// The three below are answered before an entry gets an index: by the main
// loop of a follower or candidate, by a full queue, by a leader that is handing
// over. Everything else is not: ErrLeadershipLost answers entries that stand
// in the old leader's log and perhaps in others'; an error of StoreLogs leaves
// open what reached the disk, and a restart may find it there; ErrRaftShutdown
// answers committed entries whose results nobody will hear.
func definite(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) ||
		errors.Is(err, raft.ErrEnqueueTimeout) ||
		errors.Is(err, raft.ErrLeadershipTransferInProgress)
}

// proposalError types the library's answer to a proposal. leader is where to
// try next, if known.
func proposalError(err error, leader Member) *Error {
	switch {
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return &Error{Reason: Overloaded, Outcome: NotApplied, Err: err,
			Message: "the leader took no new proposal in time", Try: "retry with a pause"}
	case definite(err):
		return notLeader(leader, err)
	}
	return &Error{Reason: LeaderChanged, Outcome: Unknown, Err: err,
		Message: "leadership was lost while the write was under way",
		Try:     "read the key to see whether it was applied"}
}

// changeError types the library's answer to a change of members or of leadership.
func changeError(err error, doing string, leader Member) *Error {
	e := proposalError(err, leader)
	switch {
	case errors.Is(err, raft.ErrEnqueueTimeout):
		e.Message = "the leader is busy with another change and did not begin " + doing
	case e.Outcome == Unknown:
		e.Message, e.Try = doing+" was begun and did not end in time", "look at the group's status before you repeat it"
	}
	return e
}

func notLeader(leader Member, cause error) *Error {
	e := &Error{Reason: LeaderChanged, Outcome: NotApplied, NotLeader: true, Leader: leader.Node, Err: cause,
		Message: "this replica does not lead its group", Try: "retry"}
	if leader.Node != "" {
		e.Message += fmt.Sprintf(" (%s does)", leader.Node)
	}
	return e
}

func noQuorum(reachable, needed int) *Error {
	return &Error{Reason: NoQuorum, Outcome: NotApplied, Reachable: reachable, Needed: needed,
		Message: fmt.Sprintf("no quorum: %d reachable, %d needed", reachable, needed),
		Try:     "retry when more nodes are reachable, or use eventual consistency"}
}

func noLeader(reachable, needed int) *Error {
	e := noQuorum(reachable, needed)
	e.Message = fmt.Sprintf("no leader in time: %d reachable, %d needed", reachable, needed)
	e.Try = "retry"
	return e
}

func deadline(outcome Outcome, doing string, cause error) *Error {
	return &Error{Reason: Deadline, Outcome: outcome, Err: cause,
		Message: "out of time while " + doing, Try: "retry with a longer timeout"}
}

func unknownDeadline(cause error) *Error {
	e := deadline(Unknown, "the write was being replicated", cause)
	e.Try = "read the key to see whether it was applied"
	return e
}

func overloaded(what string) *Error {
	return &Error{Reason: Overloaded, Outcome: NotApplied, Message: what, Try: "retry with a pause"}
}

func stalledDisk(d time.Duration) *Error {
	return overloaded(fmt.Sprintf("the leader's disk has not finished a write for %v", d.Round(time.Millisecond)))
}

func stalledApply(d time.Duration) *Error {
	return overloaded(fmt.Sprintf("the leader has not finished applying a write for %v", d.Round(time.Millisecond)))
}

func stopping() *Error {
	return &Error{Reason: Stopping, Outcome: NotApplied, Message: "this replica is stopping", Try: "retry at another node"}
}

func failedReplica(cause error) *Error {
	return &Error{Reason: NoReplica, Outcome: NotApplied, Message: "this replica has failed", Try: "retry at another node", Err: cause}
}

// waitError types what appliedIndex.wait gives.
func waitError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return deadline(NotApplied, "waiting for the replica to catch up", err)
	}
	return err
}
