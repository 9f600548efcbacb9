// Package fault plants one known fault at a time into the product, so that a
// test can show that the tests would catch it. It exists in builds with the tag
// capstan_faults only; in any other build [On] is the constant false and the
// planted code is not even compiled in.
//
// A planted fault stands where the right code stands, in one line:
//
//	if t.Base < floor && !fault.On(fault.FloorIgnored) {
//
// The environment variable CAPSTAN_FAULT names the fault of a process. With
// CAPSTAN_FAULT_SMALL_LOGS not empty it has no fault by that alone, and sends
// snapshots where another would send entries ([SmallLogs]).
package fault

// Fault names one thing done wrong.
type Fault string

const (
	// SkipBase judges an eventual write without asking what its node had heard of.
	SkipBase Fault = "skip-base"
	// IncumbentBase compares the base with the version that the key holds, not
	// with its last linearizable write.
	IncumbentBase Fault = "incumbent-base"
	// ForgetDot leaves a promoted write out of the record of promoted dots.
	ForgetDot Fault = "forget-dot"
	// ReuseDot gives out a dot a second time after a restart.
	ReuseDot Fault = "reuse-dot"
	// ForgetEarly drops a tentative write once its promotion was answered, not
	// once it was applied here.
	ForgetEarly Fault = "forget-early"
	// DropHint loses a write that came as a hint.
	DropHint Fault = "drop-hint"
	// SessionEarly answers a session's read before the state holds its past.
	SessionEarly Fault = "session-early"
	// TokenWithoutBase leaves the base of a tentative write out of the token.
	TokenWithoutBase Fault = "token-without-base"
	// TokenWithoutTimestamp leaves the highest timestamp out of the token.
	TokenWithoutTimestamp Fault = "token-without-timestamp"
	// PromoteTwice applies a promotion without asking whether it was applied before.
	PromoteTwice Fault = "promote-twice"
	// FarFuture lets a timestamp from elsewhere move the clock beyond its offset.
	FarFuture Fault = "far-future"
	// FloorIgnored collects tombstones without a floor: at once, and judges
	// eventual writes as if there were none.
	FloorIgnored Fault = "floor-ignored"
	// AckBeforeFsync counts what is written to the log database as durable
	// before it is: entries, votes and eventual writes.
	AckBeforeFsync Fault = "ack-before-fsync"
	// ReadUnconfirmed has a leader answer linearizable reads without asking
	// anybody, until it hears of another one.
	ReadUnconfirmed Fault = "read-unconfirmed"
	// VerifyLeader trusts the Raft library's own check of leadership instead of
	// asking the voters for their terms.
	VerifyLeader Fault = "verify-leader"
	// FreshLeader has a leader serve before it has applied an entry of its term.
	FreshLeader Fault = "fresh-leader"
	// RetryUnknown sends a write a second time after an outcome that is not known.
	RetryUnknown Fault = "retry-unknown"
	// SessionIgnored answers requests as if they came without a session.
	SessionIgnored Fault = "session-ignored"
	// CommitUncompared has a leader send its commit index as it is, beyond the entries
	// that the request compares with the follower's log.
	CommitUncompared Fault = "commit-uncompared"
	// SnapshotWithoutDots leaves the record of promoted dots out of a snapshot.
	SnapshotWithoutDots Fault = "snapshot-without-dots"
)

// All are the faults that can be planted.
var All = []Fault{
	SkipBase, IncumbentBase, ForgetDot, ReuseDot, ForgetEarly, DropHint, SessionEarly,
	TokenWithoutBase, TokenWithoutTimestamp, PromoteTwice, FarFuture, FloorIgnored,
	AckBeforeFsync, ReadUnconfirmed, VerifyLeader, FreshLeader, RetryUnknown, SessionIgnored,
	CommitUncompared, SnapshotWithoutDots,
}
