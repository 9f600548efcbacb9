package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// The ledger is what a replica keeps about promotions beside the values: which
// dots were promoted, what became of the latest of them, which values lost, the
// floor, whose writes are forfeited, where the tombstones are. It is a part of
// the applied state: it changes with Apply only, in the same Pebble batch as
// the values, and streams carry it.

// ledger is the part of it that is held in memory, with the applied position
// that it is of: one pointer to both, so that who asks for one and then for the
// other, in whatever order, finds the second no older than the first. What is
// published is never changed.
type ledger struct {
	applied   position
	installed bool // applied came with a stage, see AppliedFromLog
	promoted  *DotSet
	forfeited map[partition.NodeID]uint64 // to the index of the command
	ledgerHead
}

// ledgerHead is the ledger's one record of numbers.
type ledgerHead struct {
	floor uint64
	// Pages of fates are numbered without gaps: [firstPage, nextPage) are there.
	firstPage, nextPage uint64
	fates               uint64 // dots on all pages
	// So are conflicts.
	firstConflict, nextConflict uint64
	conflictBytes               uint64        // see conflictCost
	oldestConflict              hlc.Timestamp // when that of firstConflict was listed
	droppedConflicts            uint64        // by a bound, ever
	// lived is for how long the partition has had a leader, see Promotion.Lived, and
	// oldestLived what it was when the conflict firstConflict was listed.
	lived, oldestLived time.Duration
}

// A head record is format (1) and the fields of ledgerHead in their order, 8 bytes
// each, little endian: all of them with format 2; without the last two, which are 0,
// with format 1.
const (
	ledgerFormat      = 1
	ledgerLivedFormat = 2
	ledgerFields      = 11
	ledgerFirstFields = 9
)

func (h *ledgerHead) fields() [ledgerFirstFields]*uint64 {
	return [...]*uint64{
		&h.floor, &h.firstPage, &h.nextPage, &h.fates, &h.firstConflict, &h.nextConflict,
		&h.conflictBytes, (*uint64)(&h.oldestConflict), &h.droppedConflicts,
	}
}

func (h *ledgerHead) encode() []byte {
	dst := append(make([]byte, 0, 1+8*ledgerFields), ledgerFormat)
	for _, f := range h.fields() {
		dst = binary.LittleEndian.AppendUint64(dst, *f)
	}
	if h.lived == 0 && h.oldestLived == 0 {
		return dst
	}
	dst[0] = ledgerLivedFormat
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.lived))
	return binary.LittleEndian.AppendUint64(dst, uint64(h.oldestLived))
}

func decodeLedgerHead(b []byte) (h ledgerHead, err error) {
	lived := len(b) == 1+8*ledgerFields && b[0] == ledgerLivedFormat
	if !lived && (len(b) != 1+8*ledgerFirstFields || b[0] != ledgerFormat) {
		return h, corrupt("ledger head of %d bytes or unknown format", len(b))
	}
	for i, f := range h.fields() {
		*f = binary.LittleEndian.Uint64(b[1+8*i:])
	}
	if lived {
		b = b[1+8*ledgerFirstFields:]
		h.lived, h.oldestLived = time.Duration(binary.LittleEndian.Uint64(b)), time.Duration(binary.LittleEndian.Uint64(b[8:]))
		if h.lived < 0 || h.oldestLived < 0 || h.lived == 0 && h.oldestLived == 0 {
			return h, corrupt("ledger head of a partition that has lived for %d", h.lived)
		}
	}
	if h.firstPage > h.nextPage || h.firstConflict > h.nextConflict {
		return h, corrupt("ledger head with its records out of order")
	}
	return h, nil
}

