package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Blob is the whole state of a small group, kept as one record together with
// the log position that it stands for. Safe for concurrent use.
type Blob struct {
	state   *State
	replica Replica
	key     []byte
}

// BlobRecord is what a Blob holds; the zero value if nothing was stored.
type BlobRecord struct {
	Index, Term uint64
	Data        []byte
}

// MaxBlobBytes bounds a blob's data: it is rewritten whole with each change.
const MaxBlobBytes = 8 << 20

// A blob record is format (1) = 1 | index (8) | term (8) | data, little endian.
const (
	blobFormat   = 1
	blobFixedLen = 1 + 8 + 8
)

// Blob opens r's blob. A replica holds either a blob or an applied keyspace.
func (s *State) Blob(r Replica) *Blob {
	return &Blob{state: s, replica: r, key: append(replicaPrefix(r), kindBlob)}
}

// Load reads the record. Data is the caller's to keep.
func (b *Blob) Load() (BlobRecord, error) {
	if err := b.state.enter(); err != nil {
		return BlobRecord{}, err
	}
	defer b.state.leave()
	encoded, closer, err := b.state.db.Get(b.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return BlobRecord{}, nil
	}
	if err != nil {
		return BlobRecord{}, fmt.Errorf("blob of %v: %w", b.replica, stateDamage(err))
	}
	defer closer.Close()
	record, err := decodeBlob(encoded)
	if err != nil {
		return BlobRecord{}, fmt.Errorf("blob of %v: %w", b.replica, stateDamage(err))
	}
	return record, nil
}

func decodeBlob(b []byte) (BlobRecord, error) {
	if len(b) < blobFixedLen || b[0] != blobFormat || len(b) > blobFixedLen+MaxBlobBytes {
		return BlobRecord{}, corrupt("blob record of %d bytes or unknown format", len(b))
	}
	return BlobRecord{
		Index: binary.LittleEndian.Uint64(b[1:]),
		Term:  binary.LittleEndian.Uint64(b[9:]),
		Data:  append([]byte{}, b[blobFixedLen:]...),
	}, nil
}

func encodeBlob(record BlobRecord) []byte {
	b := make([]byte, 0, blobFixedLen+len(record.Data))
	b = append(b, blobFormat)
	b = binary.LittleEndian.AppendUint64(b, record.Index)
	b = binary.LittleEndian.AppendUint64(b, record.Term)
	return append(b, record.Data...)
}

// Store replaces the record in one step. It is durable after the next Sync of
// the database.
func (b *Blob) Store(record BlobRecord) error { return b.store(record, pebble.NoSync) }

// StoreSync is Store, and durable when it returns, with all that was stored
// in the database before it.
func (b *Blob) StoreSync(record BlobRecord) error { return b.store(record, pebble.Sync) }

func (b *Blob) store(record BlobRecord, durable *pebble.WriteOptions) error {
	if len(record.Data) > MaxBlobBytes {
		return fmt.Errorf("blob of %v: %d bytes, at most %d are allowed", b.replica, len(record.Data), MaxBlobBytes)
	}
	if err := b.state.enter(); err != nil {
		return err
	}
	defer b.state.leave()
	err := b.state.guard(func() error { return b.state.db.Set(b.key, encodeBlob(record), durable) })
	if err != nil {
		return fmt.Errorf("storing the blob of %v: %w", b.replica, err)
	}
	return nil
}
