package storage

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// TentativeWrite is one eventual write that a node has accepted and that the
// partition's log has not decided yet. What the accepting node has set is never
// changed afterwards, by nobody.
type TentativeWrite struct {
	TentativeVersion
	Key   []byte
	Value []byte // none for a delete
}

// TentativeVersion is a tentative write without its key and value.
type TentativeVersion struct {
	// Dot names the write; its node is the one that accepted it.
	Dot Dot
	// Base is the highest committed index of the partition that the accepting
	// node had heard of: the write can not have been meant to overwrite what
	// was committed above it.
	Base      uint64
	Timestamp hlc.Timestamp
	Delete    bool
	// Hint says that it came to this node as a hint: none of the partition's
	// replicas was there to take it. It is told of the write's past and is for
	// figures and explanations only. What a holder must do depends on whether
	// it has a replica now.
	Hint bool
	// ValueBytes is the length of the value. Append takes it from the value.
	ValueBytes int
}

// before orders the writes of a key by which wins, the lower first: timestamp,
// then node. A clock that was driven to its end may give one timestamp twice;
// the rest of the dot makes the order total.
func (v *TentativeVersion) before(o *TentativeVersion) bool {
	if v.Timestamp != o.Timestamp {
		return v.Timestamp < o.Timestamp
	}
	return v.Dot.Compare(o.Dot) < 0
}

// check refuses what no node accepts.
func (w *TentativeWrite) check() error {
	switch {
	case len(w.Dot.Node) == 0 || len(w.Dot.Node) > MaxNodeIDBytes:
		return fmt.Errorf("tentative write of a node id of %d bytes", len(w.Dot.Node))
	case w.Dot.Incarnation == 0 || w.Dot.Sequence == 0:
		return fmt.Errorf("tentative write %v has no incarnation or no sequence number", w.Dot)
	case w.Base == math.MaxUint64:
		return fmt.Errorf("tentative write %v has a base above every index", w.Dot)
	case len(w.Key) == 0 || len(w.Key) > MaxKeyBytes:
		return fmt.Errorf("tentative write with a key of %d bytes", len(w.Key))
	case w.ValueBytes < 0 || w.ValueBytes > MaxValueBytes:
		return fmt.Errorf("tentative write with a value of %d bytes", w.ValueBytes)
	case w.Delete && w.ValueBytes != 0:
		return fmt.Errorf("tentative delete with a value of %d bytes", w.ValueBytes)
	}
	return nil
}

// Keys of a partition's tentative log, see log_keys.go. The value of a write
// stands in a record of its own, so that the index can be rebuilt without
// reading values.
const (
	tentativeKindHeard = 0x01 // the highest index heard of
	tentativeKindFate  = 0x02 // the fate floor
	tentativeKindWrite = 0x03 // a write, without its value
	tentativeKindValue = 0x04 // a write's value, if it has one of any length

	tentativePrefixLen = 1 + 4 + 1
)

func tentativeKey(p partition.ID, kind byte, room int) []byte {
	k := make([]byte, 0, tentativePrefixLen+room)
	k = append(k, logSpaceTentative)
	k = binary.BigEndian.AppendUint32(k, uint32(p))
	return append(k, kind)
}

func tentativeDotLen(d Dot) int { return 1 + len(d.Node) + 8 + 8 }

func tentativeDotKey(p partition.ID, kind byte, d Dot) []byte {
	k := tentativeKey(p, kind, tentativeDotLen(d))
	k = append(append(k, byte(len(d.Node))), d.Node...)
	k = binary.BigEndian.AppendUint64(k, d.Incarnation)
	return binary.BigEndian.AppendUint64(k, d.Sequence)
}

// parseTentativeKey splits a key of the tentative logs' space. The dot is zero
// where the kind has none.
func parseTentativeKey(key []byte, nodes *nodeNames) (p partition.ID, kind byte, d Dot, err error) {
	bad := func() (partition.ID, byte, Dot, error) {
		return 0, 0, Dot{}, fmt.Errorf("%w: key %x is no tentative log's", ErrLogCorrupt, key)
	}
	if len(key) < tentativePrefixLen || key[0] != logSpaceTentative {
		return bad()
	}
	p, kind = partition.ID(binary.BigEndian.Uint32(key[1:])), key[5]
	rest := key[tentativePrefixLen:]
	switch kind {
	case tentativeKindHeard, tentativeKindFate:
		if len(rest) != 0 {
			return bad()
		}
		return p, kind, Dot{}, nil
	case tentativeKindWrite, tentativeKindValue:
		if len(rest) < 1+1+8+8 || rest[0] == 0 || len(rest) != 1+int(rest[0])+8+8 {
			return bad()
		}
		node, numbers := rest[1:1+rest[0]], rest[1+rest[0]:]
		d = Dot{Node: nodes.name(node), Incarnation: binary.BigEndian.Uint64(numbers), Sequence: binary.BigEndian.Uint64(numbers[8:])}
		if d.Incarnation == 0 || d.Sequence == 0 {
			return bad()
		}
		return p, kind, d, nil
	default:
		return bad()
	}
}

