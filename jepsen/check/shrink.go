package check

import (
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// maxShrinkTries bounds how often a history is judged while it is shrunk. Each try
// is of a smaller history than the one before that failed; a few hundred operations
// are through in some hundred.
const maxShrinkTries = 2_000

// shrink gives the shortest part of ops that it finds which still fails: as
// delta debugging does, it leaves out halves, then quarters, then single operations,
// until none can be spared. It asks nothing of fails but that it fails for ops.
//
// A part would also fail for a bad reason if it had a read and not the write of
// what was read. So what goes takes with it what only it explains (dependents):
// a part of a good history made so is good, and what is left when no more can
// go is a violation by itself.
func shrink(ops []*history.Op, fails func([]*history.Op) bool) []*history.Op {
	kept := slices.Clone(ops)
	tries := 0
	for size := (len(kept) + 1) / 2; size > 0 && tries < maxShrinkTries; {
		spared := false
		// From the end: what comes later explains nothing, and is often much.
		for at := len(kept); at > 0 && tries < maxShrinkTries; {
			from := max(at-size, 0)
			rest := without(kept, kept[from:at])
			if tries++; len(rest) < len(kept) && fails(rest) {
				spared = true
				// Dependents may have gone before or behind.
				gone := 0
				for _, o := range kept[:from] {
					if !slices.Contains(rest, o) {
						gone++
					}
				}
				kept, at = rest, from-gone
				continue
			}
			at = from
		}
		if size == 1 && !spared {
			break
		}
		if size > 1 {
			size /= 2
		}
	}
	return kept
}

// without leaves out some operations and all that depends on them.
func without(ops, some []*history.Op) []*history.Op {
	gone := make(map[*history.Op]bool, len(some))
	next := slices.Clone(some)
	for len(next) > 0 {
		o := next[0]
		next = next[1:]
		if gone[o] {
			continue
		}
		gone[o] = true
		if !o.Write() || o.Outcome == history.Fail {
			continue // nothing rests on it
		}
		for _, p := range ops {
			if !gone[p] && dependent(p, o) {
				next = append(next, p)
			}
		}
	}
	var rest []*history.Op
	for _, o := range ops {
		if !gone[o] {
			rest = append(rest, o)
		}
	}
	return rest
}

// dependent: without the write w, whose place the value before it would take, the
// answer of o might not be explained. It errs on the side of yes.
func dependent(o, w *history.Op) bool {
	if o == w || o.Outcome == history.Fail && !o.Mismatch {
		return false
	}
	if o.Func == history.Scan {
		i := slices.IndexFunc(o.Entries, func(e history.Entry) bool { return e.Key == w.Key })
		if w.Func == history.Put {
			return i >= 0 && o.Entries[i].Value == w.Value
		}
		return i < 0 && !early(o, w)
	}
	if o.Key != w.Key {
		return false
	}
	if o.Mismatch {
		return !early(o, w) // w may be why, also if another value was expected
	}
	switch w.Func {
	case history.Put:
		switch {
		case !o.Write():
			return o.Found && o.Value == w.Value
		case o.Condition == history.IfVersion:
			return o.Expect == w.Value
		}
		return o.Condition == history.IfPresent && !early(o, w)
	default:
		if !o.Write() {
			return !o.Found && !early(o, w)
		}
		return o.Condition == history.IfAbsent && !early(o, w)
	}
}

// early: o had been answered before w began, so it can not have been told of it.
func early(o, w *history.Op) bool {
	return o.Outcome != "" && o.Outcome != history.Info && o.Return < w.Invoke
}

const (
	// maxShrunk findings of one checker are shrunk: the first tell the story.
	maxShrunk = 5
	// A part is given a tenth of the patience that there is for the whole.
	shrinkShare = 10
)

// shrunk makes a checker of one whose findings show all operations of a key: they
// show the shortest part that the same checker finds fault with. All findings
// together may take as long as one key.
func shrunk(check func(*View) Judgement) func(*View) Judgement {
	return func(v *View) Judgement {
		j := check(v)
		until := time.Now().Add(v.Options.Patience)
		for i := range j.Findings[:min(maxShrunk, len(j.Findings))] {
			f := &j.Findings[i]
			if f.Undecided {
				continue
			}
			part := *v
			part.Stats = &Stats{}
			fails := func(ops []*history.Op) bool {
				part.Ops, part.Options.Patience = ops, min(v.Options.Patience/shrinkShare, time.Until(until))
				return part.Options.Patience > 0 && slices.ContainsFunc(check(&part).Findings, func(found Finding) bool {
					return found.Key == f.Key && !found.Undecided
				})
			}
			f.Ops = show(shrink(f.of(v.Ops), fails)...)
		}
		return j
	}
}

// of finds the operations that a finding shows.
func (f *Finding) of(ops []*history.Op) []*history.Op {
	shown := map[int]bool{}
	for _, o := range f.Ops {
		shown[o.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(ops), func(o *history.Op) bool { return !shown[o.ID] })
}
