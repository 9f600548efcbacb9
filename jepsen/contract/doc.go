// Package contract judges histories of a Capstan cluster by its contract
// (docs/consistency.md). It knows what clients asked and what they were
// answered, and, once all is healed and quiet, what the cluster ended with
// ([End]). It imports nothing of the product: a checker that shared code with
// what it checks would share its mistakes.
//
// Each checker takes a [History] and gives the [Violation]s that it found; none
// is all good. They overlap on purpose, and none of them is enough:
//
//   - [CheckAnswers]: nothing is read that was never written, or was refused;
//     each write is committed at most once.
//   - [CheckMixing]: per key, the linearizable operations, with the eventual
//     writes as operations that take effect at most once after they began, are
//     linearizable. Porcupine decides that.
//   - [CheckPrecedence]: a linearizable write is not overwritten by an eventual one
//     that had not heard of it, though CheckMixing permits it; of eventual writes the
//     higher timestamp wins.
//   - [CheckSuperseded]: each write that lost had a reason to lose, and its receipt
//     and the list of conflicts name the same winner.
//   - [CheckSessions]: read your writes, monotonic reads, monotonic writes,
//     writes follow reads.
//   - [CheckNodes]: an eventual read sees what the node that answers it has taken.
//   - [CheckBounded]: no bounded read is older than it was allowed to be, or
//     said to be.
//   - [CheckFates]: every acknowledged eventual write is committed, or superseded
//     and on the list of conflicts.
//
// Where a history does not tell enough, a checker gives the benefit of the
// doubt: what it reports is wrong. So a suite has to show, with planted faults,
// that its histories tell enough.
//
// The checkers are pure functions; all may be called concurrently on one history
// that nobody changes.
package contract
