package contract

import (
	"cmp"
	"slices"
)

// CheckPrecedence holds a history to rule 19 of the contract, what wins over what: an eventual write does not win over a
// linearizable one that its node had not heard of, even indirectly; of eventual
// writes the higher (timestamp, node) wins. [CheckSuperseded] judges what lost.
//
// It asks that of bases and indexes as the answers give them and, without
// believing those, of times: a write that had been acknowledged before a
// linearizable write began can not have heard of it.
func CheckPrecedence(h *History) []Violation {
	var found []Violation
	for _, k := range known(h) {
		found = append(found, k.overwritten()...)
		found = append(found, k.unordered()...)
	}
	return found
}

const rulePrecedence = "precedence"

// overwritten finds eventual writes that won over linearizable ones of which
// they had not heard.
func (k *key) overwritten() []Violation {
	var found []Violation
	for _, e := range k.writes {
		if !e.eventual() {
			continue
		}
		for _, l := range k.writes {
			if !l.linearizable() {
				continue
			}
			index := l.version.Index
			// In one log entry the linearizable write may come after it, but then
			// nobody sees it.
			won := index > 0 && (index < e.version.Index || index == e.seenAt)
			switch {
			case !won:
			case e.before(l.Op):
				found = append(found, violation(rulePrecedence, k, []*Op{e.Op, l.Op},
					"%s, committed at %d, overwrote %s of %d, which began later", quoted(e.Op), e.version.Index, quoted(l.Op), index))
			case e.Outcome == OK && e.Base < index:
				found = append(found, violation(rulePrecedence, k, []*Op{e.Op, l.Op},
					"%s, committed at %d, overwrote %s of %d and had heard of %d only", quoted(e.Op), e.version.Index, quoted(l.Op), index, e.Base))
			}
		}
	}
	// The same as a user sees it, without a version: the write was acknowledged,
	// then the linearizable one was, then the first is read.
	for _, o := range k.ops {
		until, sure := o.covered()
		e := k.seen(o)
		if !sure || e == nil || !e.eventual() {
			continue
		}
		for _, l := range k.writes {
			if l.linearizable() && l.Outcome == OK && e.before(l.Op) && l.Return < until {
				found = append(found, violation(rulePrecedence, k, []*Op{e.Op, l.Op, o},
					"%s is read, though %s was written after it", quoted(e.Op), quoted(l.Op)))
			}
		}
	}
	return found
}

// unordered finds eventual writes that won over higher ones. Between two
// linearizable writes, the winners in the order of the log have growing
// timestamps.
func (k *key) unordered() []Violation {
	if k.doubts {
		return nil
	}
	var log []*write
	for _, w := range k.writes {
		if w.version.Index > 0 {
			log = append(log, w)
		}
	}
	slices.SortStableFunc(log, func(a, b *write) int { return cmp.Compare(a.version.Index, b.version.Index) })
	var found []Violation
	for i := 1; i < len(log); i++ {
		a, b := log[i-1], log[i]
		if a.Kind == Delete && (b.Outcome != OK || b.Base >= a.version.Index) {
			continue // its tombstone may be gone, and who had heard of it need not be above it
		}
		if a.eventual() && b.eventual() && a.version.Index < b.version.Index && !b.version.beats(a.version) {
			found = append(found, violation(rulePrecedence, k, []*Op{a.Op, b.Op},
				"%s of %v replaced %s of %v, which is higher", quoted(b.Op), b.version, quoted(a.Op), a.version))
		}
	}
	return found
}
