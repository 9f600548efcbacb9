package client

import (
	"bytes"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// partitionOf is the cluster's placement rule: the highest log2(partitions)
// bits of XXH64 over the key's hash tag. partitions must be a power of two.
func partitionOf(key []byte, partitions int) uint32 {
	// A shift by 64, for one partition, gives 0 in Go.
	return uint32(xxhash.Sum64(hashTag(key)) >> (64 - (bits.Len(uint(partitions)) - 1)))
}

// hashTag is what stands between the first "{" and the next "}", if that is
// not empty; else the whole key.
func hashTag(key []byte) []byte {
	_, rest, ok := bytes.Cut(key, []byte("{"))
	if !ok {
		return key
	}
	tag, _, ok := bytes.Cut(rest, []byte("}"))
	if !ok || len(tag) == 0 {
		return key
	}
	return tag
}

func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }
