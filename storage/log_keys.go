package storage

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The key space of the log database. Numbers are big endian, so that byte
// order is numeric order and each replica is one contiguous range.
//
//	01 "node"                                   identity: format, node id
//	02 group:4 generation:4                     this generation was destroyed
//	03 group:4 generation:4 node                what that replica of another node has shown
//	10 group:4 generation:4 01                  this replica was bootstrapped
//	10 group:4 generation:4 02 name             a stable value
//	10 group:4 generation:4 03 index:8          a log entry
//	20 partition:4 01                           the highest index heard of
//	20 partition:4 02                           the fate floor
//	20 partition:4 03 dot                       a tentative write without its value
//	20 partition:4 04 dot                       a tentative write's value
//	20 partition:4 05                           the highest index heard of, saved for all partitions at once
//
// where a dot is len(node):1 node incarnation:8 sequence:8. Tentative writes
// belong to the partition, not to a replica: they outlive every generation.
//
// The marks of destroyed generations stand outside the replicas' ranges: they
// outlive the one deletion that removes a replica, and are written in the same
// batch as it.
const (
	logSpaceNode      = 0x01
	logSpaceDestroyed = 0x02
	logSpacePeers     = 0x03
	logSpaceReplica   = 0x10
	logSpaceTentative = 0x20

	logKindBootstrapped = 0x01
	logKindValue        = 0x02
	logKindEntry        = 0x03
)

// logReplicaKeyLen is the space byte, the group and the generation.
const logReplicaKeyLen = 1 + 4 + 4

var logNodeKey = append([]byte{logSpaceNode}, "node"...)

func logKey(space byte, r Replica, room int) []byte {
	k := make([]byte, 0, logReplicaKeyLen+room)
	k = append(k, space)
	k = binary.BigEndian.AppendUint32(k, uint32(r.Group))
	return binary.BigEndian.AppendUint32(k, r.Generation)
}

func logDestroyedKey(r Replica) []byte { return logKey(logSpaceDestroyed, r, 0) }

func logBootstrappedKey(r Replica) []byte {
	return append(logKey(logSpaceReplica, r, 1), logKindBootstrapped)
}

func logValueKey(r Replica, name string) []byte {
	return append(append(logKey(logSpaceReplica, r, 1+len(name)), logKindValue), name...)
}

func logEntryKey(r Replica, index uint64) []byte {
	k := append(logKey(logSpaceReplica, r, 9), logKindEntry)
	return binary.BigEndian.AppendUint64(k, index)
}

// logEntriesEnd is the first key behind all of r's entries.
func logEntriesEnd(r Replica) []byte {
	return append(logKey(logSpaceReplica, r, 1), logKindEntry+1)
}

// logReplicaEnd is the first key behind all that r has.
func logReplicaEnd(r Replica) []byte {
	switch {
	case r.Generation < math.MaxUint32:
		return logKey(logSpaceReplica, Replica{Group: r.Group, Generation: r.Generation + 1}, 0)
	case r.Group < math.MaxUint32:
		return logKey(logSpaceReplica, Replica{Group: r.Group + 1}, 0)
	default:
		return []byte{logSpaceReplica + 1}
	}
}

// logParseReplica reads the replica that a key of its range belongs to.
func logParseReplica(key []byte) (Replica, error) {
	if len(key) <= logReplicaKeyLen || key[0] != logSpaceReplica {
		return Replica{}, fmt.Errorf("%w: key %x is no replica's", ErrLogCorrupt, key)
	}
	return Replica{
		Group:      GroupID(binary.BigEndian.Uint32(key[1:])),
		Generation: binary.BigEndian.Uint32(key[5:]),
	}, nil
}

// logParseEntryKey reads the index out of an entry's key.
func logParseEntryKey(key []byte) (uint64, error) {
	if len(key) != logReplicaKeyLen+9 || key[0] != logSpaceReplica || key[logReplicaKeyLen] != logKindEntry {
		return 0, fmt.Errorf("%w: key %x is no entry's", ErrLogCorrupt, key)
	}
	return binary.BigEndian.Uint64(key[logReplicaKeyLen+1:]), nil
}
