// Package raftlog keeps what one hashicorp/raft replica must not forget: its
// log, its term and vote, and the metadata of its snapshot. [Store] is a
// raft.LogStore and raft.StableStore, [Snapshots] a raft.SnapshotStore; both
// stand over the small interface disk, which has two implementations, the
// node's shared log database ([Open]) and a bolt file a replica ([OpenBolt]).
// One conformance suite runs over both. Callers: the replica groups, the
// control group (bolt), and the transport ([Snapshots.Stage]).
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
// an installed snapshot instead of leaving a hole. The next StoreLogs begins
// beyond the last index, and everything before it is dropped in the same write.
// That is taken only if the snapshot covers the hole; any other is [ErrHole].
//
// The end of the log. raft cuts a conflicting suffix off (raft.go:1551) and then
// stores what takes its place: two calls. A crash in between would leave a log
// that ends below what it had acknowledged, which is how a lost file looks. So
// [Store.DeleteRange] of a suffix only hides it; the next StoreLogs replaces it
// in one write. A crash before that leaves the old log, as if the request had
// not come. The same holds for the deletion of all entries behind a snapshot.
//
// What takes the place of a suffix may have lower terms: a leader of term 7 gives
// an entry to a minority, and a leader of term 8 that has never heard of it brings
// entries of term 6, more than fit into one request. So the position (term,
// index) of the last entry may fall, lawfully.
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
// After 2: NewRaft takes the index from the metadata. The old log stays if it
// goes on from the snapshot: if it holds the snapshot's last entry, by index and
// term, or begins right behind it. Any other log may be another history, whose
// entries a replica that is elected next would send on, since raft replicates
// before it stores its first entry as a leader (raft.go:564, 573): such a log is
// dropped when the store is opened.
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
// A log that begins right behind its snapshot does not hold the snapshot's last
// entry. A follower compares what precedes an append with its last entry, else
// with its log (raft.go:1498): if the entries behind the snapshot belong to
// another history, no append would ever fit, and the leader would send whole
// states forever. So [Store.GetLog] answers for the snapshot's last entry from
// the metadata. Its data is never asked for: who needs that entry needs the one
// before it too, and is sent the snapshot.
//
// TrailingLogs must be at least 1, so that a log that was cut holds an entry to
// be compared with.
//
// # The bolt file
//
// Each record has a checksum, and one record stands for all of them. The number
// of the last transaction is marked outside (storage.Marks), since bolt takes a
// damaged root page for a transaction that never was. The file is read and
// checked as a whole when it is opened, and written anew: see [OpenBolt].
package raftlog
