package storage

import (
	"encoding/binary"
	"time"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// Keys of the ledger, relative to the replica, with numbers big endian; a dot is
// node length (1) | node | incarnation (8) | sequence (8). Records begin with
// format (1) = 1; their numbers are little endian.
//
//	02                          the head: see ledgerHead
//	03 dot                      a run of promoted dots: its first; last (8)
//	04 node                     a forfeited node: index (8)
//	05 dot                      a fate: see encodeFate
//	06 page (8)                 dots with a fate, as they came: dots (2) | each dot
//	07 number (8)               a conflict as it came: see conflictPlace
//	08 escaped key | number (8) a conflict: see conflictRecord
//	09 index (8) key            a tombstone that was written; no record
//
// An escaped key has 00 ff for each 00, and 00 01 behind it: so the order is
// that of the keys.

func appendDotKey(dst []byte, d Dot) []byte {
	dst = append(append(dst, byte(len(d.Node))), d.Node...)
	dst = binary.BigEndian.AppendUint64(dst, d.Incarnation)
	return binary.BigEndian.AppendUint64(dst, d.Sequence)
}

// cutDotKey takes a dot off the front of b.
func cutDotKey(b []byte, nodes *nodeNames) (d Dot, rest []byte, err error) {
	const numbers = 8 + 8
	if len(b) < 1 || len(b) < 1+int(b[0])+numbers {
		return Dot{}, nil, corrupt("dot in %d bytes", len(b))
	}
	end := 1 + int(b[0])
	d = Dot{
		Node:        nodes.name(b[1:end]),
		Incarnation: binary.BigEndian.Uint64(b[end:]),
		Sequence:    binary.BigEndian.Uint64(b[end+8:]),
	}
	if err := d.check(); err != nil {
		return Dot{}, nil, corrupt("%v", err)
	}
	return d, b[end+numbers:], nil
}

func checkDotKey(rest []byte) error {
	_, more, err := cutDotKey(rest, nil)
	if err == nil && len(more) != 0 {
		err = corrupt("dot with %d bytes behind it", len(more))
	}
	return err
}

// recordDecoder begins to read a record of the ledger.
func recordDecoder(b []byte) decoder {
	if len(b) == 0 || b[0] != ledgerFormat {
		return decoder{short: true}
	}
	return decoder{rest: b[1:]}
}

// done is an error unless the record was read to its end.
func (d *decoder) done(what string) error {
	if d.short || len(d.rest) != 0 {
		return corrupt("%s of unknown format or wrong length", what)
	}
	return nil
}

func decodePromotedRun(rest, record []byte, nodes *nodeNames) (DotRange, error) {
	first, more, err := cutDotKey(rest, nodes)
	d := recordDecoder(record)
	run := DotRange{first.Node, first.Incarnation, first.Sequence, d.uint64()}
	switch {
	case err != nil:
		return DotRange{}, err
	case len(more) != 0 || run.Last < run.First:
		return DotRange{}, corrupt("run of promoted dots")
	}
	return run, d.done("run of promoted dots")
}

func encodeForfeited(index uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{ledgerFormat}, index)
}

func decodeForfeited(record []byte) (uint64, error) {
	d := recordDecoder(record)
	index := d.uint64()
	return index, d.done("forfeited node")
}

// version reads what appendVersion wrote. The zero version has no node.
func (d *decoder) version(nodes *nodeNames) Version {
	v := Version{Index: d.uint64(), Timestamp: hlc.Timestamp(d.uint64())}
	if node := d.bytes(int(d.byte())); len(node) > 0 {
		v.Node = nodes.name(node)
	} else if !v.IsZero() {
		d.short = true
	}
	return v
}

func appendVersion(dst []byte, v Version) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, v.Index)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(v.Timestamp))
	return append(append(dst, byte(len(v.Node))), v.Node...)
}

