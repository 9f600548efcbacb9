package storage

import (
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/storage/fault"
)

// WriteTo streams the view. It holds one chunk in memory, and reads the data
// as it goes; nothing is copied beforehand.
func (v *ReplicaView) WriteTo(w io.Writer) (int64, error) {
	it, err := v.iterateAll()
	if err != nil {
		return 0, err
	}
	defer func() { _ = it.Close() }() // its errors are told by it.Error
	s := streamWriter{w: w}
	if err := v.stream(it, &s); err != nil {
		return s.written, fmt.Errorf("streaming the state of %v: %w", v.replica.replica, v.replica.damaged(err))
	}
	return s.written, nil
}

// StreamBytes is the exact length of what WriteTo writes. It has to read all
// of the view for that.
func (v *ReplicaView) StreamBytes() (int64, error) { return v.WriteTo(io.Discard) }

func (v *ReplicaView) iterateAll() (*pebble.Iterator, error) {
	state := v.replica.state
	if err := state.enter(); err != nil {
		return nil, err
	}
	defer state.leave()
	start, end := replicaSpan(v.replica.replica)
	return v.iterate(start, end)
}

func (v *ReplicaView) stream(it *pebble.Iterator, s *streamWriter) error {
	if err := s.head(v.applied); err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		_, kind, _, err := decodeReplicaKey(it.Key())
		if err != nil {
			return err
		}
		if kind == kindApplied {
			continue // the head has it
		}
		if kind == kindPromoted && fault.On(fault.SnapshotWithoutDots) {
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := checkRecord(it.Key()[replicaPrefixLen:], value, nil); err != nil {
			return err
		}
		if err := s.record(it.Key()[replicaPrefixLen:], value); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	return s.end()
}

// checkRecord refuses what does not belong into a stream, at both ends of it.
// key is relative to the replica.
func checkRecord(key, value []byte, nodes *nodeNames) error {
	if len(key) == 0 {
		return corrupt("record without a key")
	}
	if err := checkKind(key[0], key[1:]); err != nil {
		return err
	}
	switch kind := key[0]; {
	case kind == kindKey:
		_, err := decodeValue(value, nodes)
		return err
	case kind >= kindLedger && kind <= kindTombstone:
		return checkLedgerRecord(kind, key[1:], value, nodes)
	}
	return corrupt("record of kind %#x, which does not belong into a stream", key[0])
}
