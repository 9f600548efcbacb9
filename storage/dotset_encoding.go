package storage

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/capstan-kv/capstan/partition"
)

// A set of dots is
//
//	format (1) = 1 | nodes | each node, in byte order of the ids:
//	  length (1) | id | incarnations | each incarnation, in rising order:
//	    incarnation (8) | runs | each run, in rising order:
//	      numbers left out before it | numbers in it, less 1
//
// The incarnation is little endian; every other number is an unsigned varint in
// its shortest form. Before a run but the first at least one number is left
// out, and that one is not counted. So a set has exactly one encoding, and an
// incarnation without gaps takes 11 to 19 bytes.
const dotSetFormat = 1

// minRunLen and minOriginLen are the fewest bytes of a run and an incarnation:
// a count beyond what can follow it is refused before room is made for it.
const (
	minRunLen    = 2
	minOriginLen = 8 + 1 + minRunLen
	minNodeLen   = 1 + 1 + 1 + minOriginLen
)

// AppendDotSet appends the encoding of s to dst. Equal sets encode equally.
func AppendDotSet(dst []byte, s *DotSet) []byte {
	dst = append(dst, dotSetFormat)
	nodes := 0
	for i := range s.origins {
		if i == 0 || s.origins[i].node != s.origins[i-1].node {
			nodes++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(nodes))
	for rest := s.origins; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].node == rest[0].node {
			n++
		}
		dst = append(dst, byte(len(rest[0].node)))
		dst = append(dst, rest[0].node...)
		dst = binary.AppendUvarint(dst, uint64(n))
		for i := range rest[:n] {
			dst = rest[i].append(dst)
		}
		rest = rest[n:]
	}
	return dst
}

func (o *dotOrigin) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, o.incarnation)
	dst = binary.AppendUvarint(dst, uint64(len(o.runs)))
	next := uint64(1) // the lowest that the run may begin with
	for _, r := range o.runs {
		dst = binary.AppendUvarint(dst, r.first-next)
		dst = binary.AppendUvarint(dst, r.last-r.first)
		next = r.last + 2 // not used behind the last run, where it may be 0 or 1
	}
	return dst
}

// DecodeDotSet reads one set, which must be all of b. The set shares nothing
// with b. What AppendDotSet would not have written is an error, [ErrCorrupt].
func DecodeDotSet(b []byte) (*DotSet, error) {
	if len(b) == 0 || b[0] != dotSetFormat {
		return nil, corrupt("set of dots of unknown format")
	}
	d := dotDecoder{decoder: decoder{rest: b[1:]}}
	s := &DotSet{ownsOrigins: true}
	var last partition.NodeID
	for range d.count(minNodeLen) {
		node := partition.NodeID(d.bytes(int(d.byte())))
		if !d.short && node <= last { // "" is below all, so it is refused too
			return nil, corrupt("set of dots with node %q after %q", node, last)
		}
		last = node
		n := d.count(minOriginLen)
		if !d.short && n == 0 {
			return nil, corrupt("set of dots with nothing of node %q", node)
		}
		for i := range n {
			o := dotOrigin{node: node, incarnation: d.uint64(), ownsRuns: true}
			if i > 0 && !d.short && o.incarnation <= s.origins[len(s.origins)-1].incarnation {
				return nil, corrupt("set of dots with incarnations of %q out of order", node)
			}
			if err := d.runs(&o, MaxDotSpans-s.spans); err != nil {
				return nil, err
			}
			s.origins = append(s.origins, o)
			s.spans += len(o.runs)
		}
	}
	switch {
	case d.short:
		return nil, corrupt("set of dots of %d bytes is cut short, or holds a number in a longer form than it needs", len(b))
	case len(d.rest) != 0:
		return nil, corrupt("set of dots with %d bytes behind it", len(d.rest))
	}
	return s, nil
}

// dotDecoder is a decoder of the numbers in a set.
type dotDecoder struct{ decoder }

// runs reads at most room runs.
func (d *dotDecoder) runs(o *dotOrigin, room int) error {
	n := d.count(minRunLen)
	switch {
	case d.short:
		return nil
	case n == 0:
		return corrupt("set of dots with an empty incarnation of %q", o.node)
	case n > room:
		return corrupt("set of dots with more than %d runs", MaxDotSpans)
	}
	o.runs = make([]dotRun, 0, n)
	next, ended := uint64(1), false
	for range n {
		gap, extent := d.uvarint(), d.uvarint()
		first, carry1 := bits.Add64(next, gap, 0)
		last, carry2 := bits.Add64(first, extent, 0)
		if ended || carry1|carry2 != 0 {
			return corrupt("set of dots with a run of %q beyond the highest number", o.node)
		}
		o.runs = append(o.runs, dotRun{first, last})
		next, ended = last+2, last >= math.MaxUint64-1
	}
	return nil
}

// count reads a number of things that take at least size bytes each.
func (d *dotDecoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.short = true
		return 0
	}
	return int(n)
}

// uvarint reads a number in its shortest form.
func (d *dotDecoder) uvarint() uint64 {
	if d.short {
		return 0
	}
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || n > 1 && d.rest[n-1] == 0 {
		d.short = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}
