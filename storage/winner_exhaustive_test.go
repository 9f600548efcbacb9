package storage

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// A writeSet is what is promoted in every order: eventual writes, each with the
// number of fixed events that its node had heard of, beside fixed events that
// stay in their order.
type writeSet struct {
	fixed  []eventKind
	know   []int
	writes []Tentative // bases are set as they are promoted
	// highs are the bases to try: see keyLog.base.
	highs []bool
}

// explorer plays every log of a writeSet.
type explorer struct {
	t    *testing.T
	set  writeSet
	logs int
	// finals is what the key ended with, by which writes came before each of
	// the floors. A floor is a promise that all writes with a base below it are
	// decided, so it is a part of what the order is asked for, and not of what
	// may vary.
	finals map[uint64]int
}

func (x *explorer) explore(l keyLog, promoted uint64, floors uint64, want *int) {
	n := len(x.set.writes)
	if len(l.fixed) == len(x.set.fixed) {
		want = x.read(l, promoted, want)
		if promoted == 1<<n-1 {
			x.logs++
			l.checkNothingLost(x.t)
			if before, seen := x.finals[floors]; seen && before != x.identify(l) {
				x.t.Fatalf("another order ends with %d, this one with %d: %v", before, x.identify(l), l)
			}
			x.finals[floors] = x.identify(l)
			return
		}
	} else {
		kind, after := x.set.fixed[len(l.fixed)], floors
		if kind == floorBehind || kind == floorHere {
			after = floors<<n | promoted
		}
		x.explore(l.fix(kind), promoted, after, want)
	}
	for id, w := range x.set.writes {
		if promoted>>id&1 == 1 || x.set.know[id] > len(l.fixed) {
			continue
		}
		for _, high := range x.set.highs {
			if w.Base = l.base(x.set.know[id], high); w.Base >= l.next() {
				continue
			}
			x.explore(l.promote(x.t, id, w), promoted|1<<id, floors, want)
		}
	}
}

// identify is what the key holds, in a form that is the same in every log.
func (x *explorer) identify(l keyLog) int {
	if l.heldID < holdsLin {
		return l.heldID
	}
	return holdsLin + slices.Index(l.fixed, uint64(l.heldID-holdsLin))
}

// read checks that an eventual read foretells what promoting the rest comes to,
// the same one all the way.
func (x *explorer) read(l keyLog, promoted uint64, want *int) *int {
	writes := make([]Tentative, 0, 8)
	for _, e := range l.events { // decided: they must not matter any more
		if e.kind == promotion {
			writes = append(writes, e.write)
		}
	}
	for id, w := range x.set.writes {
		if promoted>>id&1 == 0 {
			w.Base = l.base(x.set.know[id], false)
			writes = append(writes, w)
		}
	}
	for range 2 {
		got := x.identify(l)
		if w := Winner(l.held, l.floor, writes); w != nil {
			got = slices.IndexFunc(x.set.writes, func(o Tentative) bool { return o.Dot == w.Dot })
			if promoted>>got&1 == 1 {
				x.t.Fatalf("a read answers with write %d, which was decided before: %v", got, l)
			}
		}
		if want != nil && *want != got {
			x.t.Fatalf("a read answers with %d, and one before with %d: %v", got, *want, l)
		}
		want = &got
		slices.Reverse(writes)
	}
	return want
}

// scope says which logs to play: all those of every set of up to that many
// writes beside the fixed events, whatever each write's node has heard of.
type scope struct {
	writes int
	fixed  string
	rank   func(int) Tentative
	// deletes: each write is a put in one set and a delete in another.
	deletes bool
	// bases: each write has a low base in one log and a high one in another;
	// else it is the one in one set, and the other in the next.
	bases bool
}

// play returns how many sets and logs there were. Write 0 has the lowest rank,
// write 1 the next: as every write comes at every place, and with whatever it
// can have heard of, nothing is left out by that.
func (s scope) play(t *testing.T) (sets, logs int) {
	t.Helper()
	for n := 1; n <= s.writes; n++ {
		set := writeSet{fixed: []eventKind(s.fixed), know: make([]int, n), writes: make([]Tentative, n), highs: []bool{false, true}}
		masks := 1
		if s.deletes {
			masks = 1 << n
		}
		for more := true; more; more = set.nextKnow() {
			for mask := range masks {
				for i := range n {
					set.writes[i] = s.rank(i)
					set.writes[i].Delete = mask>>i&1 == 1
				}
				if !s.bases {
					set.highs = []bool{sets%2 == 0}
				}
				x := explorer{t: t, set: set, finals: map[uint64]int{}}
				x.explore(newKeyLog(), 0, 0, nil)
				sets, logs = sets+1, logs+x.logs
			}
		}
	}
	t.Logf("up to %d writes beside %q: %d sets, %d logs", s.writes, s.fixed, sets, logs)
	return sets, logs
}

