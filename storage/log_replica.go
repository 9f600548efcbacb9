package storage

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// ReplicaLog is the Raft log and the stable values of one replica. Its entries
// are always without holes. What it has acknowledged is durable.
type ReplicaLog struct {
	log     *Log
	replica Replica

	// write orders the writers, and Get behind them: Pebble shows a write
	// before it is durable, and nobody may act on a vote that is not.
	write     sync.Mutex
	destroyed atomic.Bool

	bounds      sync.RWMutex
	first, last uint64 // 0 when empty; moved only after the write is durable

	waits    sync.Mutex
	nextWait uint64
	waiting  map[uint64]time.Time // when each Append, Set, ... now in flight began
}

// LogValue is a stable value. Names are 1 to 255 bytes.
type LogValue struct {
	Name  string
	Value []byte
}

// Replica names whose log this is.
func (rl *ReplicaLog) Replica() Replica { return rl.replica }

func (rl *ReplicaLog) load() error {
	it, err := rl.log.db.NewIter(&pebble.IterOptions{
		LowerBound: logEntryKey(rl.replica, 0),
		UpperBound: logEntriesEnd(rl.replica),
	})
	if err != nil {
		return err
	}
	var first, last uint64
	if it.First() {
		first, err = logParseEntryKey(it.Key())
		if err == nil && it.Last() {
			last, err = logParseEntryKey(it.Key())
		}
	}
	if err := errors.Join(err, it.Close()); err != nil {
		return err
	}
	rl.setBounds(first, last)
	return nil
}

func (rl *ReplicaLog) setBounds(first, last uint64) {
	rl.bounds.Lock()
	rl.first, rl.last = first, last
	rl.bounds.Unlock()
}

// Bounds are the first and last index, both 0 when the log is empty.
func (rl *ReplicaLog) Bounds() (first, last uint64) {
	rl.bounds.RLock()
	defer rl.bounds.RUnlock()
	return rl.first, rl.last
}

// FirstIndex is the first entry's index, 0 when empty.
func (rl *ReplicaLog) FirstIndex() uint64 { first, _ := rl.Bounds(); return first }

// LastIndex is the last entry's index, 0 when empty.
func (rl *ReplicaLog) LastIndex() uint64 { _, last := rl.Bounds(); return last }

func (rl *ReplicaLog) usable() error {
	if rl.destroyed.Load() {
		return fmt.Errorf("%w: %s", ErrLogDestroyed, rl.replica)
	}
	return nil
}

func (rl *ReplicaLog) enter() error {
	if err := rl.log.enter(); err != nil {
		return err
	}
	if err := rl.usable(); err != nil {
		rl.log.leave()
		return err
	}
	return nil
}

// Stalled is how long the oldest write now in flight on this replica has been
// waiting; 0 if there is none.
func (rl *ReplicaLog) Stalled() time.Duration {
	rl.waits.Lock()
	defer rl.waits.Unlock()
	var longest time.Duration
	for _, since := range rl.waiting {
		longest = max(longest, time.Since(since))
	}
	return longest
}

