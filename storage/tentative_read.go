package storage

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// tentativeWalkSteps is how many writes are looked at before writers get a turn.
const tentativeWalkSteps = 1 << 10

// TentativeKey is a key with those of its tentative writes that may win.
type TentativeKey struct {
	Key        []byte
	Candidates []Tentative
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
// before it; nil if there is none. Their Key is the one given. They have no
// Bytes: [TentativeLog.Read] gives those of the one that wins. Against any state [Winner] finds the same one
// among the candidates as among all writes of the key.
//
// They are asked for before the state is read, see [TentativeLog]. As a rule
// there is one, found at once.
func (t *TentativeLog) Candidates(key []byte) []Tentative { return t.undecided(key, nil) }

// undecided is Candidates without those that a ledger knows to be decided. They
// do not stand in the way of others: one that is lost never beats any.
func (t *TentativeLog) undecided(key []byte, known *ledger) []Tentative {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if k := t.index.keyed[string(key)]; k != nil {
		return k.candidates(key, known)
	}
	return nil
}

// Newest is the highest timestamp of key's writes held here; a new write of the
// key gets a higher one. 0 if there is none.
func (t *TentativeLog) Newest(key []byte) hlc.Timestamp {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if k := t.index.keyed[string(key)]; k != nil {
		return k.items[len(k.items)-1].timestamp
	}
	return 0
}

// Scan gives, in order, the keys from start up to, not including, end of which
// any write is held, at most limit. A nil end is no end. A scan of several pages
// reads each page here first and then the applied state of the same range.
func (t *TentativeLog) Scan(start, end []byte, limit int) []TentativeKey {
	return t.undecidedKeys(start, end, limit, nil)
}

// undecidedKeys is Scan without those writes that a ledger knows to be decided;
// a key may have no candidates then.
func (t *TentativeLog) undecidedKeys(start, end []byte, limit int, known *ledger) []TentativeKey {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found []TentativeKey
	for k := range t.index.scan(start, end) {
		if len(found) >= limit {
			break
		}
		key := []byte(k.key)
		found = append(found, TentativeKey{Key: key, Candidates: k.candidates(key, known)})
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
		return TentativeWrite{}, fmt.Errorf("tentative write %s: %w", d, ErrLogNotFound)
	}
	return t.readItem(i)
}

// readItem gives the write with its value. What an item says never changes, so
// the lock is not needed.
func (t *TentativeLog) readItem(i *tentativeItem) (TentativeWrite, error) {
	w := i.write()
	if i.bytes == 0 {
		return w, nil
	}
	record, closer, err := t.log.db.Get(tentativeDotKey(t.partition, tentativeKindValue, w.Dot))
	if errors.Is(err, pebble.ErrNotFound) {
		return w, fmt.Errorf("value of tentative write %s: %w", w.Dot, ErrLogNotFound)
	}
	if err != nil {
		return w, t.log.readFailed(fmt.Errorf("value of tentative write %s: %w", w.Dot, err))
	}
	value, err := decodeTentativeValue(i.bytes, record)
	w.Bytes = slices.Clone(value)
	return w, t.log.readFailed(errors.Join(err, closer.Close()))
}

// Batch gives undecided writes behind the dot after, in the order of their
// dots, to be handed in for promotion. The zero dot is before all others, and
// the last one given is where the next batch goes on: so several can be on
// their way at a time. What is decided meanwhile may be missing.
func (t *TentativeLog) Batch(after Dot, limit TentativeLimit) ([]TentativeWrite, error) {
	return t.Missing(nil, after, limit)
}

// Missing is Batch without those writes that has contains: what another holder
// lacks, by its own summary and the dots it knows to be decided. has is called
// with the log locked; nil has nothing.
func (t *TentativeLog) Missing(has func(Dot) bool, after Dot, limit TentativeLimit) ([]TentativeWrite, error) {
	walk := tentativeWalk{after: after}
	if has != nil {
		walk.want = func(d Dot) bool { return !has(d) }
	}
	c := tentativeCollected{limit: limit}
	err := t.collect(&c, walk)
	return c.found, err
}

// Within gives, in the order of the ranges, the undecided writes whose dots are
// in them: what another holder asks for, who has compared summaries itself.
func (t *TentativeLog) Within(ranges []DotRange, limit TentativeLimit) ([]TentativeWrite, error) {
	c := tentativeCollected{limit: limit}
	for _, r := range ranges {
		if r.check() != nil {
			continue // nothing is in it
		}
		if err := t.collect(&c, tentativeWalk{
			after: Dot{r.Node, r.Incarnation, r.First - 1}, end: Dot{r.Node, r.Incarnation, r.Last},
		}); err != nil || c.full {
			return c.found, err
		}
	}
	return c.found, nil
}

// tentativeCollected is what a call gives.
type tentativeCollected struct {
	limit TentativeLimit
	found []TentativeWrite
	bytes int
	full  bool
}

// collect adds the writes of a walk, as far as there is room.
func (t *TentativeLog) collect(c *tentativeCollected, walk tentativeWalk) error {
	if err := t.log.enter(); err != nil {
		return err
	}
	defer t.log.leave()
	for more := true; more; {
		var items []*tentativeItem
		items, more = t.walk(&walk, c.limit.Count-len(c.found), c.limit.Bytes-c.bytes)
		for _, i := range items {
			size := len(i.of.key) + i.bytes
			if c.full = len(c.found) > 0 && c.bytes+size > c.limit.Bytes; c.full {
				return nil
			}
			w, err := t.readItem(i)
			if errors.Is(err, ErrLogNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			c.found, c.bytes = append(c.found, w), c.bytes+size
		}
	}
	c.full = len(c.found) >= c.limit.Count
	return nil
}

// Held lists the undecided writes whose dots in contains, those too that are on
// their way to the disk: they may be on it when this process has ended. One that
// gets there meanwhile may be listed twice. So a node finds at start, or after its
// replica was replaced, what is decided already, and what it holds of a node that
// was removed. in is called with the log locked.
func (t *TentativeLog) Held(in func(Dot) bool) []Dot {
	var found []Dot
	t.mu.RLock()
	for d := range t.pending { // first: what leaves it is in the index then
		if in(d) {
			found = append(found, d)
		}
	}
	t.mu.RUnlock()
	walk := tentativeWalk{want: in}
	for more := true; more; {
		var items []*tentativeItem
		items, more = t.walk(&walk, tentativeWalkSteps, math.MaxInt)
		for _, i := range items {
			found = append(found, i.dot)
		}
	}
	return found
}

// Summary is the dots of the undecided writes held here, for other holders to
// compare with theirs. What was forgotten is not in it: the asker adds the dots
// that it knows to be decided, else it is sent what it had before. Should the
// gaps be too many for a set, some of the dots are left out, and what they name
// may be sent once more.
func (t *TentativeLog) Summary() *DotSet {
	s := &DotSet{}
	var r DotRange
	add := func() {
		if r.First > 0 {
			_ = s.AddRange(r) // ErrDotSetFull is the only error possible, see above
		}
	}
	walk := tentativeWalk{}
	for more := true; more; {
		var items []*tentativeItem
		items, more = t.walk(&walk, tentativeWalkSteps, math.MaxInt)
		for _, i := range items {
			if i.dot.Sequence == r.Last+1 && i.dot.Incarnation == r.Incarnation && i.dot.Node == r.Node {
				r.Last++
				continue
			}
			add()
			r = RangeOf(i.dot)
		}
	}
	add()
	return s
}

// tentativeWalk goes over writes in the order of their dots, in steps, so that
// those who write need not wait for all of it.
type tentativeWalk struct {
	after Dot            // the last one looked at
	end   Dot            // the last one to look at; zero for no end
	want  func(Dot) bool // nil for all
}

// walk takes a step: it gives at most room writes, the last of which may be the
// first that does not fit into so many bytes, and says whether to go on.
func (t *TentativeLog) walk(walk *tentativeWalk, room, bytes int) (found []*tentativeItem, more bool) {
	if room <= 0 {
		return nil, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	seen := 0
	for i := range t.index.byDot.from(tentativeAt(walk.after)) {
		if i.dot == walk.after {
			continue
		}
		if !walk.end.IsZero() && i.dot.Compare(walk.end) > 0 {
			return found, false
		}
		if len(found) == room || len(found) > 0 && bytes < 0 || seen == tentativeWalkSteps {
			return found, true
		}
		seen++
		walk.after = i.dot
		if walk.want == nil || walk.want(i.dot) {
			found = append(found, i)
			bytes -= len(i.of.key) + i.bytes
		}
	}
	return found, false
}

// Backlog says what is undecided here.
func (t *TentativeLog) Backlog() TentativeBacklog {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := TentativeBacklog{Count: t.index.count, Hints: t.index.hints, Bytes: t.index.bytes, Settled: len(t.settled)}
	if i, ok := t.index.byTime.first(); ok {
		b.OldestTimestamp = i.timestamp
	}
	return b
}
