package session

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What a token's text carries is
//
//	highest timestamp (8)
//	runs of partitions | each: partitions left out before it | length, less 1
//	indexes of those partitions, in blocks: width in bits (1) | packed
//	nodes' incarnations | each, in rising order: length (1) | node | incarnation (8)
//	if there are any: partitions with dots | each:
//	  partitions in the list left out before it | incarnations | each:
//	    its place in the list above | runs | each run of dots:
//	      dots left out before it, twice, plus 1 if there is more than one dot | if so: dots, less 2
//
// Timestamp and incarnation are little endian, the other numbers unsigned
// varints in their shortest form. Between two runs at least one is left out, and
// that one is not counted. So each token has exactly one encoding.
//
// A partition without dots costs one byte and as many bits as its index has; a
// dot costs a byte if the session has one in 64 of its node's.

// maxSequence bounds the sequence number of a dot in a token, so that twice that
// is a number. Nobody counts so far.
const maxSequence = math.MaxUint64 / 4

// origin is where dots come from.
type origin struct {
	node        partition.NodeID
	incarnation uint64
}

func (o origin) compare(p origin) int {
	return cmp.Or(cmp.Compare(o.node, p.node), cmp.Compare(o.incarnation, p.incarnation))
}

func originOf(r storage.DotRange) origin { return origin{r.Node, r.Incarnation} }

func (t *Token) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(t.highest))
	dst = t.appendPartitions(dst)
	dst = t.appendIndexes(dst)
	return t.appendDots(dst)
}

func (t *Token) appendPartitions(dst []byte) []byte {
	type run struct{ first, last partition.ID }
	var runs []run
	for _, h := range t.past {
		if n := len(runs) - 1; n >= 0 && runs[n].last+1 == h.partition {
			runs[n].last++
			continue
		}
		runs = append(runs, run{h.partition, h.partition})
	}
	dst = binary.AppendUvarint(dst, uint64(len(runs)))
	next := partition.ID(0)
	for _, r := range runs {
		dst = binary.AppendUvarint(dst, uint64(r.first-next))
		dst = binary.AppendUvarint(dst, uint64(r.last-r.first))
		next = r.last + 2
	}
	return dst
}

func (t *Token) appendIndexes(dst []byte) []byte {
	var block [bitsBlock]uint64
	for part := range slices.Chunk(t.past, bitsBlock) {
		for i, h := range part {
			block[i] = h.index
		}
		values := block[:len(part)]
		width := widthOf(values)
		dst = append(dst, byte(width))
		dst = appendPacked(dst, values, width)
	}
	return dst
}

func (t *Token) appendDots(dst []byte) []byte {
	var origins []origin
	with := 0
	for _, h := range t.past {
		if h.dots == nil {
			continue
		}
		with++
		for r := range h.dots.Ranges() {
			o := originOf(r)
			if at, found := slices.BinarySearchFunc(origins, o, origin.compare); !found {
				origins = slices.Insert(origins, at, o)
			}
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(origins)))
	if len(origins) == 0 {
		return dst
	}
	for _, o := range origins {
		dst = append(append(dst, byte(len(o.node))), o.node...)
		dst = binary.LittleEndian.AppendUint64(dst, o.incarnation)
	}
	dst = binary.AppendUvarint(dst, uint64(with))
	next := 0
	for i, h := range t.past {
		if h.dots == nil {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(i-next))
		dst = appendDotsOf(dst, slices.Collect(h.dots.Ranges()), origins)
		next = i + 1
	}
	return dst
}