// A fate's record is
//
//	committed:  format (1) = 1 | kind (1) | index (8) | timestamp (8)
//	superseded: format (1) = 1 | kind (1) | index (8) | version
//
// where a version is index (8) | timestamp (8) | node length (1) | node. That of
// a committed write is at the index, by the dot's node.
func encodeFate(f Fate) []byte {
	b := append(make([]byte, 0, 48), ledgerFormat, byte(f.Kind))
	b = binary.LittleEndian.AppendUint64(b, f.Index)
	if f.Kind == FateCommitted {
		return binary.LittleEndian.AppendUint64(b, uint64(f.Version.Timestamp))
	}
	return appendVersion(b, f.Version)
}

func decodeFate(dot Dot, record []byte, nodes *nodeNames) (Fate, error) {
	d := recordDecoder(record)
	f := Fate{Kind: FateKind(d.byte()), Index: d.uint64()}
	switch f.Kind {
	case FateCommitted:
		f.Version = Version{Index: f.Index, Timestamp: hlc.Timestamp(d.uint64()), Node: dot.Node}
	case FateSuperseded, FateLost:
		f.Version = d.version(nodes)
	default:
		return Fate{}, corrupt("fate of kind %d", f.Kind)
	}
	return f, d.done("fate")
}

func encodeFatePage(dots []Dot) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{ledgerFormat}, uint16(len(dots)))
	for _, d := range dots {
		b = appendDotKey(b, d)
	}
	return b
}

func decodeFatePage(record []byte, nodes *nodeNames) ([]Dot, error) {
	d := recordDecoder(record)
	n := int(d.uint16())
	if d.short || n == 0 || n > MaxPromotionWrites {
		return nil, corrupt("page of %d fates", n)
	}
	dots := make([]Dot, n)
	for i := range dots {
		dot, rest, err := cutDotKey(d.rest, nodes)
		if err != nil {
			return nil, err
		}
		dots[i], d.rest = dot, rest
	}
	return dots, d.done("page of fates")
}

// conflictPlace is what is known of a conflict by its number. Its record is
//
//	format (1) = 2 | time (8) | lived (8) | value length (4) | key
//
// and without lived, if that is 0, with format 1.
type conflictPlace struct {
	time       hlc.Timestamp
	lived      time.Duration // ledgerHead.lived when it was listed
	valueBytes uint32
	key        []byte
}

func (p conflictPlace) encode() []byte {
	b := append(make([]byte, 0, 1+8+8+4+len(p.key)), ledgerFormat)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.time))
	if p.lived != 0 {
		b[0] = ledgerLivedFormat
		b = binary.LittleEndian.AppendUint64(b, uint64(p.lived))
	}
	b = binary.LittleEndian.AppendUint32(b, p.valueBytes)
	return append(b, p.key...)
}

// decodeConflictPlace reads a record, whose key it shares.
func decodeConflictPlace(record []byte) (conflictPlace, error) {
	d := decoder{rest: record}
	format := d.byte()
	p := conflictPlace{time: hlc.Timestamp(d.uint64())}
	if format == ledgerLivedFormat {
		p.lived = time.Duration(d.uint64())
		d.short = d.short || p.lived <= 0
	} else if format != ledgerFormat {
		d.short = true
	}
	p.valueBytes = d.uint32()
	p.key = d.rest
	if d.short || len(p.key) == 0 || len(p.key) > MaxKeyBytes || p.valueBytes > MaxValueBytes {
		return conflictPlace{}, corrupt("conflict's place with a key of %d bytes", len(p.key))
	}
	return p, nil
}

// A conflict's record is
//
//	format (1) = 1 | flags (1) | cause (1) | time (8) | base (8) |
//	losing version | winning version | value
const (
	conflictDelete byte = 1 << 0

	// maxConflictRecordBytes and maxConflictKeyBytes are the largest there can be.
	maxConflictRecordBytes = 1 + 1 + 1 + 8 + 8 + 2*(8+8+1+MaxNodeIDBytes) + MaxValueBytes
	maxConflictKeyBytes    = 1 + 2*MaxKeyBytes + 2 + 8
)

