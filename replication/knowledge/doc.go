// Package knowledge keeps what the replicas of other nodes have shown to this
// node, and finds out that one has forgotten.
//
// A replica acknowledges entries, votes and terms to its peers only once they are
// on its disk. If its disk is later put back from an older copy, the replica does
// not know; its peers do. So each node keeps, for each replica of each other node,
// what that replica has [Shown]. A replica that is opened says what its disk holds
// ([Claim]). Where a claim has less than what was shown, the disk has lost promises.
//
// # What can be compared
//
// The end of a log alone cannot: a leader of a later term may replace the end of a
// follower's log by entries of an earlier term, and a snapshot may replace the
// whole log. Both make (last term, last index) fall lawfully. Three things hold:
//
//   - A replica's term never falls.
//   - While a replica is in a term, its log loses nothing of what it acknowledged
//     to that term's leader: the leader only appends, and the replica removes only
//     entries that the leader does not have. The same holds for the leader itself.
//   - While a replica is in a term, its vote in that term does not change.
//
// So a claim of a lower term has lost that term. A claim of the very term in which
// the log was last acknowledged must reach as far, and one of the term of a vote must
// name that vote. A claim of a higher term has lost nothing that can be told here: the
// disk was written after all that was shown (terms never fall, and each is written
// before it is told). Every acknowledgement that can have made an entry committed is
// covered, since only entries of the leader's own term count for that.
//
// # When
//
// A claim says what the disk held when the replica was opened, and is compared with
// what its earlier openings have shown. An answer that comes late, from an earlier
// opening, is compared with the claim of the later one ([Book.Note]).
//
// What is kept here may be older than what was shown (it is written about once per
// second). Then less is noticed; nothing is refused for that reason.
package knowledge