func appendDotsOf(dst []byte, ranges []storage.DotRange, origins []origin) []byte {
	count := 0
	for i, r := range ranges {
		if i == 0 || originOf(r) != originOf(ranges[i-1]) {
			count++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(count))
	for len(ranges) > 0 {
		of := originOf(ranges[0])
		n := 1
		for n < len(ranges) && originOf(ranges[n]) == of {
			n++
		}
		at, _ := slices.BinarySearchFunc(origins, of, origin.compare)
		dst = binary.AppendUvarint(dst, uint64(at))
		dst = binary.AppendUvarint(dst, uint64(n))
		next := uint64(1)
		for _, r := range ranges[:n] {
			head := (r.First - next) << 1
			if r.Last == r.First {
				dst = binary.AppendUvarint(dst, head)
			} else {
				dst = binary.AppendUvarint(dst, head|1)
				dst = binary.AppendUvarint(dst, r.Last-r.First-1)
			}
			next = r.Last + 2
		}
		ranges = ranges[n:]
	}
	return dst
}

// decodeToken reads what append wrote, which must be all of b.
func decodeToken(b []byte) (*Token, bool) {
	d := decoder{rest: b}
	t := &Token{highest: hlc.Timestamp(d.uint64())}
	t.decodePartitions(&d)
	t.decodeIndexes(&d)
	t.decodeDots(&d)
	for _, h := range t.past {
		if h.index == 0 && h.dots == nil {
			return nil, false
		}
	}
	return t, !d.bad && len(d.rest) == 0 && !t.Empty()
}

func (t *Token) decodePartitions(d *decoder) {
	next := uint64(0)
	for range d.count(2) {
		gap, more := d.uvarint(), d.uvarint()
		if gap >= partition.MaxCount || more >= partition.MaxCount || next+gap+more >= partition.MaxCount {
			d.bad = true
		}
		if d.bad {
			return
		}
		first := next + gap
		for p := first; p <= first+more; p++ {
			t.past = append(t.past, past{partition: partition.ID(p)})
		}
		next = first + more + 2
	}
}

func (t *Token) decodeIndexes(d *decoder) {
	var block [bitsBlock]uint64
	for part := range slices.Chunk(t.past, bitsBlock) {
		values := block[:len(part)]
		width := int(d.byte())
		packed := d.bytes(packedLen(len(part), min(width, 64)))
		if d.bad || width > 64 || !unpack(packed, values, width) || widthOf(values) != width {
			d.bad = true
			return
		}
		for i := range part {
			part[i].index = values[i]
		}
	}
}

func (t *Token) decodeDots(d *decoder) {
	var origins []origin
	for range d.count(1 + 1 + 8) {
		o := origin{node: partition.NodeID(d.bytes(int(d.byte()))), incarnation: d.uint64()}
		if o.node == "" || len(origins) > 0 && origins[len(origins)-1].compare(o) >= 0 {
			d.bad = true
		}
		if d.bad {
			return
		}
		origins = append(origins, o)
	}
	if len(origins) == 0 {
		return
	}
	used := make([]bool, len(origins))
	next := 0
	for range d.count(5) {
		gap := d.uvarint()
		if gap >= uint64(len(t.past)-next) {
			d.bad = true
		}
		if d.bad {
			return
		}
		at := next + int(gap)
		t.past[at].dots = d.dots(origins, used)
		next = at + 1
	}
	if slices.Contains(used, false) {
		d.bad = true
	}
}

// dots reads those of one partition.
func (d *decoder) dots(origins []origin, used []bool) *storage.DotSet {
	dots := &storage.DotSet{}
	before := -1
	count := d.count(3)
	for range count {
		ref := d.uvarint()
		if ref >= uint64(len(origins)) || int(ref) <= before {
			d.bad = true
		}
		runs := d.count(1)
		if d.bad || runs == 0 {
			d.bad = true
			return nil
		}
		before = int(ref)
		o := origins[ref]
		used[ref] = true
		next := uint64(1)
		for range runs {
			head, more := d.uvarint(), uint64(0)
			if head&1 == 1 {
				more = d.uvarint()
				more, d.bad = more+1, d.bad || more == math.MaxUint64
			}
			first, carry1 := bits.Add64(next, head>>1, 0)
			last, carry2 := bits.Add64(first, more, 0)
			if d.bad || carry1|carry2 != 0 || last >= maxSequence ||
				dots.AddRange(storage.DotRange{Node: o.node, Incarnation: o.incarnation, First: first, Last: last}) != nil {
				d.bad = true
				return nil
			}
			next = last + 2
		}
	}
	if count == 0 {
		d.bad = true
		return nil
	}
	return dots
}

// decoder takes fields off the front of rest. After the first that is not
// there, or not in its shortest form, bad is set and all others are zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	if d.bad {
		return 0
	}
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || n > 1 && d.rest[n-1] == 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads a number of things that take at least size bytes each, so that
// no room is made for what can not follow.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.bad = true
		return 0
	}
	return int(n)
}