// loadLedger reads a replica's ledger, and how far it has applied.
func loadLedger(from pebble.Reader, prefix []byte, nodes *nodeNames) (_ *ledger, err error) {
	l := &ledger{promoted: &DotSet{}, forfeited: map[partition.NodeID]uint64{}}
	if l.applied, l.installed, err = readApplied(from, prefix); err != nil {
		return nil, err
	}
	it, err := from.NewIter(&pebble.IterOptions{
		LowerBound: append(slices.Clip(prefix), kindLedger),
		UpperBound: append(slices.Clip(prefix), kindForfeited+1),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		record, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		kind, rest := it.Key()[replicaPrefixLen], it.Key()[userPrefixLen:]
		if err := l.take(kind, rest, record, nodes); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	// So that what is published is only read when it is cloned.
	l.promoted = l.promoted.Clone()
	return l, it.Error()
}

func (l *ledger) take(kind byte, rest, record []byte, nodes *nodeNames) error {
	switch kind {
	case kindLedger:
		h, err := decodeLedgerHead(record)
		l.ledgerHead = h
		return err
	case kindPromoted:
		run, err := decodePromotedRun(rest, record, nodes)
		if err != nil {
			return err
		}
		spans := l.promoted.spans
		if err := l.promoted.addRange(run, math.MaxInt); err != nil || l.promoted.spans != spans+1 {
			return corrupt("run of promoted dots %v that touches another, or does not fit (%v)", run, err)
		}
	case kindForfeited:
		index, err := decodeForfeited(record)
		l.forfeited[partition.NodeID(rest)] = index
		return err
	}
	return nil
}

// ledgerChange is what Apply is making of the ledger: the part in memory is a
// copy of what was published, the records are in the Pebble batch in hand.
type ledgerChange struct {
	ledger
	from    *ledger
	changed bool
	// origins are those of the dots that were added.
	origins []dotOrigin
	// records are the batch's ledger records, relative to the replica, nil for
	// one that was removed: commands that follow see them.
	records map[string][]byte
}

// beginLedger starts from what was published.
func (r *ReplicaState) beginLedger() {
	c := &r.change
	c.from = r.ledger.Load()
	c.ledger = *c.from
	c.promoted = c.from.promoted.Clone()
	c.changed = false
	c.origins = c.origins[:0]
	clear(c.records)
}

// addDot puts a dot into the record of promoted dots, which may have so many runs.
// It is on disk, and told, with the batch.
func (c *ledgerChange) addDot(d Dot, most uint64) error {
	if err := c.promoted.addRange(RangeOf(d), int(min(most, math.MaxInt))); err != nil {
		return err
	}
	for i := range c.origins {
		if c.origins[i].compare(d.Node, d.Incarnation) == 0 {
			return nil
		}
	}
	c.origins = append(c.origins, dotOrigin{node: d.Node, incarnation: d.Incarnation})
	return nil
}

// forfeit notes that node's writes are lost.
func (c *ledgerChange) forfeit(node partition.NodeID, index uint64) {
	next := maps.Clone(c.forfeited)
	next[node] = index
	c.forfeited = next
}

// finishLedger completes the batch with what is written once a batch.
func (r *ReplicaState) finishLedger() error {
	c := &r.change
	if !c.changed {
		return nil
	}
	for _, o := range c.origins {
		if err := r.writeRuns(o, c.from.promoted.runsOf(o.node, o.incarnation), c.promoted.runsOf(o.node, o.incarnation)); err != nil {
			return err
		}
	}
	return r.setRecord([]byte{kindLedger}, c.ledgerHead.encode())
}

// publishLedger shows readers how far the batch, which is in the database, has
// applied, and its change of the ledger.
func (r *ReplicaState) publishLedger(at position) {
	c := &r.change
	next := *c.from
	if c.changed {
		next = c.ledger
		next.promoted = c.promoted.Clone()
	}
	next.applied, next.installed = at, false
	r.ledger.Store(&next)
}

// writeRuns changes the records of an incarnation from one set of runs to
// another. One run a record, so that a promotion writes only those that it
// touches, however many gaps there are.
func (r *ReplicaState) writeRuns(o dotOrigin, old, now []dotRun) error {
	key := func(run dotRun) []byte {
		return appendDotKey([]byte{kindPromoted}, Dot{o.node, o.incarnation, run.first})
	}
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].first < now[0].first:
			if err := r.deleteRecord(key(old[0])); err != nil {
				return err
			}
			old = old[1:]
		case len(old) > 0 && old[0] == now[0]:
			old, now = old[1:], now[1:]
		default:
			record := binary.LittleEndian.AppendUint64([]byte{ledgerFormat}, now[0].last)
			if err := r.setRecord(key(now[0]), record); err != nil {
				return err
			}
			if len(old) > 0 && old[0].first == now[0].first {
				old = old[1:]
			}
			now = now[1:]
		}
	}
	return nil
}

// setLedger puts a record that later commands of the batch may read into it;
// key is relative to the replica. It keeps record.
func (r *ReplicaState) setLedger(key, record []byte) error {
	r.change.changed = true
	r.change.records[string(key)] = record
	return r.setRecord(key, record)
}

func (r *ReplicaState) deleteLedger(key []byte) error {
	r.change.changed = true
	r.change.records[string(key)] = nil
	return r.deleteRecord(key)
}

// setRecord puts a record into the batch.
func (r *ReplicaState) setRecord(key, record []byte) error {
	op := r.batch.SetDeferred(len(r.prefix)+len(key), len(record))
	copy(op.Key[copy(op.Key, r.prefix):], key)
	copy(op.Value, record)
	return op.Finish()
}

func (r *ReplicaState) deleteRecord(key []byte) error {
	op := r.batch.DeleteDeferred(len(r.prefix) + len(key))
	copy(op.Key[copy(op.Key, r.prefix):], key)
	return op.Finish()
}

// ledgerRecord is a record as the commands so far have left it; nil if it is
// not there. It is not to be changed.
func (r *ReplicaState) ledgerRecord(key []byte) ([]byte, error) {
	if record, ok := r.change.records[string(key)]; ok {
		return record, nil
	}
	return r.storedRecord(key)
}

// storedRecord is a ledger record in the database; nil if it is not there.
func (r *ReplicaState) storedRecord(key []byte) ([]byte, error) {
	record, closer, err := r.lookup(append(slices.Clip(r.prefix), key...))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, r.damaged(err)
	}
	return slices.Clone(record), closer.Close()
}

// Promoted is the record of promoted dots. Who asks for it and then for Applied
// has an index by which all of them were decided; who asks the other way round,
// all dots that were promoted up to that index. It must not be changed; to clone
// it is safe for any number of goroutines.
func (r *ReplicaState) Promoted() *DotSet { return r.ledger.Load().promoted }

// PromotedHas reports whether the write was promoted: committed or superseded.
func (r *ReplicaState) PromotedHas(d Dot) bool { return r.Promoted().Has(d) }

// Floor is the partition's floor: a write with a base below it is superseded.
// 0 if none was set so far. It is raised before the tombstones behind it go: who
// reads a key first and asks for the floor then does not take a collected
// tombstone for a key that never was.
func (r *ReplicaState) Floor() uint64 { return r.floor.Load() }

// Lived is for how long the partition has had a leader, as far as promotions have
// told: see [Promotion].Lived.
func (r *ReplicaState) Lived() time.Duration { return r.ledger.Load().lived }

// Forfeits counts the nodes whose writes are forfeited. It only grows.
func (r *ReplicaState) Forfeits() int { return len(r.ledger.Load().forfeited) }

// Forfeited reports whether node's unpromoted writes are lost for ever.
func (r *ReplicaState) Forfeited(node partition.NodeID) bool {
	_, forfeited := r.ledger.Load().forfeited[node]
	return forfeited
}
