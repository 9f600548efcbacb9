// Package exchange takes eventual writes, keeps them until they are decided,
// and sees to it that they are: one [Exchange] a node, for all partitions.
//
// An eventual write goes this way:
//
//   - [Exchange.Accept] gives it a dot, a base and a timestamp, once and for
//     all, and has it stored in the tentative logs of as many nodes as the
//     request asks for (accept.go, hold.go, store.go). It needs no leader.
//   - A holder hands it in to the partition's leader, in batches (handin.go);
//     the leader proposes what was not promoted before as one command
//     (lead.go). The accepting node hands in at once; any other holder when it
//     has held the write for a while, or does not hear the accepting node.
//   - It is forgotten: by a node with a replica when that replica has applied
//     the promotion ([Exchange.Applied]), and not when the promotion was
//     answered; by one without, a holder of hints, when it is told the fate.
//   - Where promotion does not get on, the holders of a partition give each
//     other what the other lacks (entropy.go), so that each side of a cut
//     converges, and a write comes to somebody who can reach a leader.
//   - Who must come after certain writes, a session's, has them decided first
//     ([Exchange.AwaitDecided], decide.go).
//
// Nodes say this to each other in four kinds of messages (wire.go): store these
// writes, promote them, these are the dots that I hold, are these decided.
//
// Invariants:
//
//   - A write's dot, base, timestamp, key and value never change.
//   - A write that was acknowledged is on as many disks as were asked for, and
//     on at least one until it is decided.
//   - To store or to hand in a write twice does nothing: its dot tells.
//   - What this node has heard of ([storage.TentativeLog.Heard]) is a committed
//     index of the partition.
//   - A leader proposes only writes whose base it has applied, so no write is
//     promoted at or below an index of which it had heard.
//   - What a removed node accepted is taken from nobody once the replica here
//     knows it to be forfeited.
//
// Everything is bounded: messages and batches by count and bytes, batches under
// way by a window, waiting writes of a leader by bytes; what is beyond a bound
// stays in the tentative log, whose own limits refuse new writes in the end.
//
// Sets of dots that are kept besides, of what was answered, are in memory only
// and may be dropped at any time: they save work and decide nothing.
//
// See Terry et al., "Managing update conflicts in Bayou" (1995) and Petersen et
// al., "Flexible update propagation for weakly consistent replication" (1997).
//
// All exported methods are safe for concurrent use.
package exchange
