package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// Bounds of a partition's conflict list. Beyond any of them the oldest entries
// are dropped, and counted.
const (
	MaxConflicts = 10_000
	// MaxConflictBytes counts keys and values, and conflictOverheadBytes each.
	MaxConflictBytes = 16 << 20
	// MaxConflictAge is time that the partition lived through, see Promotion.Lived:
	// no clock that is set forward makes a conflict old. It is looked at when writes
	// are promoted.
	MaxConflictAge = 7 * 24 * time.Hour
	// MaxConflictDrops bounds what one promotion drops, so that no single command
	// empties the list, or takes long. A promotion lists no more than that.
	MaxConflictDrops = MaxPromotionWrites

	conflictOverheadBytes = 128
)

// Conflict is a write that lost, kept for a look.
type Conflict struct {
	Key   []byte
	Value []byte // none of a delete
	// Losing is the version of the write that lost. Its index is 0 if it was
	// never committed.
	Losing Version
	// Winning is the version of the write that it lost to, as in its fate; zero if
	// the loser's base was below the partition's floor. A linearizable write is
	// named here also if an eventual one has replaced it since.
	Winning Version
	// Time is when it lost, by the leader's clock.
	Time   hlc.Timestamp
	Delete bool // the write that lost was a delete
	Cause  SupersededCause
	Base   uint64 // of the write that lost
}

// ConflictTotals count the writes that this replica has seen lose since it was
// opened, by their cause.
type ConflictTotals struct{ StaleBase, Older uint64 }

func conflictCost(keyBytes, valueBytes int) uint64 {
	return uint64(keyBytes + valueBytes + conflictOverheadBytes)
}

func conflictPlaceKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindConflictPlace}, number)
}

// addConflict lists c.
func (r *ReplicaState) addConflict(c *Conflict) error {
	l := &r.change
	if l.firstConflict == l.nextConflict {
		l.oldestConflict, l.oldestLived = c.Time, l.lived
	}
	place := conflictPlace{c.Time, l.lived, uint32(len(c.Value)), c.Key}
	if err := r.setLedger(conflictPlaceKey(l.nextConflict), place.encode()); err != nil {
		return err
	}
	if err := r.setRecord(conflictKey(c.Key, l.nextConflict), c.encode()); err != nil {
		return err
	}
	l.nextConflict++
	l.conflictBytes += conflictCost(len(c.Key), len(c.Value))
	if c.Cause == CauseStaleBase {
		r.superseded.staleBase.Add(1)
	} else {
		r.superseded.older.Add(1)
	}
	return nil
}

// dropConflicts drops the oldest ones, as far as they are beyond a bound, and no
// more than one command may.
func (r *ReplicaState) dropConflicts(p *Promotion) error {
	l, most := &r.change, &p.limits
	n := l.nextConflict - l.firstConflict
	for left := min(n, most.conflictDrops); left > 0; left, n = left-1, n-1 {
		age := l.lived - l.oldestLived
		if most.former {
			age = p.Now.Time().Sub(l.oldestConflict.Time())
		}
		if n <= most.conflicts && l.conflictBytes <= most.conflictBytes && age <= most.conflictAge {
			return nil
		}
		if err := r.dropConflict(); err != nil {
			return fmt.Errorf("conflict %d: %w", l.firstConflict, err)
		}
	}
	return nil
}

func (r *ReplicaState) dropConflict() error {
	l := &r.change
	place, err := r.conflictPlace(l.firstConflict)
	if err != nil {
		return err
	}
	if err := r.deleteRecord(conflictKey(place.key, l.firstConflict)); err != nil {
		return err
	}
	if err := r.deleteLedger(conflictPlaceKey(l.firstConflict)); err != nil {
		return err
	}
	l.firstConflict++
	l.droppedConflicts++
	l.conflictBytes -= min(l.conflictBytes, conflictCost(len(place.key), int(place.valueBytes)))
	l.oldestConflict, l.oldestLived = 0, 0
	if l.firstConflict < l.nextConflict {
		place, err := r.conflictPlace(l.firstConflict)
		if err != nil {
			return err
		}
		l.oldestConflict, l.oldestLived = place.time, place.lived
	}
	return nil
}

func (r *ReplicaState) conflictPlace(number uint64) (conflictPlace, error) {
	record, err := r.ledgerRecord(conflictPlaceKey(number))
	if err != nil {
		return conflictPlace{}, err
	}
	return decodeConflictPlace(record)
}

// Conflicts reads a page of the partition's conflict list: of the keys that
// begin with prefix, in byte order of the keys, the older of one key first. The
// first page is asked for with no cursor, each further one with next of the page
// before; next is nil with the last page. limit 0 means as many as the page's
// bound in bytes allows. A page before the last has at least one conflict.
//
// A cursor is bytes of this replica's making, but means the same at all
// replicas. What is listed or dropped between two pages may be missing.
func (r *ReplicaState) Conflicts(prefix, cursor []byte, limit int) (page []Conflict, next []byte, err error) {
	if len(prefix) > MaxKeyBytes || len(cursor) > maxConflictKeyBytes || limit < 0 {
		return nil, nil, fmt.Errorf("conflicts with a prefix of %d bytes, a cursor of %d, and limit %d", len(prefix), len(cursor), limit)
	}
	if err := r.state.enter(); err != nil {
		return nil, nil, err
	}
	defer r.state.leave()
	defer func() { err = r.damaged(err) }()
	all := append(slices.Clip(r.prefix), kindConflict)
	lower := appendEscapedKey(slices.Clone(all), prefix)
	it, err := r.iterate(lower, prefixEnd(lower))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if r.destroyed.Load() {
		return nil, nil, ErrReplicaDestroyed
	}
	size := 0
	for ok := it.SeekGE(append(all, cursor...)); ok; ok = it.Next() {
		rest := it.Key()[len(all):]
		if limit > 0 && len(page) == limit || size >= maxScanPageBytes {
			return page, bytes.Clone(rest), it.Error()
		}
		key, err := decodeConflictKey(rest)
		if err != nil {
			return nil, nil, err
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return nil, nil, err
		}
		c, err := decodeConflict(key, record, &r.nodes)
		if err != nil {
			return nil, nil, fmt.Errorf("%v, conflict of key %q: %w", r.replica, key, err)
		}
		c.Value = append([]byte{}, c.Value...)
		page = append(page, c)
		size += len(c.Key) + len(c.Value)
	}
	return page, nil, it.Error()
}

// ConflictCounts is how many conflicts are listed, and how many were dropped
// from the list by its bounds ever since the partition began.
func (r *ReplicaState) ConflictCounts() (listed, dropped uint64) {
	l := r.ledger.Load()
	return l.nextConflict - l.firstConflict, l.droppedConflicts
}

// ConflictTotals counts what was listed here since the replica was opened. What
// is applied again after a crash counts again.
func (r *ReplicaState) ConflictTotals() ConflictTotals {
	return ConflictTotals{StaleBase: r.superseded.staleBase.Load(), Older: r.superseded.older.Load()}
}
