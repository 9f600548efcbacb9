// Package session is what a session remembers, as a token that the client
// carries, and the receipts of eventual writes. It is pure: no I/O, no clock,
// no knowledge of who serves what.
//
// A [Token] holds, for each partition that the session has touched, the index
// that a replica must have applied before it may answer, and the dots of those
// eventual writes that the session wrote or saw and that were undecided then;
// and, for all partitions together, the highest timestamp. Whoever answers a
// request decodes the token that came with it, asks whether it can meet it,
// adds what the operation wrote or saw, drops what was decided meanwhile, and
// answers with the new token. A request that sends the token so sees at least
// its session's past, on any node and at any level.
//
// Invariants:
//
//   - A token only grows, but for dots that were decided or lost, and for
//     partitions whose index every replica has applied. The order in which
//     parts are added, or tokens merged, does not matter.
//   - The index is at least the base of every tentative write that the session
//     wrote or saw ([Token.Tentative]). Without that a later read, from state
//     below the base, could answer with what that write's node had already
//     seen replaced.
//   - The highest timestamp is that of everything it wrote or saw, so that what
//     it writes next is later, on any node and by any clock.
//   - What was not encoded by a node of this cluster is refused, in constant
//     time, and nothing of it is looked at before. [Codec] owns texts: encoding,
//     authentication, limits.
//
// The node calls it at the edge of each operation. It follows Terry et al.,
// "Session Guarantees for Weakly Consistent Replicated Data" (1994), with a log
// index in place of most of the version vector.
package session
