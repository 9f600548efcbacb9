// Package replication keeps the copies of a group of data equal: one Raft
// group for each partition of the keyspace and one for the control group.
//
// A [Host] is all replicas of one node, a [Group] is one replica. A Group
// proposes commands ([Group.Propose]), gives linearizable read indexes
// ([Group.ReadIndex]), knows how old its state may be ([Group.Bounded]) and
// applies what is committed to its [Machine]. The Host
// does what pays only across groups: one round of term confirmation serves
// every waiting read of every group that shares those peers, one frame carries
// the commit notices of all groups.
//
// Invariants:
//
//   - A read index is given only after a quorum of voters of the latest
//     configuration has said, after the read arrived, that its term is not
//     above the leader's (Raft thesis 6.4; see confirm.go for the proof).
//   - A replica leads only once it has applied an own no-op of its term
//     (leadership.go).
//   - A replica never goes on past an entry that its machine did not take: it
//     stops, loudly (fsm.go).
//   - Every error says whether the operation may have happened (refuse.go).
//   - A bounded read is answered only with a read index that was asked for
//     within its bound and is applied (bounded.go).
//   - A replica stands for election out of turn only where a quorum of voters
//     says that it hears no leader (failover.go).
//   - An append names a commit index only up to the last entry that it compares
//     with the follower's log (patience.go).
//   - A follower is told of commits only by naming (index, term) pairs that
//     the leader has applied (notice.go).
//
// What the Raft library's timers do slowly is done by events here, so that
// CommitTimeout can be long: followers learn of commits by notices, say when
// they lack entries, a peer that was silent is sent its backlog the moment it is
// heard (patience.go), and voters that miss their leader ask each other and
// choose another (failover.go).
//
// The raftlog package stores logs, the transport package carries frames;
// package node wires them together. This package imports neither: it declares
// the interfaces it calls. Eventual writes and what becomes of them until they
// are proposed is the exchange package's, a session's past the session
// package's; to this one a promotion is a command like any other.
//
// All exported methods are safe for concurrent use.
package replication