func (c *Conflict) encode() []byte {
	b := make([]byte, 0, 64+len(c.Losing.Node)+len(c.Winning.Node)+len(c.Value))
	var flags byte
	if c.Delete {
		flags |= conflictDelete
	}
	b = append(b, ledgerFormat, flags, byte(c.Cause))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Time))
	b = binary.LittleEndian.AppendUint64(b, c.Base)
	b = appendVersion(appendVersion(b, c.Losing), c.Winning)
	return append(b, c.Value...)
}

// decodeConflict reads a record, whose value it shares.
func decodeConflict(key, record []byte, nodes *nodeNames) (Conflict, error) {
	d := recordDecoder(record)
	flags := d.byte()
	c := Conflict{Key: key, Delete: flags&conflictDelete != 0, Cause: SupersededCause(d.byte())}
	c.Time, c.Base = hlc.Timestamp(d.uint64()), d.uint64()
	c.Losing, c.Winning = d.version(nodes), d.version(nodes)
	c.Value = d.rest
	switch {
	case d.short:
		return Conflict{}, corrupt("conflict of %d bytes or unknown format", len(record))
	case flags&^conflictDelete != 0 || c.Cause != CauseStaleBase && c.Cause != CauseOlder:
		return Conflict{}, corrupt("conflict with flags %#x and cause %d", flags, c.Cause)
	case c.Losing.Node == "" || c.Delete && len(c.Value) != 0 || len(c.Value) > MaxValueBytes:
		return Conflict{}, corrupt("conflict of no writer, or with a value of %d bytes", len(c.Value))
	}
	return c, nil
}

const (
	keyEscape    byte = 0x00
	keyEscaped   byte = 0xff // behind keyEscape: the byte itself
	keyEscapeEnd byte = 0x01 // behind keyEscape: the end of the key
)

func appendEscapedKey(dst, key []byte) []byte {
	for _, b := range key {
		if dst = append(dst, b); b == keyEscape {
			dst = append(dst, keyEscaped)
		}
	}
	return dst
}

// conflictKey is the key of a conflict's record, relative to the replica.
func conflictKey(key []byte, number uint64) []byte {
	k := append(make([]byte, 0, 1+len(key)+16), kindConflict)
	k = append(appendEscapedKey(k, key), keyEscape, keyEscapeEnd)
	return binary.BigEndian.AppendUint64(k, number)
}

// decodeConflictKey gives the user's key, a copy, from what stands behind the kind.
func decodeConflictKey(rest []byte) (key []byte, err error) {
	for i := 0; i < len(rest); i++ {
		if rest[i] != keyEscape {
			key = append(key, rest[i])
			continue
		}
		i++
		switch {
		case i < len(rest) && rest[i] == keyEscaped:
			key = append(key, keyEscape)
		case i < len(rest) && rest[i] == keyEscapeEnd && len(rest) == i+1+8 && len(key) > 0 && len(key) <= MaxKeyBytes:
			return key, nil
		default:
			return nil, corrupt("conflict's key of %d bytes", len(rest))
		}
	}
	return nil, corrupt("conflict's key of %d bytes without an end", len(rest))
}

// checkLedgerRecord refuses what is no record of the ledger. The key was
// checked.
func checkLedgerRecord(kind byte, rest, record []byte, nodes *nodeNames) (err error) {
	switch kind {
	case kindLedger:
		_, err = decodeLedgerHead(record)
	case kindPromoted:
		_, err = decodePromotedRun(rest, record, nodes)
	case kindForfeited:
		_, err = decodeForfeited(record)
	case kindFate:
		var d Dot
		if d, _, err = cutDotKey(rest, nodes); err == nil {
			_, err = decodeFate(d, record, nodes)
		}
	case kindFatePage:
		_, err = decodeFatePage(record, nodes)
	case kindConflictPlace:
		_, err = decodeConflictPlace(record)
	case kindConflict:
		_, err = decodeConflict(nil, record, nodes)
	case kindTombstone:
		if len(record) != 0 {
			err = corrupt("place of a tombstone with a record")
		}
	}
	return err
}
