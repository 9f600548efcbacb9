package storage

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/partition"
)

// MaxDotSpans bounds the runs of consecutive dots in a [DotSet], over all nodes
// and incarnations. In a healthy cluster there is one run an incarnation. There
// are more only while a node's writes are handed in by others who hold some of
// them each; this is enough for every second of half a million writes, and
// 4 MiB in memory.
const MaxDotSpans = 1 << 18

// ErrDotSetFull means that the dots to add do not fit within [MaxDotSpans].
// Dots that fill a gap always fit.
var ErrDotSetFull = errors.New("the set of dots has too many gaps")

// DotSet is a set of dots of one partition: the replicated record of those
// that were promoted, which makes promotion happen once whoever hands a write
// in and however often; and the summary of what a node has, by which another
// tells what it lacks.
//
// It is a version vector with exceptions: for each incarnation of each node the
// runs of consecutive sequence numbers. Usually that is one run from 1, however
// many dots it stands for; a dot that comes out of order makes a run of its own
// until the gap before it is filled. Nothing is ever taken out, so a dot that
// was there once is known for ever.
//
// The zero value is an empty set. Calls that only read may be concurrent with
// each other; Add, AddRange, Merge and Clone may not be concurrent with any
// other call. A DotSet must not be copied but with Clone.
type DotSet struct {
	// origins is sorted by node and incarnation, spans is the number of runs in
	// all of them.
	origins []dotOrigin
	spans   int
	// ownsOrigins says that no clone uses the array of origins, so that it may
	// be changed in place.
	ownsOrigins bool
}

// dotOrigin is one incarnation's part of a set.
type dotOrigin struct {
	node        partition.NodeID
	incarnation uint64
	// runs is never empty. It is sorted, and between two runs there is at least
	// one number that belongs to neither: each set has one form only.
	runs []dotRun
	// ownsRuns says that no clone uses the array of runs. It counts only where
	// the set owns its origins.
	ownsRuns bool
}

type dotRun struct{ first, last uint64 }

func (o *dotOrigin) compare(node partition.NodeID, incarnation uint64) int {
	return cmp.Or(cmp.Compare(o.node, node), cmp.Compare(o.incarnation, incarnation))
}

// find is the place of an incarnation in s.origins, and whether it is there.
func (s *DotSet) find(node partition.NodeID, incarnation uint64) (int, bool) {
	return slices.BinarySearchFunc(s.origins, dotOrigin{node: node, incarnation: incarnation},
		func(o, want dotOrigin) int { return o.compare(want.node, want.incarnation) })
}

// runsOf is the runs of an incarnation, not to be changed.
func (s *DotSet) runsOf(node partition.NodeID, incarnation uint64) []dotRun {
	i, found := s.find(node, incarnation)
	if !found {
		return nil
	}
	return s.origins[i].runs
}

// runAt is the place of the first of runs that ends at n or later.
func runAt(runs []dotRun, n uint64) int {
	i, _ := slices.BinarySearchFunc(runs, n, func(r dotRun, n uint64) int { return cmp.Compare(r.last, n) })
	return i
}

// Has reports whether d is in the set.
func (s *DotSet) Has(d Dot) bool {
	runs := s.runsOf(d.Node, d.Incarnation)
	i := runAt(runs, d.Sequence)
	return i < len(runs) && runs[i].first <= d.Sequence
}

// Add puts d into the set; if it is there already nothing changes. The error
// is [ErrDotSetFull], or says that d is no dot; the set is unchanged then.
func (s *DotSet) Add(d Dot) error { return s.AddRange(RangeOf(d)) }

// AddRange puts all dots of r into the set, as Add does with one. It costs
// about the number of runs of that incarnation, not of dots.
func (s *DotSet) AddRange(r DotRange) error { return s.addRange(r, MaxDotSpans) }

// addRange is AddRange with another bound on the runs.
func (s *DotSet) addRange(r DotRange, most int) error {
	if err := r.check(); err != nil {
		return err
	}
	at, found := s.find(r.Node, r.Incarnation)
	if !found {
		if s.spans >= most {
			return ErrDotSetFull
		}
		s.ownOrigins()
		s.origins = slices.Insert(s.origins, at, dotOrigin{
			node: r.Node, incarnation: r.Incarnation,
			runs: []dotRun{{r.First, r.Last}}, ownsRuns: true,
		})
		s.spans++
		return nil
	}

	// The new run takes up runs[i:j]: those that it overlaps or touches.
	runs := s.origins[at].runs
	i := runAt(runs, max(r.First-1, 1)) // First is 1 or more
	j := i
	for j < len(runs) && (runs[j].first <= r.Last || runs[j].first-1 == r.Last) {
		j++
	}
	run := dotRun{r.First, r.Last}
	if i < j {
		if runs[i].first <= r.First && runs[i].last >= r.Last {
			return nil
		}
		run.first = min(run.first, runs[i].first)
		run.last = max(run.last, runs[j-1].last)
	} else if s.spans >= most {
		return ErrDotSetFull
	}
	s.ownOrigins()
	o := &s.origins[at]
	if !o.ownsRuns {
		o.runs, o.ownsRuns = slices.Clone(o.runs), true
	}
	s.spans += 1 - (j - i)
	if i < j {
		// In place, as Replace would, for what happens all the time: a run grows.
		o.runs[i] = run
		o.runs = slices.Delete(o.runs, i+1, j)
	} else {
		o.runs = slices.Insert(o.runs, i, run)
	}
	return nil
}

