package session

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Token is a session's past. The zero value is that of a session which has done
// nothing. It is not safe for concurrent use, also not for calls that only read.
//
// What can not be part of a token (a partition or dot that does not exist) is
// left out, and [Codec.Encode] fails with it then.
type Token struct {
	past    []past // sorted by partition
	highest hlc.Timestamp
	failed  error // the first thing that could not be taken up
}

// past is what the session knows of one partition. There is an index, or a dot,
// or both.
type past struct {
	partition partition.ID
	index     uint64
	dots      *storage.DotSet // nil if there are none
	inDoubt   bool            // see Resolve; not a part of the text
}

func (t *Token) find(p partition.ID) (at int, found bool) {
	return slices.BinarySearchFunc(t.past, p, func(a past, p partition.ID) int { return cmp.Compare(a.partition, p) })
}

// of is the place for what is known of p, made if need be; nil if p can not be.
func (t *Token) of(p partition.ID) *past {
	if p >= partition.MaxCount {
		t.fail(fmt.Errorf("session token: partition %d of at most %d", p, partition.MaxCount))
		return nil
	}
	at, found := t.find(p)
	if !found {
		t.past = slices.Insert(t.past, at, past{partition: p})
	}
	return &t.past[at]
}

func (t *Token) fail(err error) { t.failed = cmp.Or(t.failed, err) }

// Empty reports whether the token asks for nothing.
func (t *Token) Empty() bool { return len(t.past) == 0 && t.highest == 0 }

// Partitions lists, in order, those that the session has a past in.
func (t *Token) Partitions() iter.Seq[partition.ID] {
	return func(yield func(partition.ID) bool) {
		for _, h := range t.past {
			if !yield(h.partition) {
				return
			}
		}
	}
}

// Index is the log index that whoever answers for p must have applied; 0 if
// any state will do.
func (t *Token) Index(p partition.ID) uint64 {
	if at, found := t.find(p); found {
		return t.past[at].index
	}
	return 0
}

// Knows reports whether the token says anything of p. If it does not, the session
// may have a past there that was dropped, unless the token is empty.
func (t *Token) Knows(p partition.ID) bool {
	_, found := t.find(p)
	return found
}

// Saw notes an answer that came from the state of p after index, or a write
// that was committed there.
func (t *Token) Saw(p partition.ID, index uint64) {
	if index == 0 {
		return
	}
	if h := t.of(p); h != nil {
		h.index = max(h.index, index)
	}
}

// Highest is the highest timestamp that the session wrote or saw: what it
// writes next has to be above it.
func (t *Token) Highest() hlc.Timestamp { return t.highest }

// Observe notes the timestamp of a version that the session wrote or saw,
// committed or not.
func (t *Token) Observe(ts hlc.Timestamp) {
	if fault.On(fault.TokenWithoutTimestamp) {
		return
	}
	t.highest = max(t.highest, ts)
}

// Tentative notes an undecided write of p that the session wrote or saw, with
// its base and its timestamp.
func (t *Token) Tentative(p partition.ID, d storage.Dot, base uint64, ts hlc.Timestamp) {
	t.Observe(ts)
	h := t.of(p)
	if h == nil {
		return
	}
	if !fault.On(fault.TokenWithoutBase) {
		h.index = max(h.index, base)
	}
	t.add(h, storage.RangeOf(d))
	t.tidy()
}

// Needs notes undecided writes of p of which nothing else is known. It is for a
// token that asks, for somebody who knows the rest, and not for one that is
// given to a client.
func (t *Token) Needs(p partition.ID, dots []storage.DotRange) {
	if len(dots) == 0 {
		return
	}
	h := t.of(p)
	if h == nil {
		return
	}
	for _, r := range dots {
		t.add(h, r)
	}
	t.tidy()
}

func (t *Token) add(h *past, r storage.DotRange) {
	dots := h.dots
	if dots == nil {
		dots = &storage.DotSet{}
	}
	if r.Last >= maxSequence {
		t.fail(fmt.Errorf("session token: dots %s are none that a node gives out", r))
		return
	}
	if err := dots.AddRange(r); err != nil {
		t.fail(fmt.Errorf("session token: %w", err))
		return
	}
	h.dots = dots
}

// tidy drops what is known to be nothing.
func (t *Token) tidy() {
	t.past = slices.DeleteFunc(t.past, func(h past) bool { return h.index == 0 && h.dots == nil })
}

// Undecided lists the writes of p that the session wrote or saw and that were
// undecided as far as it knows: whoever answers holds them, or has applied what
// became of them.
func (t *Token) Undecided(p partition.ID) []storage.DotRange {
	at, found := t.find(p)
	if !found || t.past[at].dots == nil {
		return nil
	}
	return slices.Collect(t.past[at].dots.Ranges())
}

