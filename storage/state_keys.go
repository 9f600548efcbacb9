package storage

import (
	"encoding/binary"
)

// A key of the state database is
//
//	tag (1) | group (4, big endian) | generation (4, big endian) | kind (1) | rest
//
// so that a replica is one contiguous range, and the kinds are contiguous
// inside it. Other tags are free for what does not belong to one replica and
// for what must survive the replacement of a replica's range.
const (
	tagDatabase byte = 0x00 // what describes the database itself
	tagReplica  byte = 0x01
)

// Kinds of a replica's keys, in the order in which they are stored. 02 to 09 are
// the ledger, see state_ledger_records.go.
const (
	kindApplied       byte = 0x01 // no rest: index and term of the last applied entry
	kindLedger        byte = 0x02
	kindPromoted      byte = 0x03
	kindForfeited     byte = 0x04
	kindFate          byte = 0x05
	kindFatePage      byte = 0x06
	kindConflictPlace byte = 0x07
	kindConflict      byte = 0x08
	kindTombstone     byte = 0x09
	kindKey           byte = 0x10 // rest is the user's key, any bytes
	kindBlob          byte = 0x40 // no rest: a small group's whole state
)

const (
	replicaPrefixLen = 1 + 4 + 4
	userPrefixLen    = replicaPrefixLen + 1
)

var (
	formatKey = []byte{tagDatabase, 'f'}
	nodeKey   = []byte{tagDatabase, 'n'} // the id of the node that the database belongs to
)

func replicaPrefix(r Replica) []byte {
	dst := append(make([]byte, 0, userPrefixLen), tagReplica)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Group))
	return binary.BigEndian.AppendUint32(dst, r.Generation)
}

// replicaSpan is the range that holds all of r's keys and no other's.
func replicaSpan(r Replica) (start, end []byte) {
	start = replicaPrefix(r)
	return start, prefixEnd(start)
}

// prefixEnd is the first key after all that begin with prefix; nil if there is
// none, that is, if prefix has no byte below 0xff.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// PrefixEnd is the first key after all keys that begin with prefix; nil, which
// a scan takes as "no end", if there is none.
func PrefixEnd(prefix []byte) []byte { return prefixEnd(prefix) }

// decodeReplicaKey splits a stored key of a replica.
func decodeReplicaKey(key []byte) (r Replica, kind byte, rest []byte, err error) {
	if len(key) < userPrefixLen || key[0] != tagReplica {
		return Replica{}, 0, nil, corrupt("%d-byte key is not a replica's", len(key))
	}
	r.Group = GroupID(binary.BigEndian.Uint32(key[1:]))
	r.Generation = binary.BigEndian.Uint32(key[5:])
	kind, rest = key[replicaPrefixLen], key[userPrefixLen:]
	if err := checkKind(kind, rest); err != nil {
		return Replica{}, 0, nil, err
	}
	return r, kind, rest, nil
}

func checkKind(kind byte, rest []byte) error {
	switch kind {
	case kindApplied, kindBlob, kindLedger:
		if len(rest) != 0 {
			return corrupt("key of kind %#x with %d bytes more", kind, len(rest))
		}
	case kindKey:
		if len(rest) == 0 || len(rest) > MaxKeyBytes {
			return corrupt("user key of %d bytes", len(rest))
		}
	case kindPromoted, kindFate:
		return checkDotKey(rest)
	case kindForfeited:
		if len(rest) == 0 || len(rest) > MaxNodeIDBytes {
			return corrupt("forfeited node with an id of %d bytes", len(rest))
		}
	case kindFatePage, kindConflictPlace:
		if len(rest) != 8 {
			return corrupt("key of kind %#x with a number of %d bytes", kind, len(rest))
		}
	case kindConflict:
		_, err := decodeConflictKey(rest)
		return err
	case kindTombstone:
		if len(rest) <= 8 || len(rest) > 8+MaxKeyBytes {
			return corrupt("tombstone's place of %d bytes", len(rest))
		}
	default:
		return corrupt("key of unknown kind %#x", kind)
	}
	return nil
}
