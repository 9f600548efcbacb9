package storage

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// MaxCollected bounds the tombstones that one floor command removes: some
// milliseconds of work. The rest goes with the next command.
const MaxCollected = 4096

func tombstoneKey(index uint64, key []byte) []byte {
	k := append(make([]byte, 0, 1+8+len(key)), kindTombstone)
	return append(binary.BigEndian.AppendUint64(k, index), key...)
}

// tombstones iterates over the places of tombstones at or below floor. A place
// stays when the key is written again, until the floor passes it.
func (r *ReplicaState) tombstones(floor uint64) (*pebble.Iterator, error) {
	lower := append(slices.Clip(r.prefix), kindTombstone)
	upper := prefixEnd(lower)
	if floor < math.MaxUint64 {
		upper = binary.BigEndian.AppendUint64(slices.Clone(lower), floor+1)
	}
	return r.iterate(lower, upper)
}

// Collectable reports whether a floor command, see [AppendFloor], would remove
// anything now, be it that more than [MaxCollected] were there for the last one.
func (r *ReplicaState) Collectable(floor uint64) bool {
	if r.state.enter() != nil {
		return false
	}
	defer r.state.leave()
	it, err := r.tombstones(max(floor, r.Floor()))
	if err != nil {
		return false
	}
	found := it.First()
	return r.damaged(it.Close()) == nil && found
}

// applyFloor raises the floor and removes tombstones behind it. The batch holds
// only this entry: what is in the database is all that was written at a lower
// index, and so what is removed does not depend on how entries were batched.
func (r *ReplicaState) applyFloor(index, floor, most uint64) (err error) {
	c := &r.change
	if floor = min(floor, index-1); floor > c.floor {
		c.floor, c.changed = floor, true
	}
	it, err := r.tombstones(c.floor)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	steps := uint64(0)
	for ok := it.First(); ok && steps < most; ok = it.Next() {
		steps++
		_, _, rest, err := decodeReplicaKey(it.Key())
		if err != nil {
			return err
		}
		at, key := binary.BigEndian.Uint64(rest), rest[8:]
		if err := r.collect(at, key); err != nil {
			return err
		}
	}
	return it.Error()
}

// collect removes the tombstone that was written to key at an index, unless
// something else has taken its place since.
func (r *ReplicaState) collect(at uint64, key []byte) error {
	if err := r.deleteRecord(tombstoneKey(at, key)); err != nil {
		return err
	}
	held, closer, err := r.held(key)
	if err != nil {
		return err
	}
	gone := held != nil && held.Tombstone && held.Version.Index == at
	if closer != nil {
		if err := closer.Close(); err != nil {
			return err
		}
	}
	if !gone {
		return nil
	}
	return r.removeKey(key)
}
