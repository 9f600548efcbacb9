package raftlog

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// Open is the store over a replica's part of the node's log database.
func Open(rl *storage.ReplicaLog) (*Store, error) { return newStore(sharedDisk{rl}) }

// sharedDisk is a replica's part of the node's log database.
type sharedDisk struct{ log *storage.ReplicaLog }

func (d sharedDisk) Bounds() (first, last uint64, err error) {
	first, last = d.log.Bounds()
	return first, last, nil
}

func (d sharedDisk) Read(index uint64, into *raft.Log) error {
	e, err := d.log.Entry(index)
	if errors.Is(err, storage.ErrLogNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	*into = fromEntry(e)
	return nil
}

func fromEntry(e storage.LogEntry) raft.Log {
	l := raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogType(e.Type), Data: e.Data, Extensions: e.Extensions}
	if e.AppendedAt != 0 {
		l.AppendedAt = time.Unix(0, e.AppendedAt)
	}
	return l
}

func (d sharedDisk) Append(logs []*raft.Log) error { return d.log.Append(toEntries(logs...)) }

func (d sharedDisk) Replace(logs []*raft.Log) error { return d.log.Replace(toEntries(logs...)) }

func toEntries(logs ...*raft.Log) []storage.LogEntry {
	entries := make([]storage.LogEntry, len(logs))
	for i, l := range logs {
		entries[i] = storage.LogEntry{Index: l.Index, Term: l.Term, Type: uint8(l.Type), Data: l.Data, Extensions: l.Extensions}
		if !l.AppendedAt.IsZero() {
			entries[i].AppendedAt = l.AppendedAt.UnixNano()
		}
	}
	return entries
}

func (d sharedDisk) DropPrefix(to uint64) error { return d.log.DropPrefix(to) }

func (d sharedDisk) Value(name string) ([]byte, error) {
	v, err := d.log.Get(name)
	if errors.Is(err, storage.ErrLogNotFound) {
		return nil, errNotFound
	}
	return v, err
}

func (d sharedDisk) SetValue(name string, value []byte) error {
	return d.log.Set(storage.LogValue{Name: name, Value: value})
}

func (d sharedDisk) Bootstrap(entry *raft.Log) error {
	term := binary.BigEndian.AppendUint64(nil, entry.Term)
	return d.log.Bootstrap(toEntries(entry), storage.LogValue{Name: keyCurrentTerm, Value: term})
}

func (d sharedDisk) Bootstrapped() (bool, error) { return d.log.Bootstrapped() }

func (d sharedDisk) Stalled() time.Duration { return d.log.Stalled() }

// Close leaves the database to its owner.
func (d sharedDisk) Close() error { return nil }
