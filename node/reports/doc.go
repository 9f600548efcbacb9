// Package reports is what the members of a cluster tell each other about the
// partitions, beside their Raft logs. It serves four ends:
//
//   - everybody hears how far each partition is, also a member without a replica
//     of it, so that the bases of the eventual writes it accepts are recent;
//   - sessions learn which index all replicas have applied for good, and all other
//     members have heard of for good, so that their tokens can drop the partition
//     ([Reporter.AppliedEverywhere]);
//   - the leader of a partition raises the floor behind which tombstones are
//     collected;
//   - it declares lost what a removed node had accepted and nobody else holds.
//
// # Telling
//
// Each second a member makes durable what it has heard of, in one batch for all
// partitions, and sends to each other one a [Report] of what has changed since the
// last one that was taken. Where nothing changes, nothing is sent. Who has started
// again lacks what it was told before, and is told everything.
//
// What is told is durable first, because others act on it: a session token drops an
// index that all have told. If a member forgot it in a crash, it would take the
// session's next write for one that had not heard of the session's last one. A
// member that joins was not asked when tokens dropped what they did; it knows that
// it has heard of all that once every other member has told it of itself
// (heardFromAll in table.go).
//
// # Polling
//
// A floor is a promise of all members, those included that are down: no write
// with a base below it is undecided anywhere, and none will be accepted. A member's
// promise alone ([Tentative.UndecidedBase]) covers what it accepts, but not what
// others still send it: a write with an old base may leave the member that
// accepted it, after which that one promises more, and reach another one that
// promised more before. So the leader asks all members twice, and the second
// time only after all have answered the first; the floor is the lowest answer
// ([Poll]). A write below it would have been accepted before its node's first
// answer, so it would have been in its place, or decided, before anybody's second.
// If one does not answer there is no new floor: it holds the floor back, and
// [Reporter.HeldBack] names it.
//
// Answers count only from members that know of every removal which the leader
// knows of: they have hung up on those nodes, so what they hold of them does not
// grow but by each other's hands. What a removed node accepted and a member still
// holds is promoted first; when no member holds any, the rest is forfeited.
//
// Polls happen only where a tombstone or a removed node waits, so an idle
// cluster is silent. All messages are binary, versioned, bounded and read
// strictly. The floor follows Bayou's omitted-prefix rule in spirit, with the
// members' answers in place of its primary's order.
package reports
