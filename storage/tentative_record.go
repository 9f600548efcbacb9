package storage

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// TentativeWrite is a tentative write as one node holds it.
type TentativeWrite struct {
	Tentative
	// Hint says that it came to this node as a hint: none of the partition's
	// replicas was there to take it. It tells of the write's past and is for
	// figures and explanations only. What a holder must do depends on whether
	// it has a replica now.
	Hint bool
}

// check refuses what no node accepts.
func (w *TentativeWrite) check() error {
	v := w.version()
	return v.check(len(w.Key))
}

func (w *TentativeWrite) version() tentativeVersion {
	return tentativeVersion{w.Dot, w.Base, w.Timestamp, w.Delete, w.Hint, len(w.Bytes)}
}

func (w *TentativeWrite) cost() tentativeCost {
	return tentativeCostOf(w.Dot, len(w.Key), len(w.Bytes))
}

// tentativeVersion is a tentative write without its key and value: what its
// record says beside the key, and the index keeps.
type tentativeVersion struct {
	dot       Dot
	base      uint64
	timestamp hlc.Timestamp
	deletes   bool
	hint      bool
	bytes     int // length of the value
}

func (v *tentativeVersion) check(keyBytes int) error {
	switch err := v.dot.check(); {
	case err != nil:
		return err
	case v.base == math.MaxUint64:
		return fmt.Errorf("tentative write %s has a base above every index", v.dot)
	case keyBytes == 0 || keyBytes > MaxKeyBytes:
		return fmt.Errorf("tentative write %s has a key of %d bytes", v.dot, keyBytes)
	case v.bytes < 0 || v.bytes > MaxValueBytes:
		return fmt.Errorf("tentative write %s has a value of %d bytes", v.dot, v.bytes)
	case v.deletes && v.bytes != 0:
		return fmt.Errorf("tentative delete %s has a value of %d bytes", v.dot, v.bytes)
	}
	return nil
}

// compare orders the writes of one key as [Decide] does; the higher wins.
func (v *tentativeVersion) compare(o *tentativeVersion) int {
	return cmp.Or(cmp.Compare(v.timestamp, o.timestamp), v.dot.Compare(o.dot))
}

// tentative is the write of key, without its value.
func (v *tentativeVersion) tentative(key []byte) Tentative {
	return Tentative{Dot: v.dot, Base: v.base, Timestamp: v.timestamp, Delete: v.deletes, Key: key}
}

// Keys of a partition's tentative log, see log_keys.go. The value of a write
// stands in a record of its own, so that the index can be rebuilt without
// reading values.
const (
	tentativeKindHeard = 0x01 // the highest index heard of
	tentativeKindFate  = 0x02 // the fate floor
	tentativeKindWrite = 0x03 // a write, without its value
	tentativeKindValue = 0x04 // a write's value, if it has one of any length
	tentativeKindSaved = 0x05 // what was heard of, as SaveHeard writes it

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
	case tentativeKindHeard, tentativeKindFate, tentativeKindSaved:
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
		if d.check() != nil {
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

// put adds the write's records to b. The write has passed check.
func (w *TentativeWrite) put(b *pebble.Batch, p partition.ID) error {
	dotKey := tentativePrefixLen + tentativeDotLen(w.Dot)
	op := b.SetDeferred(dotKey, tentativeWriteHeader+len(w.Key))
	copy(op.Key, tentativeDotKey(p, tentativeKindWrite, w.Dot))
	v := w.version()
	v.encodeInto(op.Value, w.Key)
	if err := op.Finish(); err != nil || len(w.Bytes) == 0 {
		return err
	}
	op = b.SetDeferred(dotKey, 1+len(w.Bytes))
	copy(op.Key, tentativeDotKey(p, tentativeKindValue, w.Dot))
	op.Value[0] = tentativeFormat
	copy(op.Value[1:], w.Bytes)
	return op.Finish()
}

// encodeInto fills r with the write's record.
func (v *tentativeVersion) encodeInto(r, key []byte) {
	var flags byte
	if v.deletes {
		flags |= tentativeFlagDelete
	}
	if v.hint {
		flags |= tentativeFlagHint
	}
	r[0], r[1] = tentativeFormat, flags
	binary.BigEndian.PutUint64(r[2:], v.base)
	binary.BigEndian.PutUint64(r[10:], uint64(v.timestamp))
	binary.BigEndian.PutUint32(r[18:], uint32(v.bytes))
	copy(r[tentativeWriteHeader:], key)
}

// decodeTentativeWrite reads a write's record. The key is part of r.
func decodeTentativeWrite(d Dot, r []byte) (v tentativeVersion, key []byte, err error) {
	if err := checkTentativeFormat(r, "tentative write"); err != nil {
		return v, nil, err
	}
	if len(r) < tentativeWriteHeader {
		return v, nil, fmt.Errorf("%w: tentative write of %d bytes", ErrLogCorrupt, len(r))
	}
	flags := r[1]
	if flags&^(tentativeFlagDelete|tentativeFlagHint) != 0 {
		return v, nil, fmt.Errorf("%w: tentative write with unknown flags %#x", ErrLogCorrupt, flags)
	}
	v = tentativeVersion{
		dot:       d,
		base:      binary.BigEndian.Uint64(r[2:]),
		timestamp: hlc.Timestamp(binary.BigEndian.Uint64(r[10:])),
		deletes:   flags&tentativeFlagDelete != 0,
		hint:      flags&tentativeFlagHint != 0,
		bytes:     int(binary.BigEndian.Uint32(r[18:])),
	}
	key = r[tentativeWriteHeader:]
	if err := v.check(len(key)); err != nil {
		return v, nil, fmt.Errorf("%w: %w", ErrLogCorrupt, err)
	}
	return v, key, nil
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

func encodeTentativeIndex(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tentativeFormat}, index)
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
