package session

import "math/bits"

// Indexes are packed in blocks of bitsBlock, each as wide as its highest: what
// partitions of one cluster have applied is mostly of one size, and one that is
// far ahead costs its neighbours only.
const bitsBlock = 16

// packedLen is how many bytes n numbers of a width take.
func packedLen(n, width int) int { return (n*width + 7) / 8 }

// widthOf is that of the highest of values.
func widthOf(values []uint64) int {
	var all uint64
	for _, v := range values {
		all |= v
	}
	return bits.Len64(all)
}

// appendPacked appends values, the lowest bit of the first first.
func appendPacked(dst []byte, values []uint64, width int) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, packedLen(len(values), width))...)
	packed, at := dst[start:], 0
	for _, v := range values {
		for left := width; left > 0; {
			n := min(8-at%8, left)
			packed[at/8] |= byte(v) << (at % 8) // what is beyond n bits falls into place with the next
			if over := at%8 + n; over < 8 {
				packed[at/8] &= 1<<over - 1
			}
			v >>= n
			at, left = at+n, left-n
		}
	}
	return dst
}

// unpack fills values from what appendPacked wrote. It says whether the bits
// behind the last one are zero.
func unpack(packed []byte, values []uint64, width int) bool {
	at := 0
	for i := range values {
		var v uint64
		for got := 0; got < width; {
			n := min(8-at%8, width-got)
			piece := uint64(packed[at/8]>>(at%8)) & (1<<n - 1)
			v |= piece << got
			at, got = at+n, got+n
		}
		values[i] = v
	}
	return at%8 == 0 || packed[at/8]>>(at%8) == 0
}
