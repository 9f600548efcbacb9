package partition

import (
	"bytes"
	"fmt"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// MaxCount is the highest number of partitions: each costs a Raft group, and
// more than a thousand of them no machine should carry.
const MaxCount = 1024

// ValidCount says whether a cluster may have n partitions: a power of two from
// 1 to [MaxCount].
func ValidCount(n int) error {
	if n < 1 || n > MaxCount || n&(n-1) != 0 {
		return fmt.Errorf("partitions must be a power of two from 1 to %d, not %d", MaxCount, n)
	}
	return nil
}

// Tag is the part of a key that decides where it lives: what stands between
// the first '{' and the next '}' if that is not empty, else the whole key. The
// result shares the key's memory.
func Tag(key []byte) []byte {
	open := bytes.IndexByte(key, '{')
	if open < 0 {
		return key
	}
	rest := key[open+1:]
	if end := bytes.IndexByte(rest, '}'); end > 0 {
		return rest[:end]
	}
	return key
}

// Hash is the key's place in the hash space: XXH64 with seed 0 of its tag.
func Hash(key []byte) uint64 { return xxhash.Sum64(Tag(key)) }

// Of is the partition of a key among a valid number of partitions: the top
// bits of its hash.
func Of(key []byte, partitions int) ID {
	return ID(Hash(key) >> (64 - bits.TrailingZeros(uint(partitions))))
}

// point is where a partition begins in the hash space.
func point(p ID, partitions int) uint64 {
	return uint64(p) << (64 - bits.TrailingZeros(uint(partitions)))
}