// ownOrigins makes the array of origins one that may be changed in place.
func (s *DotSet) ownOrigins() {
	if s.ownsOrigins {
		return
	}
	s.origins = slices.Clone(s.origins)
	for i := range s.origins {
		s.origins[i].ownsRuns = false
	}
	s.ownsOrigins = true
}

// Clone is an independent copy. It costs nothing by itself: the two share what
// neither has changed since. To clone a set that is a clone itself and was not
// changed since only reads it, so that others may do so at the same time.
func (s *DotSet) Clone() *DotSet {
	if s.ownsOrigins {
		s.ownsOrigins = false
	}
	return &DotSet{origins: s.origins, spans: s.spans}
}

// Merge puts all dots of other into the set. With [ErrDotSetFull] the set is
// unchanged. It costs about the number of runs in both.
func (s *DotSet) Merge(other *DotSet) error {
	if !other.hasBeyond(s) {
		return nil
	}
	merged := DotSet{origins: make([]dotOrigin, 0, max(len(s.origins), len(other.origins))), ownsOrigins: true}
	ours, theirs := s.origins, other.origins
	for len(ours) > 0 || len(theirs) > 0 {
		var order int
		switch {
		case len(theirs) == 0:
			order = -1
		case len(ours) == 0:
			order = 1
		default:
			order = ours[0].compare(theirs[0].node, theirs[0].incarnation)
		}
		var o dotOrigin
		switch {
		case order < 0:
			o = ours[0]
			o.ownsRuns = o.ownsRuns && s.ownsOrigins
		case order > 0:
			o = theirs[0]
			o.runs, o.ownsRuns = slices.Clone(o.runs), true
		default:
			o = ours[0]
			o.runs, o.ownsRuns = mergeRuns(o.runs, theirs[0].runs), true
		}
		if order <= 0 {
			ours = ours[1:]
		}
		if order >= 0 {
			theirs = theirs[1:]
		}
		merged.origins = append(merged.origins, o)
		merged.spans += len(o.runs)
	}
	if merged.spans > MaxDotSpans {
		return ErrDotSetFull
	}
	*s = merged
	return nil
}

// hasBeyond reports whether the set has a dot that other lacks.
func (s *DotSet) hasBeyond(other *DotSet) bool {
	for range s.Minus(other) {
		return true
	}
	return false
}

// mergeRuns is a new array with the numbers of both.
func mergeRuns(a, b []dotRun) []dotRun {
	merged := make([]dotRun, 0, max(len(a), len(b)))
	for len(a) > 0 || len(b) > 0 {
		if len(a) == 0 || len(b) > 0 && b[0].first < a[0].first {
			a, b = b, a
		}
		next := a[0]
		a = a[1:]
		// A run is at least 1, so that first-1 is a number.
		if n := len(merged) - 1; n >= 0 && next.first-1 <= merged[n].last {
			merged[n].last = max(merged[n].last, next.last)
			continue
		}
		merged = append(merged, next)
	}
	return merged
}

// Ranges is the runs of the set, in the order of their dots.
func (s *DotSet) Ranges() iter.Seq[DotRange] {
	return func(yield func(DotRange) bool) {
		for _, o := range s.origins {
			for _, r := range o.runs {
				if !yield(DotRange{o.node, o.incarnation, r.first, r.last}) {
					return
				}
			}
		}
	}
}

// Minus is the dots of the set that other lacks, as the fewest ranges, in the
// order of the dots.
func (s *DotSet) Minus(other *DotSet) iter.Seq[DotRange] {
	return func(yield func(DotRange) bool) {
		for _, o := range s.origins {
			theirs := other.runsOf(o.node, o.incarnation)
			for _, r := range o.runs {
				// next is the lowest number of r not yet dealt with.
				next, done := r.first, false
				for theirs = theirs[runAt(theirs, next):]; len(theirs) > 0 && theirs[0].first <= r.last; theirs = theirs[1:] {
					t := theirs[0]
					if next < t.first && !yield(DotRange{o.node, o.incarnation, next, t.first - 1}) {
						return
					}
					if t.last >= r.last { // it may reach into the next run as well
						done = true
						break
					}
					next = t.last + 1
				}
				if !done && !yield(DotRange{o.node, o.incarnation, next, r.last}) {
					return
				}
			}
		}
	}
}

// Equal reports whether both sets have the same dots.
func (s *DotSet) Equal(other *DotSet) bool {
	return slices.EqualFunc(s.origins, other.origins, func(a, b dotOrigin) bool {
		return a.compare(b.node, b.incarnation) == 0 && slices.Equal(a.runs, b.runs)
	})
}

// IsEmpty reports whether there is no dot in the set.
func (s *DotSet) IsEmpty() bool { return len(s.origins) == 0 }

// Len is the number of dots in the set, or the highest number there is if they
// are more.
func (s *DotSet) Len() uint64 {
	var n uint64
	for r := range s.Ranges() {
		more := r.Last - r.First + 1 // not 0: First is 1 or more
		if n > math.MaxUint64-more {
			return math.MaxUint64
		}
		n += more
	}
	return n
}

// Spans is the number of runs of consecutive dots: what the set costs in
// memory and on the wire. It is at most [MaxDotSpans].
func (s *DotSet) Spans() int { return s.spans }

// String lists the ranges, in the order of their dots: "{n1/a:1-3,5 n2/7:1}".
func (s *DotSet) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, o := range s.origins {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s/%x:", o.node, o.incarnation)
		for j, r := range o.runs {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%d", r.first)
			if r.last > r.first {
				fmt.Fprintf(&b, "-%d", r.last)
			}
		}
	}
	b.WriteByte('}')
	return b.String()
}
