package jepsen

import (
	"bytes"
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// partitionOf is the cluster's rule from key to partition (docs/consistency.md,
// rule 1), once more: the record says where a key lives, also while nobody can be
// asked.
func partitionOf(key string, partitions int) int {
	// A shift by 64, for one partition, gives 0 in Go.
	return int(xxhash.Sum64(tagOf([]byte(key))) >> (64 - (bits.Len(uint(partitions)) - 1)))
}

// tagOf is what stands between the first "{" and the next "}", if that is not
// empty; else the whole key.
func tagOf(key []byte) []byte {
	if tag, whole := wholeTag(key); whole {
		return tag
	}
	return key
}

func wholeTag(key []byte) (tag []byte, whole bool) {
	_, rest, _ := bytes.Cut(key, []byte("{"))
	tag, _, whole = bytes.Cut(rest, []byte("}"))
	return tag, whole && len(tag) > 0
}

// placeOf is the partition of an operation's key; -1 for a scan whose prefix has
// no whole tag.
func placeOf(o *history.Op, partitions int) int {
	if _, whole := wholeTag([]byte(o.Key)); o.Func == history.Scan && !whole && partitions > 1 {
		return -1
	}
	return partitionOf(o.Key, partitions)
}
