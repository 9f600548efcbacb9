package replication

import (
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// Outcome says what an error means for the operation that failed.
type Outcome uint8

const (
	// NotApplied is a definite failure: the operation had no effect and never
	// will have, so a retry is safe.
	NotApplied Outcome = 1 + iota
	// Unknown is an indefinite failure: the operation may have taken effect,
	// or may yet. Nothing retries it on its own.
	Unknown
)

// Reason says why an operation failed. The numbers are those of the public
// capstan.v1.Reason.
type Reason uint8

const (
	BadKey          Reason = 1
	ValueTooLarge   Reason = 2
	BadOption       Reason = 3
	BadToken        Reason = 4
	ConditionFailed Reason = 5
	NoQuorum        Reason = 6
	NoReplica       Reason = 7
	TooStale        Reason = 8
	SessionBehind   Reason = 9
	TooFewAcks      Reason = 10
	Deadline        Reason = 11
	LeaderChanged   Reason = 12
	Overloaded      Reason = 13
	DiskFull        Reason = 14
	Stopping        Reason = 15
)

// Error is the one error type of operations, from the group that refuses one
// up to the client that is told. It has one owner, who made it; the floors
// above pass it on as it is.
type Error struct {
	Reason  Reason
	Outcome Outcome
	// Message says what was reachable and what was needed, in plain words.
	Message string
	// Try says what the caller may do about it; may be empty.
	Try string
	// NotLeader marks a definite refusal by a replica that does not lead:
	// the one failure on which a node forwards again.
	NotLeader bool
	// Leader is the node to try, if known.
	Leader partition.NodeID
	// Current is the version that failed a condition; nil if the key is absent.
	Current *storage.Version
	// Reachable and Needed count replicas, or nodes that hold an eventual
	// write, where counting was the reason.
	Reachable, Needed int
	// Receipt asks the fate of an eventual write whose outcome is unknown, and
	// Session is the token of a session that it belongs to; may be empty.
	Receipt, Session string
	// Err is the cause, for errors.Is and errors.As; may be nil.
	Err error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }
