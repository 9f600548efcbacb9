package storage

import (
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Value is what a replica holds for a key.
type Value struct {
	// Version is the write that made it.
	Version Version
	// Tombstone marks a deleted key; there are no Bytes then.
	Tombstone bool
	// Linearizable marks a write that went through the leader, as against a
	// promoted eventual one.
	Linearizable bool
	// LinearizableIndex is the log index of the key's last linearizable write
	// or delete; 0 if there was none. An eventual write that replaces the
	// value keeps it.
	LinearizableIndex uint64
	// Replaced is the version of that write if an eventual one has taken its
	// place since; zero otherwise. What had not heard of it lost to it, whatever
	// the key holds by then.
	Replaced Version
	// Base is the highest log index that the accepting node of an eventual
	// write had heard of; 0 for a linearizable one.
	Base uint64
	// Dot names an eventual write; zero for a linearizable one. Its node is
	// that of the version.
	Dot   Dot
	Bytes []byte
}

// A value record is
//
//	format (1) | flags (1) | index (8) | timestamp (8) |
//	linearizable index (8) | base (8) | node length (1) | node |
//	format 2 and 3: incarnation (8) | sequence (8)
//	format 3: timestamp (8) | node length (1) | node
//	bytes
//
// with all numbers little endian. Bytes runs to the end of the record. Format 2
// is that of a value with a dot, whose node is the version's. Format 3 has the
// version, beside its index, of the linearizable write that was replaced.
const (
	valueFormat         = 1
	valueFormatDot      = 2
	valueFormatReplaced = 3

	valueFixedLen    = 1 + 1 + 8 + 8 + 8 + 8 + 1
	valueDotLen      = 8 + 8
	valueReplacedLen = 8 + 1 // and the node

	valueTombstone    byte = 1 << 0
	valueLinearizable byte = 1 << 1
)

func (v *Value) encodedLen() int {
	n := valueFixedLen + len(v.Version.Node) + len(v.Bytes)
	if !v.Dot.IsZero() {
		n += valueDotLen
	}
	if !v.Replaced.IsZero() {
		n += valueReplacedLen + len(v.Replaced.Node)
	}
	return n
}

// lastLinearizable is the version of the key's last linearizable write; zero if
// there was none.
func (v *Value) lastLinearizable() Version {
	if v.Linearizable {
		return v.Version
	}
	return v.Replaced
}

// encodeTo fills b, which is encodedLen long. The value must be valid: its
// fields come from a decoded command.
func (v *Value) encodeTo(b []byte) {
	var flags byte
	if v.Tombstone {
		flags |= valueTombstone
	}
	if v.Linearizable {
		flags |= valueLinearizable
	}
	b[0], b[1] = valueFormat, flags
	binary.LittleEndian.PutUint64(b[2:], v.Version.Index)
	binary.LittleEndian.PutUint64(b[10:], uint64(v.Version.Timestamp))
	binary.LittleEndian.PutUint64(b[18:], v.LinearizableIndex)
	binary.LittleEndian.PutUint64(b[26:], v.Base)
	b[34] = byte(len(v.Version.Node))
	n := valueFixedLen + copy(b[valueFixedLen:], v.Version.Node)
	if !v.Dot.IsZero() {
		b[0] = valueFormatDot
		binary.LittleEndian.PutUint64(b[n:], v.Dot.Incarnation)
		binary.LittleEndian.PutUint64(b[n+8:], v.Dot.Sequence)
		n += valueDotLen
	}
	if !v.Replaced.IsZero() {
		b[0] = valueFormatReplaced
		binary.LittleEndian.PutUint64(b[n:], uint64(v.Replaced.Timestamp))
		b[n+8] = byte(len(v.Replaced.Node))
		n += valueReplacedLen + copy(b[n+valueReplacedLen:], v.Replaced.Node)
	}
	copy(b[n:], v.Bytes)
}

// decodeValue reads a record. Bytes is part of b, not a copy. nodes gives the
// node id's string without an allocation where the caller has seen it before;
// it may be nil.
func decodeValue(b []byte, nodes *nodeNames) (Value, error) {
	if len(b) < valueFixedLen {
		return Value{}, corrupt("value record of %d bytes", len(b))
	}
	if b[0] < valueFormat || b[0] > valueFormatReplaced {
		return Value{}, corrupt("value record of unknown format %d", b[0])
	}
	flags := b[1]
	if flags&^(valueTombstone|valueLinearizable) != 0 {
		return Value{}, corrupt("value record with unknown flags %#x", flags)
	}
	nodeEnd := valueFixedLen + int(b[34])
	if b[34] == 0 || nodeEnd > len(b) {
		return Value{}, corrupt("value record with a node id of %d bytes, %d left", b[34], len(b)-valueFixedLen)
	}
	v := Value{
		Version: Version{
			Index:     binary.LittleEndian.Uint64(b[2:]),
			Timestamp: hlc.Timestamp(binary.LittleEndian.Uint64(b[10:])),
		},
		Tombstone:         flags&valueTombstone != 0,
		Linearizable:      flags&valueLinearizable != 0,
		LinearizableIndex: binary.LittleEndian.Uint64(b[18:]),
		Base:              binary.LittleEndian.Uint64(b[26:]),
		Bytes:             b[nodeEnd:],
	}
	dotted := b[0] >= valueFormatDot
	if dotted {
		if len(v.Bytes) < valueDotLen {
			return Value{}, corrupt("value record with %d bytes for a dot", len(v.Bytes))
		}
		v.Dot.Incarnation = binary.LittleEndian.Uint64(v.Bytes)
		v.Dot.Sequence = binary.LittleEndian.Uint64(v.Bytes[8:])
		v.Bytes = v.Bytes[valueDotLen:]
	}
	if b[0] == valueFormatReplaced {
		d := decoder{rest: v.Bytes}
		v.Replaced = Version{Index: v.LinearizableIndex, Timestamp: hlc.Timestamp(d.uint64())}
		node := d.bytes(int(d.byte()))
		if d.short || len(node) == 0 || v.LinearizableIndex == 0 {
			return Value{}, corrupt("value record that replaced no linearizable write")
		}
		v.Replaced.Node, v.Bytes = nodes.name(node), d.rest
	}
	switch {
	case v.Version.Index == 0:
		return Value{}, corrupt("value record without a log index")
	case v.LinearizableIndex > v.Version.Index:
		return Value{}, corrupt("value record of index %d with linearizable index %d", v.Version.Index, v.LinearizableIndex)
	case v.Linearizable && (v.LinearizableIndex != v.Version.Index || v.Base != 0 || dotted):
		return Value{}, corrupt("linearizable value record with an eventual write's fields")
	case dotted && v.Dot.Sequence == 0:
		return Value{}, corrupt("value record with a dot without a sequence number")
	case v.Tombstone && len(v.Bytes) != 0:
		return Value{}, corrupt("tombstone with %d bytes", len(v.Bytes))
	case len(v.Bytes) > MaxValueBytes:
		return Value{}, corrupt("value of %d bytes", len(v.Bytes))
	}
	v.Version.Node = nodes.name(b[valueFixedLen:nodeEnd])
	if dotted {
		v.Dot.Node = v.Version.Node
	}
	return v, nil
}

// nodeNames keeps the few node ids that a replica meets as strings, so that
// decoding a record does not allocate one. Safe for concurrent use: readers
// take the table as it is, a new name makes a new table.
type nodeNames struct {
	known atomic.Pointer[map[string]partition.NodeID]
	mu    sync.Mutex // one new table at a time
}

// maxNodeNames bounds the table. A replica's values seldom come from more
// nodes; names beyond it are allocated each time.
const maxNodeNames = 64

func (n *nodeNames) name(b []byte) partition.NodeID {
	if n == nil {
		return partition.NodeID(b)
	}
	known := n.known.Load()
	if known != nil {
		if id, ok := (*known)[string(b)]; ok {
			return id
		}
	}
	id := partition.NodeID(b)
	n.add(id)
	return id
}

func (n *nodeNames) add(id partition.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := make(map[string]partition.NodeID)
	if known := n.known.Load(); known != nil {
		if len(*known) >= maxNodeNames {
			return
		}
		maps.Copy(next, *known)
	}
	next[string(id)] = id
	n.known.Store(&next)
}
