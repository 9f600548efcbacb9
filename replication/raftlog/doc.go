// Package raftlog keeps what one hashicorp/raft replica must not forget: its
// log, its term and vote, and the metadata of its snapshot. [Store] is a
// raft.LogStore and raft.StableStore, [Snapshots] a raft.SnapshotStore; both
// stand over the small interface disk, which has two implementations, the
// node's shared log database ([Open]) and a raft-boltdb file a replica
// ([OpenBolt]). One conformance suite runs over both. Callers: the replica
// groups, the control group (bolt), and the transport ([Snapshots.Stage]).
//
// # What the library does not do by itself
//
// Line references are to hashicorp/raft v1.8.0.
//
// Vote. persistVote (raft.go:2153) writes the term of a vote, then its
// candidate. A crash in between leaves the new term with the old candidate, and
// requestVote (raft.go:1709-1728) would take that candidate's next request for
// a duplicate and grant it, without looking at its log. So the term is held
// back in memory, and written with the candidate as one record. Until then, and
// after a crash, both read as the last whole vote. A second candidate in one
// term, or a vote in an older one, is refused.
//
// Bootstrap. BootstrapCluster (api.go:240) writes the term, then the entry; a
// crash in between leaves a replica that can neither be bootstrapped again
// (HasExistingState) nor elect itself. [Store.Bootstrap] is one unit.
//
// Holes. The store is monotonic (IsMonotonic). raft then empties the log behind
// an installed snapshot instead of leaving a hole. It may crash before that:
// the next StoreLogs begins beyond the last index, and everything before it is
// dropped in the same write. That is taken only if the snapshot covers the
// hole; any other is [ErrHole].
//
// # Snapshots without data
//
// The state machine is durable by itself, so a snapshot is one stable value:
// index, term, configuration. The rule is that metadata is never ahead of the
// durable state; state ahead of metadata, or of the log, does no harm, because
// the machine skips entries that it has, and raft runs with
// NoSnapshotRestoreOnStart (restoreSnapshot, api.go:610: only the metadata are
// read, lastApplied becomes their index).
//
// A replica takes one (takeSnapshot, snapshot.go:128): fsm.Snapshot fixes the
// index, Create, Persist, in which the group makes its machine durable, then
// Close stores the metadata, durably, and only then compactLogs cuts the log.
// A crash before Close leaves the old metadata and the whole log; behind it the
// log is cut next time.
//
// A leader sends it (sendLatestSnapshot, replication.go:360): List, Open, then
// the transport reads. The reader pins a view at the first read. It was opened
// after the metadata were stored, so it holds all commands up to their index
// and maybe more, which the receiver's machine then skips. Its size is not
// known, and meta.Size is 0.
//
// A follower receives it (installSnapshot, raft.go:1837): the transport has
// read the whole stream into [Snapshots.Stage] before raft hears of it, so that
// raft's main loop does not wait for a network. The request then carries the
// ticket in place of the data (and its length as Size, which raft compares):
//
//	Create                    a snapshot older than the stored one is refused
//	sink.Write                collects the ticket
//	sink.Close  1. Install    the machine's state becomes the staged one, durably
//	            2. metadata   one synced value
//	fsm.Restore               called with a reader (fsm.go:185) it need not read
//	setLastApplied, ...
//	removeOldLogs             the log is emptied
//
// A crash before 1: all is old. Between 1 and 2: the state is ahead of the old
// log and metadata, whose entries the machine skips; the leader sends again.
// After 2: NewRaft takes the index from the metadata; the old log stands below
// it, or has a tail beyond it, which raft checks against the leader as ever.
//
// removeOldLogs takes away the whole log, also entries beyond the snapshot that
// this replica has acknowledged: a late duplicate of a request would make it
// forget them, and they may be committed by its word. If the log holds the
// snapshot's last entry, the entries behind it are right, and stay. Raft's
// configuration is that of the snapshot until the replica is opened again.
//
// One case stays with raft: a replica with an uncommitted tail of an old term
// beyond the snapshot's index keeps that tail as its last index in memory
// (installSnapshot does not call setLastLog), and takes no entries until it is
// opened again. It needs an old leader's tail longer than a new leader's log.
//
// TrailingLogs must be at least 1, so that the snapshot's last entry is there
// to be compared with.
package raftlog
