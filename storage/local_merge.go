package storage

import (
	"bytes"
	"cmp"
	"slices"
)

// MergeReads makes one answer of two about the same key, from different nodes
// or from a node's replica and its tentative writes: the state that has applied
// more, and all undecided writes. It decides as each of them has decided, by
// [Winner], so the order in which answers are merged does not matter.
//
// The answer may be [LocalState.Behind], though neither of the two was: one of
// the nodes has forgotten writes that the other's state does not have yet. It is
// not to be shown then. Its Bytes may be nil though Found: see [Local.Complete].
// It shares keys and values with a and b.
func MergeReads(a, b LocalRead) LocalRead {
	state, first := mergeStates(a.LocalState, b.LocalState)
	if !first {
		a, b = b, a
	}
	return LocalRead{LocalState: state, LocalEntry: mergeEntries(a.LocalEntry, b.LocalEntry, state.Floor)}
}

// mergeStates takes the state that is to be shown, and says whether it is a's.
func mergeStates(a, b LocalState) (state LocalState, first bool) {
	state, first = a, true
	if b.State && (!a.State || b.Applied > a.Applied) {
		state, first = b, false
	}
	state.FateFloor = max(a.FateFloor, b.FateFloor)
	return state, first
}

// mergeEntries takes what is held from the first.
func mergeEntries(a, b LocalEntry, floor uint64) LocalEntry {
	e := LocalEntry{Key: a.Key, Held: a.Held, Candidates: mergeCandidates(a.Candidates, b.Candidates)}
	e.decide(floor)
	return e
}

// order orders the writes of one key as [Decide] does; the higher wins.
func (t *Tentative) order(o *Tentative) int {
	return cmp.Or(cmp.Compare(t.Timestamp, o.Timestamp), t.Dot.Compare(o.Dot))
}

// mergeCandidates is a new list of those of both that may win: each has a higher
// base than the one before it, which would win over it.
func mergeCandidates(a, b []Tentative) []Tentative {
	if len(a)+len(b) == 0 {
		return nil
	}
	all := append(slices.Clone(a), b...)
	slices.SortStableFunc(all, func(t, o Tentative) int { return o.order(&t) })
	left := all[:0]
	for _, t := range all {
		switch last := len(left) - 1; {
		case last < 0 || t.Base > left[last].Base:
			left = append(left, t)
		case t.Dot == left[last].Dot && left[last].Bytes == nil:
			left[last].Bytes = t.Bytes // one of the two may have read it
		}
	}
	return slices.Clip(left)
}

// MergePages makes one page of two of the same range, as MergeReads does with
// reads: as far as both of them reach. Entries may be without Bytes though
// Found: see [Local.Complete].
func MergePages(a, b LocalPage) LocalPage {
	state, first := mergeStates(a.LocalState, b.LocalState)
	if !first {
		a, b = b, a
	}
	page := LocalPage{LocalState: state, More: a.More, Next: a.Next}
	if b.More && (!a.More || bytes.Compare(b.Next, a.Next) < 0) {
		page.More, page.Next = true, b.Next
	}
	as, bs := page.reached(a.Entries), page.reached(b.Entries)
	for len(as) > 0 || len(bs) > 0 {
		var order int
		switch {
		case len(bs) == 0:
			order = -1
		case len(as) == 0:
			order = 1
		default:
			order = bytes.Compare(as[0].Key, bs[0].Key)
		}
		var e LocalEntry
		switch {
		case order < 0:
			e, as = mergeEntries(as[0], LocalEntry{}, state.Floor), as[1:]
		case order > 0: // the state has nothing, or it would be among its entries
			e, bs = mergeEntries(LocalEntry{Key: bs[0].Key}, bs[0], state.Floor), bs[1:]
		default:
			e, as, bs = mergeEntries(as[0], bs[0], state.Floor), as[1:], bs[1:]
		}
		if e.Held != nil || e.Candidates != nil {
			page.Entries = append(page.Entries, e)
		}
	}
	return page
}

// reached is the entries before the page's end.
func (p *LocalPage) reached(entries []LocalEntry) []LocalEntry {
	if !p.More {
		return entries
	}
	n, _ := slices.BinarySearchFunc(entries, p.Next, func(e LocalEntry, key []byte) int { return bytes.Compare(e.Key, key) })
	return entries[:n]
}
