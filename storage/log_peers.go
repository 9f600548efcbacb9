package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/partition"
)

// PeerReplica names a replica of another node.
type PeerReplica struct {
	Node    partition.NodeID
	Replica Replica
}

// PeerRecord is what this node has saved about a replica of another node. The bytes
// are the caller's.
type PeerRecord struct {
	PeerReplica
	Record []byte // empty: erase it
}

func logPeerKey(p PeerReplica) []byte {
	return append(logKey(logSpacePeers, p.Replica, len(p.Node)), p.Node...)
}

// SavePeers saves or erases records, all or none of them. It does not wait for the
// disk: after a power cut the last ones may be missing.
func (l *Log) SavePeers(records []PeerRecord) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	b := l.db.NewBatch()
	for _, r := range records {
		var err error
		if key := logPeerKey(r.PeerReplica); len(r.Record) == 0 {
			err = b.Delete(key, nil)
		} else {
			err = b.Set(key, r.Record, nil)
		}
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return l.commit(b, pebble.NoSync)
}

// Peers are all records that [Log.SavePeers] has saved.
func (l *Log) Peers() ([]PeerRecord, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{logSpacePeers}, UpperBound: []byte{logSpacePeers + 1}})
	if err != nil {
		return nil, err
	}
	var records []PeerRecord
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()
		if len(key) <= logReplicaKeyLen {
			return nil, errors.Join(fmt.Errorf("%w: key %x is no peer's", ErrLogCorrupt, key), it.Close())
		}
		records = append(records, PeerRecord{
			PeerReplica: PeerReplica{
				Node:    partition.NodeID(key[logReplicaKeyLen:]),
				Replica: Replica{Group: GroupID(binary.BigEndian.Uint32(key[1:])), Generation: binary.BigEndian.Uint32(key[5:])},
			},
			Record: append([]byte(nil), it.Value()...),
		})
	}
	return records, errors.Join(it.Error(), it.Close())
}