// nextKnow counts through all that the writes may have heard of.
func (s *writeSet) nextKnow() bool {
	for i := range s.know {
		if s.know[i]++; s.know[i] <= len(s.fixed) {
			return true
		}
		s.know[i] = 0
	}
	return false
}

// Whatever order eventual writes are promoted in, before, between and after
// linearizable ones, the key ends with the same; no linearizable write loses to
// one that had not heard of it; nothing that lost is forgotten; and a read
// foretells the end.
func TestEveryOrderOfPromotionHasTheSameWinner(t *testing.T) {
	for _, s := range []scope{
		{writes: 4, bases: true},
		{writes: 5, fixed: "P"},
		{writes: 4, fixed: "P", bases: true},
		{writes: 4, fixed: "PP", bases: true},
		{writes: 3, fixed: "DP", bases: true},
		{writes: 3, fixed: "PDP", bases: true},
		{writes: 5, fixed: "PP"},
		{writes: 4, fixed: "PDP"},
	} {
		s.rank = ranked
		s.play(t)
	}
	for _, s := range []scope{
		{writes: 5},
		{writes: 3, fixed: "P", bases: true},
		{writes: 5, fixed: "P"},
	} {
		s.rank = rankedByTies
		s.play(t)
	}
}

// The same while the floor rises and tombstones are collected.
func TestEveryOrderOfPromotionAroundTheFloor(t *testing.T) {
	for _, s := range []scope{
		{writes: 3, fixed: "c", bases: true},
		{writes: 3, fixed: "C", bases: true},
		{writes: 3, fixed: "Dc", bases: true},
		{writes: 3, fixed: "DC", bases: true},
		{writes: 2, fixed: "DcP", bases: true},
		{writes: 2, fixed: "DCP", bases: true},
		{writes: 3, fixed: "PC"},
		{writes: 3, fixed: "Pc"},
		{writes: 3, fixed: "CP"},
		{writes: 3, fixed: "CD"},
		{writes: 3, fixed: "Cc"},
		{writes: 3, fixed: "DcP"},
		{writes: 3, fixed: "DCP"},
		{writes: 3, fixed: "DCD"},
		{writes: 3, fixed: "DcC"},
		{writes: 3, fixed: "PDC"},
		{writes: 3, fixed: "DPc"},
		{writes: 4, fixed: "Dc"},
	} {
		s.rank, s.deletes = ranked, true
		s.play(t)
	}
}

// Longer logs, drawn at random and played in two orders.
func TestAnyOrderOfPromotionHasTheSameWinner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := []eventKind{linPut, linDelete, floorBehind, floorHere}
		fixed := rapid.SliceOfN(rapid.SampledFrom(kinds), 0, 5).Draw(t, "fixed")
		n := rapid.IntRange(1, 10).Draw(t, "writes")
		type placed struct {
			know, after int // how many fixed events it has heard of, and comes behind
			write       Tentative
			high        bool
		}
		writes := make([]placed, n)
		for i := range writes {
			after := rapid.IntRange(0, len(fixed)).Draw(t, "after")
			writes[i] = placed{
				know:  rapid.IntRange(0, after).Draw(t, "know"),
				after: after,
				high:  rapid.Bool().Draw(t, "high"),
				write: Tentative{
					Dot:       Dot{rapid.SampledFrom(nodeIDs).Draw(t, "node"), rapid.Uint64Range(0, 1).Draw(t, "incarnation"), uint64(i + 1)},
					Timestamp: hlc.Timestamp(rapid.IntRange(1, 4).Draw(t, "timestamp")),
					Delete:    rapid.Bool().Draw(t, "delete"),
				},
			}
		}
		var first keyLog
		for round := range 2 {
			order := make([]int, n)
			for i := range order {
				order[i] = i
			}
			order = rapid.Permutation(order).Draw(t, "order")
			l := newKeyLog()
			for f := 0; ; f++ {
				for _, id := range order {
					if w := writes[id]; w.after == f {
						if w.write.Base = l.base(w.know, w.high); w.write.Base >= l.next() {
							w.write.Base = l.base(w.know, false)
						}
						l = l.promote(t, id, w.write)
					}
				}
				if f == len(fixed) {
					break
				}
				l = l.fix(fixed[f])
			}
			l.checkNothingLost(t)
			if round == 0 {
				first = l
			} else if first.heldID != l.heldID {
				t.Fatalf("%d after %v\n%d after %v", first.heldID, first, l.heldID, l)
			}
		}
	})
}
