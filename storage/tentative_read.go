package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// tentativeWalk is how many writes are looked at before writers get a turn.
const tentativeWalk = 1 << 10

// TentativeKey is a key with those of its tentative writes that may win.
type TentativeKey struct {
	Key        []byte
	Candidates []TentativeVersion
}

// TentativeBacklog says what is undecided as far as this node knows.
type TentativeBacklog struct {
	Count int
	Hints int   // of Count, those that came as hints
	Bytes int64 // on disk, before compression
	// OldestTimestamp is the lowest of the writes' timestamps, which their
	// nodes' clocks gave; 0 without any.
	OldestTimestamp hlc.Timestamp
	// Settled are decided and applied, and wait for the state to be durable.
	// They are not in Count.
	Settled int
}

// TentativeLimit bounds what one call of [TentativeLog.Batch] gives.
type TentativeLimit struct {
	Count int
	// Bytes counts keys and values; the first write is given in any case.
	Bytes int
}

// Candidates are those writes of key held here that may win under some
// committed state, each with a higher base and a lower timestamp than the one
// before it; nil if there is none. Against a given state the winner is the
// first with a base that neither the key's last linearizable write nor the
// tombstones' floor rules out, if it also is above the committed version.
//
// They are asked for before the state is read, see [TentativeLog]. As a rule
// there is one, found at once.
func (t *TentativeLog) Candidates(key []byte) []TentativeVersion {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if k := t.index.keyed[string(key)]; k != nil {
		return k.candidates()
	}
	return nil
}

// Newest is the highest timestamp of key's writes held here; a new write of the
// key gets a higher one. 0 if there is none.
func (t *TentativeLog) Newest(key []byte) hlc.Timestamp {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if k := t.index.keyed[string(key)]; k != nil {
		return k.items[len(k.items)-1].Timestamp
	}
	return 0
}

// Scan gives, in order, the keys from start up to, not including, end of which
// any write is held, at most limit. A nil end is no end. A scan of several pages
// reads each page here first and then the applied state of the same range.
func (t *TentativeLog) Scan(start, end []byte, limit int) []TentativeKey {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found []TentativeKey
	for k := range t.index.scan(start, end) {
		if len(found) >= limit {
			break
		}
		found = append(found, TentativeKey{Key: []byte(k.key), Candidates: k.candidates()})
	}
	return found
}

// Holds says whether the write is held and undecided.
func (t *TentativeLog) Holds(d Dot) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.index.find(d)
	return ok
}

// Read gives a write with its value. [ErrLogNotFound] if it is not held, or was
// decided meanwhile: the state then knows more than when the write was found.
func (t *TentativeLog) Read(d Dot) (TentativeWrite, error) {
	if err := t.log.enter(); err != nil {
		return TentativeWrite{}, err
	}
	defer t.log.leave()
	t.mu.RLock()
	i, ok := t.index.find(d)
	t.mu.RUnlock()
	if !ok {
		return TentativeWrite{}, fmt.Errorf("tentative write %v: %w", d, ErrLogNotFound)
	}
	w := i.write()
	return w, t.readValue(&w)
}

func (t *TentativeLog) readValue(w *TentativeWrite) error {
	if w.ValueBytes == 0 {
		return nil
	}
	record, closer, err := t.log.db.Get(tentativeDotKey(t.partition, tentativeKindValue, w.Dot))
	if errors.Is(err, pebble.ErrNotFound) {
		return fmt.Errorf("value of tentative write %v: %w", w.Dot, ErrLogNotFound)
	}
	if err != nil {
		return err
	}
	value, err := decodeTentativeValue(w.ValueBytes, record)
	w.Value = slices.Clone(value)
	return errors.Join(err, closer.Close())
}

// Batch gives undecided writes behind the dot after, in the order of their
// dots, to be handed in for promotion. The zero dot is before all others, and
// the last one given is where the next batch goes on: so several can be on
// their way at a time. What is decided meanwhile may be missing.
func (t *TentativeLog) Batch(after Dot, limit TentativeLimit) ([]TentativeWrite, error) {
	return t.Missing(func(Dot) bool { return false }, after, limit)
}

// Missing is Batch without those writes that has contains: what another holder
// lacks, by its own summary and the dots it knows to be decided. has is called
// with the log locked.
func (t *TentativeLog) Missing(has func(Dot) bool, after Dot, limit TentativeLimit) ([]TentativeWrite, error) {
	if err := t.log.enter(); err != nil {
		return nil, err
	}
	defer t.log.leave()
	var found []TentativeWrite
	bytes := 0
	for more := true; more; {
		var items []*tentativeItem
		items, after, more = t.walk(after, limit.Count-len(found), func(d Dot) bool { return !has(d) })
		for _, i := range items {
			w := i.write()
			size := len(w.Key) + w.ValueBytes
			if len(found) > 0 && bytes+size > limit.Bytes {
				return found, nil
			}
			if err := t.readValue(&w); errors.Is(err, ErrLogNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
			found, bytes = append(found, w), bytes+size
		}
	}
	return found, nil
}

// Held lists the undecided writes whose dots in contains, in order. So a node
// finds at start, or after its replica was replaced, what is decided already.
// in is called with the log locked.
func (t *TentativeLog) Held(in func(Dot) bool) []Dot {
	var found []Dot
	after := Dot{}
	for more := true; more; {
		var items []*tentativeItem
		items, after, more = t.walk(after, tentativeWalk, in)
		for _, i := range items {
			found = append(found, i.Dot)
		}
	}
	return found
}

// walk looks at some of the writes behind after, and gives at most room of
// those that are wanted, the last one it looked at, and whether to go on.
func (t *TentativeLog) walk(after Dot, room int, want func(Dot) bool) (found []*tentativeItem, last Dot, more bool) {
	if room <= 0 {
		return nil, after, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	last = after
	seen := 0
	for i := range t.index.byDot.from(&tentativeItem{TentativeVersion: TentativeVersion{Dot: after}}) {
		if i.Dot == after {
			continue
		}
		if len(found) == room || seen == tentativeWalk {
			return found, last, true
		}
		seen++
		last = i.Dot
		if want(i.Dot) {
			found = append(found, i)
		}
	}
	return found, last, false
}

// Backlog says what is undecided here.
func (t *TentativeLog) Backlog() TentativeBacklog {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := TentativeBacklog{Count: t.index.count, Hints: t.index.hints, Bytes: t.index.bytes, Settled: len(t.settled)}
	if i, ok := t.index.byTime.first(); ok {
		b.OldestTimestamp = i.Timestamp
	}
	return b
}
