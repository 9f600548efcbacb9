// Package storage keeps what a node has on disk: the state database (the
// applied keyspace of every replica on the node) and the log database (Raft
// logs, stable values, tentative writes), their encodings, and which of two versions wins.
// Its one outside dependency is Pebble.
//
// # The state database
//
// [State] is one Pebble database for all replicas of a node. Each [Replica]
// owns one contiguous range of keys, tag | group | generation, so that the
// whole replica can be measured, streamed, replaced and destroyed as a range.
// [ReplicaState] is the replica's deterministic state machine:
//
//   - [ReplicaState.Apply] takes up log entries. The applied index moves in
//     the same Pebble batch as the data it stands for, so after a crash the
//     data always is exactly what applying the log up to that index gives.
//   - Nothing is synced on the way: the log replays what a crash loses.
//     [ReplicaState.Sync] makes all of it durable, and a log may be cut only
//     behind that.
//   - A condition is judged where its entry is applied, against the effects of
//     all commands before it, also those of the same entry. A failed condition
//     leaves nothing. A linearizable delete always leaves a tombstone.
//   - A value keeps the log index of its key's last linearizable write or
//     delete, also in tombstones: promotion of tentative writes asks for it.
//   - A [Promotion] is one more command: it commits tentative writes as [Decide]
//     says, each once, however often and by whomever it is handed in. It sees
//     the effects of the commands before it, and those behind it see its own.
//
// Beside the values a replica keeps its ledger, which changes in the same
// batches and travels in the same streams: the promoted dots
// ([ReplicaState.Promoted]), the latest fates ([ReplicaState.Fate]), the values
// that lost ([ReplicaState.Conflicts]), the nodes whose writes are forfeited, and
// the floor. Tombstones are noted by the index at which they were written; a
// floor command ([AppendFloor]) removes those behind it without looking at other
// keys. All lists are bounded, and by nothing but the log: so all replicas drop
// the same.
//
// [ReplicaView] is a pinned point in time: for scans, and as the source of a
// stream that brings a replica up that is too far behind for the log. The
// stream is made from the view as it is read, never from a second copy.
// [ReplicaStage] receives it into tables beside the database, and installs
// them with one atomic, durable step, or not at all.
//
// [Blob] is the whole state of a small group, written as one record.
//
// # The log database
//
// [Log] is one Pebble database for all that must be on disk before it counts: the
// Raft log, term and vote of every replica ([ReplicaLog]), and the tentative
// writes of every partition ([TentativeLog]). One write-ahead log serves them
// all, so one fsync commits what many partitions wait for.
//
// A [Tentative] is an eventual write as its accepting node made it: [Dot], base,
// timestamp, key and value, none of which changes any more. A TentativeLog keeps
// those that are undecided as far as this node knows, and
//
//   - gives out dots, under an incarnation that is drawn anew at each opening, so
//     that not even a copy of the disk gives one twice ([TentativeLog.NextDot]);
//   - remembers the highest committed index heard of, which is the base of what is
//     accepted next ([TentativeLog.Hear]), and can promise that no older base is
//     undecided here or will be ([TentativeLog.UndecidedBase]);
//   - lets go of a write only when the applied state has its fate
//     ([TentativeLog.Settle]), and of its record only when that state is durable
//     ([TentativeLog.EraseSettled]); a node without a replica lets go when it is
//     told, and notes below which index it may not read any more
//     ([TentativeLog.Forget], [TentativeLog.FateFloor]);
//   - belongs to the partition and not to a replica: snapshots, moves and
//     destruction leave it as it is.
//
// What a node may hold of them is bounded, on disk and in memory
// ([TentativeLimits]).
//
// # Marks
//
// [Marks] is a small file beside both databases: how far the log database was synced,
// and which write-ahead logs and which MANIFEST both consist of. It is written before a
// commit is acknowledged, and compared when a database is opened: a file that has lost
// its end, or is missing, is refused ([ErrLogLost], [ErrStateLost]).
//
// # Which version wins
//
// [Decide] says what becomes of a tentative write where it is promoted: a pure
// function of what the key holds, the partition's floor, and the write. Applying,
// eventual reads ([Winner]) and the tests' models all ask it.
//
// # Eventual reads
//
// [Local] is what a node answers them from: its replica's state, if it has one,
// and its tentative log. A node that has no replica, or asks several, merges
// answers with [MergeReads] and [MergePages]. All of them decide by [Winner],
// so that reading and promoting can not disagree.
//
// # Failure
//
// All encodings carry a version and are decoded strictly: what this code does
// not know is an error, never a guess. An error from Apply, Sync or Install is
// fatal for the replica: its state in memory may no longer be that on disk.
// When Pebble declares itself broken (a write-ahead log or manifest that can
// not be written), the listener of the state database gets an [EventFatal]
// first. Then, if it happened in a call of ours, the call and all later writes
// return an error that wraps [ErrBroken]; in one of Pebble's own goroutines, or
// at a place where Pebble's locks are half taken, the process ends with a panic.
// Either way the owner's only way forward is to stop and open again: the log
// replays what was lost.
package storage
