package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// The set workload: elements are added to a value by writing it whole, on
// condition that the version that was read still stands. Each anomaly has a
// checker of its own, since each points at another kind of mistake.
var (
	setLost = Checker{
		Workload: "set", Name: "lost",
		What:  "an element that was acknowledged, or read, is not missing from then on",
		Check: bySet((*aSet).lost),
	}
	setStale = Checker{
		Workload: "set", Name: "stale",
		What:  "an element that was acknowledged, or read, is not missing from a later read, to be there again after it",
		Check: bySet((*aSet).stale),
	}
	setDuplicated = Checker{
		Workload: "set", Name: "duplicated",
		What:  "no element is there twice",
		Check: bySet((*aSet).duplicated),
	}
	setPhantom = Checker{
		Workload: "set", Name: "phantom",
		What:  "no element is there that nobody added, that was refused, or before it was added",
		Check: bySet((*aSet).phantom),
	}
	setForked = Checker{
		Workload: "set", Name: "forked",
		What:  "of two values of a set one is the beginning of the other: nobody added to an old one",
		Check: bySet((*aSet).forked),
	}
)

// aSet is what a history tells about one key.
type aSet struct {
	key string
	// states are answers that say what stood there at some moment of theirs, as
	// they began: what was read, and what was written with success.
	states []state
	added  map[string]*history.Op // by element
}

type state struct {
	*history.Op
	elements []string
	has      map[string]bool
}

func newState(o *history.Op) state {
	s := state{Op: o, elements: strings.Fields(o.Value), has: map[string]bool{}}
	for _, e := range s.elements {
		s.has[e] = true
	}
	return s
}

func bySet(check func(*aSet) []Finding) func(*View) Judgement {
	return func(v *View) Judgement {
		var j Judgement
		for _, ops := range byKey(v.Ops) {
			s := &aSet{key: ops[0].Key, added: map[string]*history.Op{}}
			for _, o := range ops {
				if o.Func == history.Put {
					s.added[o.Element] = o
				}
				if o.Outcome == history.OK {
					s.states = append(s.states, newState(o))
				}
			}
			j.Seen += len(s.states)
			j.Findings = append(j.Findings, check(s)...)
		}
		return j
	}
}

func (s *aSet) finding(ops []*history.Op, why string, args ...any) Finding {
	return Finding{Key: s.key, Why: fmt.Sprintf(why, args...), Ops: show(ops...)}
}

func (s *aSet) lost() []Finding  { return s.missing(true) }
func (s *aSet) stale() []Finding { return s.missing(false) }

// missing finds the first state that lacks an element which was known to be there
// before it began, of those that lack it for good, or of those that do not. One
// is enough: with an element most others of its time are gone.
func (s *aSet) missing(forGood bool) []Finding {
	ended := slices.Clone(s.states)
	slices.SortStableFunc(ended, func(a, b state) int { return cmp.Compare(a.Return, b.Return) })
	type witness struct {
		element string
		*history.Op
	}
	var known []witness // what was there before the state that is looked at
	is := map[string]bool{}
	for _, later := range s.states {
		for ; len(ended) > 0 && ended[0].Return < later.Invoke; ended = ended[1:] {
			for _, e := range ended[0].elements {
				if !is[e] {
					is[e] = true
					known = append(known, witness{e, ended[0].Op})
				}
			}
		}
		for _, w := range known {
			if later.has[w.element] || s.again(later, w.element) == forGood {
				continue
			}
			why := "element %s was there, and is missing later"
			if forGood {
				why = "element %s was there, and is lost"
			}
			ops := []*history.Op{w.Op, later.Op}
			if added := s.added[w.element]; added != nil {
				ops = append(ops, added)
			}
			return []Finding{s.finding(ops, why, w.element)}
		}
	}
	return nil
}

// again: a state that began after this one has the element.
func (s *aSet) again(missed state, element string) bool {
	return slices.ContainsFunc(s.states, func(o state) bool { return o.Invoke > missed.Return && o.has[element] })
}

func (s *aSet) duplicated() []Finding {
	for _, o := range s.states {
		seen := map[string]bool{}
		for _, e := range o.elements {
			if seen[e] {
				ops := []*history.Op{o.Op}
				if w := s.added[e]; w != nil {
					ops = append(ops, w)
				}
				return []Finding{s.finding(ops, "element %s is there twice", e)}
			}
			seen[e] = true
		}
	}
	return nil
}

func (s *aSet) phantom() []Finding {
	for _, o := range s.states {
		for _, e := range o.elements {
			w := s.added[e]
			switch {
			case w == nil:
				return []Finding{s.finding([]*history.Op{o.Op}, "element %s was never added", e)}
			case w.Outcome == history.Fail:
				return []Finding{s.finding([]*history.Op{w, o.Op}, "element %s was refused, and is there", e)}
			case w.Invoke > o.Return:
				return []Finding{s.finding([]*history.Op{w, o.Op}, "element %s is there before it was added", e)}
			}
		}
	}
	return nil
}

func (s *aSet) forked() []Finding {
	byLength := slices.Clone(s.states)
	slices.SortStableFunc(byLength, func(a, b state) int { return len(a.elements) - len(b.elements) })
	for i := 1; i < len(byLength); i++ {
		a, b := byLength[i-1], byLength[i]
		if !slices.Equal(a.elements, b.elements[:len(a.elements)]) {
			return []Finding{s.finding([]*history.Op{a.Op, b.Op}, "two values, neither of which came from the other")}
		}
	}
	return nil
}

// byKey sorts operations by key, keys by name.
func byKey(ops []*history.Op) [][]*history.Op {
	of := map[string][]*history.Op{}
	var keys []string
	for _, o := range ops {
		if of[o.Key] == nil {
			keys = append(keys, o.Key)
		}
		of[o.Key] = append(of[o.Key], o)
	}
	slices.Sort(keys)
	var sorted [][]*history.Op
	for _, k := range keys {
		sorted = append(sorted, of[k])
	}
	return sorted
}