// Settle drops those writes of p that were decided, and raises the index to
// that of the decision. It asks for each dot: see [Token.SettleAll] for many.
func (t *Token) Settle(p partition.ID, decidedAt func(storage.Dot) (index uint64, decided bool)) {
	var reached uint64
	t.keep(p, func(h *past, left *storage.DotSet) error {
		for r := range h.dots.Ranges() {
			for n := r.First; n <= r.Last; n++ {
				d := storage.Dot{Node: r.Node, Incarnation: r.Incarnation, Sequence: n}
				if index, decided := decidedAt(d); decided {
					reached = max(reached, index)
				} else if err := left.Add(d); err != nil {
					return err
				}
			}
		}
		h.index = max(h.index, reached)
		return nil
	})
}

// SettleAll drops those writes of p that decided contains, and raises the index
// to the one given if there was any: the last that was applied to the state
// whose record of decided dots this is. It costs about the number of runs.
func (t *Token) SettleAll(p partition.ID, index uint64, decided *storage.DotSet) {
	t.keep(p, func(h *past, left *storage.DotSet) error {
		for r := range h.dots.Minus(decided) {
			if err := left.AddRange(r); err != nil {
				return err
			}
		}
		if !left.Equal(h.dots) {
			h.index = max(h.index, index)
		}
		return nil
	})
}

// Lose drops those writes of p whose node was removed with all that was not
// promoted of it. Whoever calls it has settled the token by the same state
// before.
func (t *Token) Lose(p partition.ID, lost func(partition.NodeID) bool) {
	t.keep(p, func(h *past, left *storage.DotSet) error {
		for r := range h.dots.Ranges() {
			if lost(r.Node) {
				continue
			}
			if err := left.AddRange(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// keep exchanges the dots of p for those that choose leaves.
func (t *Token) keep(p partition.ID, choose func(h *past, left *storage.DotSet) error) {
	at, found := t.find(p)
	if !found || t.past[at].dots == nil {
		return
	}
	h, left := &t.past[at], &storage.DotSet{}
	if err := choose(h, left); err != nil { // more gaps than before, and too many
		t.fail(fmt.Errorf("session token: %w", err))
		return
	}
	if h.dots = left; left.IsEmpty() {
		h.dots = nil
	}
	t.tidy()
}

// Drop forgets p: every replica has applied the index, so that no answer can
// be older. Dots stay, and with them the partition.
//
// Whatever is noted of p afterwards must be at least the index that was dropped:
// what a token says of a partition is all that it asks for. So who notes a version
// of a partition that the token does not know notes the index of the state too.
func (t *Token) Drop(p partition.ID) {
	if at, found := t.find(p); found && t.past[at].dots == nil {
		t.past = slices.Delete(t.past, at, at+1)
	}
}

// Merge adds another session's past. Where only one of the two says something of a
// partition, the other one may have dropped a higher index: see [Token.Resolve].
func (t *Token) Merge(other *Token) {
	if !t.Empty() && !other.Empty() {
		for i := range t.past {
			h := &t.past[i]
			h.inDoubt = h.inDoubt || !other.Knows(h.partition)
		}
	}
	silent := !t.Empty() // of what it does not know
	t.Observe(other.highest)
	t.fail(other.failed)
	for _, o := range other.past {
		inDoubt := o.inDoubt || silent && !t.Knows(o.partition)
		h := t.of(o.partition)
		h.index, h.inDoubt = max(h.index, o.index), h.inDoubt || inDoubt
		if o.dots == nil {
			continue
		}
		if h.dots == nil {
			h.dots = &storage.DotSet{}
		}
		if err := h.dots.Merge(o.dots); err != nil {
			t.fail(fmt.Errorf("session token: %w", err))
		}
	}
}

// Resolve raises the index of each partition that came to be in doubt by Merge to
// the one that reached gives, which is at least all that tokens have dropped.
func (t *Token) Resolve(reached func(partition.ID) uint64) {
	for i := range t.past {
		if h := &t.past[i]; h.inDoubt {
			h.index, h.inDoubt = max(h.index, reached(h.partition)), false
		}
	}
}

// Clone is an independent copy.
func (t *Token) Clone() *Token {
	c := &Token{past: slices.Clone(t.past), highest: t.highest, failed: t.failed}
	for i := range c.past {
		if dots := c.past[i].dots; dots != nil {
			c.past[i].dots = dots.Clone()
		}
	}
	return c
}
