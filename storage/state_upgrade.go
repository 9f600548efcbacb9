package storage

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// upgrade brings a database of format 1 to the present one: it notes the places
// of all tombstones, which format 1 did not have. Broken off, it begins anew.
func (s *State) upgrade() (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tagReplica}, UpperBound: []byte{tagReplica + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	b := s.db.NewBatch()
	defer func() { err = errors.Join(err, b.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		r, kind, key, err := decodeReplicaKey(it.Key())
		if err != nil {
			return err
		}
		if kind != kindKey {
			continue
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		v, err := decodeValue(record, nil)
		if err != nil {
			return err
		}
		if !v.Tombstone {
			continue
		}
		if err := b.Set(append(replicaPrefix(r), tombstoneKey(v.Version.Index, key)...), nil, nil); err != nil {
			return err
		}
		if b.Len() > maxApplyBatchBytes {
			if err := b.Commit(pebble.NoSync); err != nil {
				return err
			}
			b.Reset()
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	if err := b.Set(formatKey, binary.LittleEndian.AppendUint32(nil, stateFormat), nil); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}