// A write's record, big endian as its key; the dot is in the key.
//
//	format:1 flags:1 base:8 timestamp:8 len(value):4 key
//
// A value's record is format:1 value. That of an index is format:1 index:8.
const (
	tentativeFormat      = 1
	tentativeWriteHeader = 1 + 1 + 8 + 8 + 4
	tentativeIndexLen    = 1 + 8

	tentativeFlagDelete byte = 1 << 0
	tentativeFlagHint   byte = 1 << 1
)

// checkTentativeFormat looks at a record's first byte.
func checkTentativeFormat(b []byte, what string) error {
	switch {
	case len(b) == 0 || b[0] == 0:
		return fmt.Errorf("%w: %s of %d bytes without a format", ErrLogCorrupt, what, len(b))
	case b[0] > tentativeFormat:
		return fmt.Errorf("%w: %s has format %d, known up to %d", ErrLogNewerFormat, what, b[0], tentativeFormat)
	}
	return nil
}

// diskBytes is what a write takes up in records, keys included.
func (w *TentativeWrite) diskBytes() int64 {
	n := tentativePrefixLen + tentativeDotLen(w.Dot) + tentativeWriteHeader + len(w.Key)
	if w.ValueBytes > 0 {
		n += tentativePrefixLen + tentativeDotLen(w.Dot) + 1 + w.ValueBytes
	}
	return int64(n)
}

// put adds the write's records to b. The write has passed check.
func (w *TentativeWrite) put(b *pebble.Batch, p partition.ID) error {
	dotKey := tentativePrefixLen + tentativeDotLen(w.Dot)
	op := b.SetDeferred(dotKey, tentativeWriteHeader+len(w.Key))
	copy(op.Key, tentativeDotKey(p, tentativeKindWrite, w.Dot))
	w.encodeInto(op.Value)
	if err := op.Finish(); err != nil || w.ValueBytes == 0 {
		return err
	}
	op = b.SetDeferred(dotKey, 1+len(w.Value))
	copy(op.Key, tentativeDotKey(p, tentativeKindValue, w.Dot))
	op.Value[0] = tentativeFormat
	copy(op.Value[1:], w.Value)
	return op.Finish()
}

// encodeInto fills r with the write's record.
func (w *TentativeWrite) encodeInto(r []byte) {
	var flags byte
	if w.Delete {
		flags |= tentativeFlagDelete
	}
	if w.Hint {
		flags |= tentativeFlagHint
	}
	r[0], r[1] = tentativeFormat, flags
	binary.BigEndian.PutUint64(r[2:], w.Base)
	binary.BigEndian.PutUint64(r[10:], uint64(w.Timestamp))
	binary.BigEndian.PutUint32(r[18:], uint32(w.ValueBytes))
	copy(r[tentativeWriteHeader:], w.Key)
}

// decodeTentativeWrite reads a write's record. Key is part of r; there is no
// Value yet.
func decodeTentativeWrite(d Dot, r []byte) (TentativeWrite, error) {
	if err := checkTentativeFormat(r, "tentative write"); err != nil {
		return TentativeWrite{}, err
	}
	if len(r) < tentativeWriteHeader {
		return TentativeWrite{}, fmt.Errorf("%w: tentative write of %d bytes", ErrLogCorrupt, len(r))
	}
	flags := r[1]
	if flags&^(tentativeFlagDelete|tentativeFlagHint) != 0 {
		return TentativeWrite{}, fmt.Errorf("%w: tentative write with unknown flags %#x", ErrLogCorrupt, flags)
	}
	w := TentativeWrite{
		TentativeVersion: TentativeVersion{
			Dot:        d,
			Base:       binary.BigEndian.Uint64(r[2:]),
			Timestamp:  hlc.Timestamp(binary.BigEndian.Uint64(r[10:])),
			Delete:     flags&tentativeFlagDelete != 0,
			Hint:       flags&tentativeFlagHint != 0,
			ValueBytes: int(binary.BigEndian.Uint32(r[18:])),
		},
		Key: r[tentativeWriteHeader:],
	}
	if err := w.check(); err != nil {
		return TentativeWrite{}, fmt.Errorf("%w: %w", ErrLogCorrupt, err)
	}
	return w, nil
}

// decodeTentativeValue reads the record of a value that has size bytes. The
// value is part of r.
func decodeTentativeValue(size int, r []byte) ([]byte, error) {
	if err := checkTentativeFormat(r, "tentative value"); err != nil {
		return nil, err
	}
	if len(r) != 1+size || size == 0 {
		return nil, fmt.Errorf("%w: tentative value of %d bytes, expected %d", ErrLogCorrupt, len(r)-1, size)
	}
	return r[1:], nil
}

func appendTentativeIndex(dst []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, tentativeFormat), index)
}

func decodeTentativeIndex(r []byte) (uint64, error) {
	if err := checkTentativeFormat(r, "tentative log's index"); err != nil {
		return 0, err
	}
	if len(r) != tentativeIndexLen {
		return 0, fmt.Errorf("%w: tentative log's index of %d bytes", ErrLogCorrupt, len(r))
	}
	return binary.BigEndian.Uint64(r[1:]), nil
}