// begin starts a write: it is in flight from here on, and alone after its turn
// has come. The caller calls end.
func (rl *ReplicaLog) begin() (end func(), err error) {
	if err := rl.enter(); err != nil {
		return nil, err
	}
	rl.waits.Lock()
	id := rl.nextWait
	rl.nextWait++
	rl.waiting[id] = time.Now()
	rl.waits.Unlock()
	rl.write.Lock()
	end = func() {
		rl.write.Unlock()
		rl.waits.Lock()
		delete(rl.waiting, id)
		rl.waits.Unlock()
		rl.log.leave()
	}
	if err := errors.Join(rl.usable(), rl.log.Failure()); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// Entry reads one entry; [ErrLogNotFound] if it is not there. What can not be read fails
// the database.
func (rl *ReplicaLog) Entry(index uint64) (LogEntry, error) {
	if err := rl.enter(); err != nil {
		return LogEntry{}, err
	}
	defer rl.log.leave()
	e, err := rl.entry(index)
	if err == nil || !errors.Is(err, ErrLogNotFound) || !rl.within(index) {
		return e, rl.log.readFailed(err)
	}
	// The log was cut meanwhile; once no write is under way, that shows.
	rl.write.Lock()
	defer rl.write.Unlock()
	if e, err = rl.entry(index); errors.Is(err, ErrLogNotFound) && rl.within(index) && rl.usable() == nil {
		first, last := rl.Bounds()
		err = fmt.Errorf("%s: entry %d is missing between %d and %d", rl.replica, index, first, last)
	}
	return e, rl.log.readFailed(err)
}

func (rl *ReplicaLog) within(index uint64) bool {
	first, last := rl.Bounds()
	return index >= first && index <= last && index != 0
}

func (rl *ReplicaLog) entry(index uint64) (LogEntry, error) {
	notFound := func() (LogEntry, error) {
		return LogEntry{}, fmt.Errorf("%s entry %d: %w", rl.replica, index, ErrLogNotFound)
	}
	if !rl.within(index) {
		return notFound()
	}
	record, closer, err := rl.log.db.Get(logEntryKey(rl.replica, index))
	if errors.Is(err, pebble.ErrNotFound) {
		return notFound()
	}
	if err != nil {
		return LogEntry{}, fmt.Errorf("%s entry %d: %w", rl.replica, index, err)
	}
	e, err := decodeLogEntry(index, record)
	return e, errors.Join(err, closer.Close())
}

// Append writes entries, whose indexes follow each other, in one synced batch. Where
// they overlap the log, its suffix from the first of them on is replaced. Where they
// begin beyond the next index, all before them is dropped: that is a log which begins
// anew behind a snapshot. Entries below the first index are [ErrLogOrder].
func (rl *ReplicaLog) Append(entries []LogEntry) error {
	if len(entries) == 0 {
		return nil
	}
	return rl.rewrite(false, entries)
}

// Replace drops all entries and writes these, whose indexes follow each other, in one
// synced batch. There may be none.
func (rl *ReplicaLog) Replace(entries []LogEntry) error { return rl.rewrite(true, entries) }

func (rl *ReplicaLog) rewrite(dropAll bool, entries []LogEntry) error {
	if err := checkLogOrder(entries); err != nil {
		return fmt.Errorf("%s: %w", rl.replica, err)
	}
	end, err := rl.begin()
	if err != nil {
		return err
	}
	defer end()
	first, last := rl.Bounds()
	size := 0
	for i := range entries {
		size += entries[i].recordSize() + logReplicaKeyLen + 9 + 16
	}
	b := rl.log.db.NewBatchWithSize(size)
	newFirst, newLast := first, last
	if len(entries) > 0 {
		from := entries[0].Index
		newLast = entries[len(entries)-1].Index
		switch {
		case last == 0:
			newFirst = from
		case dropAll, from > last+1:
			newFirst, dropAll = from, true
		case from < first:
			return errors.Join(fmt.Errorf("%w: %s begins at %d, entry %d", ErrLogOrder, rl.replica, first, from), b.Close())
		case from <= last:
			err = rl.deleteEntries(b, from, last)
		}
	} else if dropAll {
		newFirst, newLast = 0, 0
	}
	if dropAll && last != 0 {
		err = errors.Join(err, rl.deleteEntries(b, first, last))
	}
	for i := 0; i < len(entries) && err == nil; i++ {
		err = rl.putEntry(b, &entries[i])
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	if err := rl.log.commit(b, pebble.Sync); err != nil {
		return err
	}
	rl.setBounds(newFirst, newLast)
	return nil
}

func checkLogOrder(entries []LogEntry) error {
	for i := range entries {
		if entries[i].Index == 0 || entries[i].Index == math.MaxUint64 || entries[i].Index != entries[0].Index+uint64(i) {
			return fmt.Errorf("%w: entry %d stands at place %d behind %d", ErrLogOrder, entries[i].Index, i, entries[0].Index)
		}
	}
	return nil
}

func (rl *ReplicaLog) putEntry(b *pebble.Batch, e *LogEntry) error {
	op := b.SetDeferred(logReplicaKeyLen+9, e.recordSize())
	copy(op.Key, logEntryKey(rl.replica, e.Index))
	e.encodeInto(op.Value)
	return op.Finish()
}

func (rl *ReplicaLog) deleteEntries(b *pebble.Batch, from, to uint64) error {
	return b.DeleteRange(logEntryKey(rl.replica, from), logEntryKey(rl.replica, to+1), nil)
}

// DropPrefix cuts off the entries up to that index; where there are none, nothing
// happens. It is not durable on return: what comes back after a crash is cut off again.
// A suffix is never cut off by itself, see [ReplicaLog.Append]: the log would end below
// what it had acknowledged.
func (rl *ReplicaLog) DropPrefix(to uint64) error {
	end, err := rl.begin()
	if err != nil {
		return err
	}
	defer end()
	first, last := rl.Bounds()
	to = min(to, last)
	if last == 0 || to < first {
		return nil
	}
	b := rl.log.db.NewBatch()
	if err := rl.deleteEntries(b, first, to); err != nil {
		return errors.Join(err, b.Close())
	}
	// Readers must not meet a hole between the bounds, so they shrink first.
	if to == last {
		rl.setBounds(0, 0)
	} else {
		rl.setBounds(to+1, last)
	}
	return rl.log.commit(b, pebble.NoSync)
}

// Set writes stable values in one synced batch: after a crash all of them are
// there, or none.
func (rl *ReplicaLog) Set(values ...LogValue) error {
	end, err := rl.begin()
	if err != nil {
		return err
	}
	defer end()
	b := rl.log.db.NewBatch()
	if err := rl.putValues(b, values); err != nil {
		return errors.Join(err, b.Close())
	}
	return rl.log.commit(b, pebble.Sync)
}

func (rl *ReplicaLog) putValues(b *pebble.Batch, values []LogValue) error {
	for _, v := range values {
		if len(v.Name) == 0 || len(v.Name) > 255 {
			return fmt.Errorf("name of a stable value has %d bytes, not 1 to 255", len(v.Name))
		}
		if err := b.Set(logValueKey(rl.replica, v.Name), v.Value, nil); err != nil {
			return err
		}
	}
	return nil
}

// Get reads a stable value; [ErrLogNotFound] if it was never set. It waits for
// writes in flight on this replica and never sees one that is not durable.
func (rl *ReplicaLog) Get(name string) ([]byte, error) {
	if err := rl.enter(); err != nil {
		return nil, err
	}
	defer rl.log.leave()
	rl.write.Lock()
	defer rl.write.Unlock()
	return rl.get(logValueKey(rl.replica, name))
}

func (rl *ReplicaLog) get(key []byte) ([]byte, error) {
	if err := errors.Join(rl.usable(), rl.log.Failure()); err != nil {
		return nil, err
	}
	value, closer, err := rl.log.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrLogNotFound
	}
	if err != nil {
		return nil, rl.log.readFailed(fmt.Errorf("%s, a stable value: %w", rl.replica, err))
	}
	return append([]byte{}, value...), closer.Close()
}

// Bootstrap writes the first entries and values of a new replica, and that it
// has done so, in one synced batch. Done before, it does nothing; if there are
// entries from elsewhere, it is [ErrLogExists].
func (rl *ReplicaLog) Bootstrap(entries []LogEntry, values ...LogValue) error {
	if err := checkLogOrder(entries); err != nil {
		return fmt.Errorf("%s: %w", rl.replica, err)
	}
	if len(entries) == 0 {
		return fmt.Errorf("%w: nothing to bootstrap %s with", ErrLogOrder, rl.replica)
	}
	end, err := rl.begin()
	if err != nil {
		return err
	}
	defer end()
	switch _, err := rl.get(logBootstrappedKey(rl.replica)); {
	case err == nil:
		return nil
	case !errors.Is(err, ErrLogNotFound):
		return err
	case rl.LastIndex() != 0:
		return fmt.Errorf("%s: %w", rl.replica, ErrLogExists)
	}
	b := rl.log.db.NewBatch()
	err = rl.putValues(b, values)
	for i := 0; i < len(entries) && err == nil; i++ {
		err = rl.putEntry(b, &entries[i])
	}
	if err == nil {
		err = b.Set(logBootstrappedKey(rl.replica), []byte{logNodeFormat}, nil)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	if err := rl.log.commit(b, pebble.Sync); err != nil {
		return err
	}
	rl.setBounds(entries[0].Index, entries[len(entries)-1].Index)
	return nil
}

// Used tells whether the replica has any entry or value at all, and so may have
// made promises.
func (rl *ReplicaLog) Used() (bool, error) {
	if err := rl.enter(); err != nil {
		return false, err
	}
	defer rl.log.leave()
	it, err := rl.log.db.NewIter(&pebble.IterOptions{
		LowerBound: logKey(logSpaceReplica, rl.replica, 0),
		UpperBound: logReplicaEnd(rl.replica),
	})
	if err != nil {
		return false, err
	}
	return it.First(), it.Close()
}

// Bootstrapped tells whether Bootstrap was done on this replica.
func (rl *ReplicaLog) Bootstrapped() (bool, error) {
	if err := rl.enter(); err != nil {
		return false, err
	}
	defer rl.log.leave()
	rl.write.Lock()
	defer rl.write.Unlock()
	_, err := rl.get(logBootstrappedKey(rl.replica))
	if errors.Is(err, ErrLogNotFound) {
		return false, nil
	}
	return err == nil, err
}
