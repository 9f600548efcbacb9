// Package control is the pure part of the control group: what the group knows,
// how each command changes it, and what the placement driver does next. It has
// no I/O, no clock, no randomness and no goroutine; node wires it to a Raft
// group, to gossip and to the doers.
//
//   - [State] is all that the group has decided: the cluster's identity and
//     settings, its nodes, and each partition's replicas. A *State never
//     changes once it is handed out: [Apply] copies what it changes, so a
//     reader may keep a pointer for as long as it likes, without a lock.
//   - [Command] is one change, [Apply] carries it out or refuses it, the same
//     on every replica. A refusal is a [Rejection] with a reason to act on.
//   - [Next] is the driver's decision: from what is, the safe steps towards
//     what should be. Steps are data. Whoever leads the control group carries
//     them out, and may crash between any two: the next leader computes them
//     anew.
//
// Invariants, checked when a snapshot is read and by the tests after every
// command:
//
//   - a cluster is founded once and its partitions are placed once;
//   - at most one node that is alive or draining has a name;
//   - a node's start counter only rises, so a restored image of an old disk is
//     refused, and a node that left stays away;
//   - removing a node leaves every partition the voters it needs: those that
//     left never come back, and their places need a quorum to be given away;
//   - a partition gives out each replica generation once, for ever;
//   - a partition that is placed always has a voter, and a node holds at most
//     one replica of it;
//   - gossip's view changes a node's state, which is for people and for
//     leaders' whereabouts, and never who votes.
//
// Who votes in the control group itself is not in the state: Raft's own
// configuration knows.
package control
