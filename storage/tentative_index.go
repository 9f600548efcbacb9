package storage

import (
	"cmp"
	"slices"
	"strings"
)

// tentativeIndex is what is known in memory of the undecided writes of one
// partition: everything but the values. It is not safe for concurrent use.
type tentativeIndex struct {
	byDot  ordered[*tentativeItem]
	byBase ordered[*tentativeItem]
	byTime ordered[*tentativeItem]
	keys   ordered[*tentativeKeyed] // those with any write
	keyed  map[string]*tentativeKeyed

	count, hints int
	bytes        int64 // on disk
}

type tentativeItem struct {
	tentativeVersion
	of *tentativeKeyed
}

// write is the item with its key, without its value.
func (i *tentativeItem) write() TentativeWrite {
	return TentativeWrite{Tentative: i.tentative([]byte(i.of.key)), Hint: i.hint}
}

func (i *tentativeItem) cost() tentativeCost { return tentativeCostOf(i.dot, len(i.of.key), i.bytes) }

// tentativeKeyed is a key with its writes, the one that wins over the others
// last.
type tentativeKeyed struct {
	key   string
	items []*tentativeItem
	// topBase is the highest base among items, and atTop how many have it: a
	// search for candidates ends there.
	topBase uint64
	atTop   int
}

func newTentativeIndex() *tentativeIndex {
	return &tentativeIndex{
		byDot: ordered[*tentativeItem]{compare: func(a, b *tentativeItem) int { return a.dot.Compare(b.dot) }},
		byBase: ordered[*tentativeItem]{compare: func(a, b *tentativeItem) int {
			return cmp.Or(cmp.Compare(a.base, b.base), a.dot.Compare(b.dot))
		}},
		byTime: ordered[*tentativeItem]{compare: func(a, b *tentativeItem) int {
			return cmp.Or(cmp.Compare(a.timestamp, b.timestamp), a.dot.Compare(b.dot))
		}},
		keys:  ordered[*tentativeKeyed]{compare: func(a, b *tentativeKeyed) int { return strings.Compare(a.key, b.key) }},
		keyed: map[string]*tentativeKeyed{},
	}
}

func (x *tentativeIndex) find(d Dot) (*tentativeItem, bool) { return x.byDot.find(tentativeAt(d)) }

// tentativeAt is what compares equal to the item of d.
func tentativeAt(d Dot) *tentativeItem {
	return &tentativeItem{tentativeVersion: tentativeVersion{dot: d}}
}

// insert takes up a write, whose dot is not there. It does not keep key.
func (x *tentativeIndex) insert(v tentativeVersion, key []byte) {
	k := x.keyed[string(key)]
	if k == nil {
		k = &tentativeKeyed{key: string(key)}
		x.keyed[k.key] = k
		x.keys.insert(k)
	}
	i := &tentativeItem{v, k}
	k.insert(i)
	x.byDot.insert(i)
	x.byBase.insert(i)
	x.byTime.insert(i)
	x.count++
	x.bytes += i.cost().disk
	if i.hint {
		x.hints++
	}
}

func (x *tentativeIndex) remove(i *tentativeItem) {
	x.byDot.remove(i)
	x.byBase.remove(i)
	x.byTime.remove(i)
	i.of.remove(i)
	x.count--
	x.bytes -= i.cost().disk
	if i.hint {
		x.hints--
	}
	if len(i.of.items) == 0 {
		x.keys.remove(i.of)
		delete(x.keyed, i.of.key)
	}
}

func (k *tentativeKeyed) locate(i *tentativeItem) int {
	at, _ := slices.BinarySearchFunc(k.items, i, func(a, b *tentativeItem) int { return a.compare(&b.tentativeVersion) })
	return at
}

func (k *tentativeKeyed) insert(i *tentativeItem) {
	k.items = slices.Insert(k.items, k.locate(i), i)
	switch {
	case len(k.items) == 1 || i.base > k.topBase:
		k.topBase, k.atTop = i.base, 1
	case i.base == k.topBase:
		k.atTop++
	}
}

func (k *tentativeKeyed) remove(i *tentativeItem) {
	at := k.locate(i)
	if at < len(k.items)/2 { // as a rule the oldest goes first: move the shorter part
		copy(k.items[1:at+1], k.items[:at])
		k.items[0] = nil
		k.items = k.items[1:]
	} else {
		k.items = slices.Delete(k.items, at, at+1)
	}
	if i.base != k.topBase {
		return
	}
	if k.atTop--; k.atTop > 0 {
		return
	}
	k.topBase = 0
	for _, o := range k.items {
		switch {
		case o.base > k.topBase || k.atTop == 0:
			k.topBase, k.atTop = o.base, 1
		case o.base == k.topBase:
			k.atTop++
		}
	}
}

// candidates are those of the key's writes that may win under some committed
// state, the winner over the others first. What a linearizable write or the
// floor rules out is every base below an index; so of two writes the lower one
// matters only if its base is the higher. What known has decided is left out.
func (k *tentativeKeyed) candidates(key []byte, known *ledger) []Tentative {
	var found []Tentative
	for at := len(k.items) - 1; at >= 0; at-- {
		i := k.items[at]
		if (len(found) == 0 || i.base > found[len(found)-1].Base) && !known.decided(i.dot) {
			found = append(found, i.tentative(key))
			if i.base == k.topBase {
				break
			}
		}
	}
	return found
}

// scan gives the keys from start up to, not including, end in order; a nil end
// is no end.
func (x *tentativeIndex) scan(start, end []byte) func(yield func(*tentativeKeyed) bool) {
	from, to := &tentativeKeyed{key: string(start)}, string(end)
	return func(yield func(*tentativeKeyed) bool) {
		for k := range x.keys.from(from) {
			if end != nil && k.key >= to || !yield(k) {
				return
			}
		}
	}
}
