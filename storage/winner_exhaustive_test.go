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

// everySet calls f with every set of n writes beside the fixed events: whatever
// each has heard of, in every order of their ranks.
func everySet(n int, fixed []eventKind, rank func(int) Tentative, f func(writeSet)) {
	ranks := make([]int, n)
	for i := range ranks {
		ranks[i] = i
	}
	permutations(ranks, 0, func() {
		set := writeSet{fixed: fixed, know: make([]int, n), writes: make([]Tentative, n), highs: []bool{false, true}}
		for i := range n {
			set.writes[i] = rank(ranks[i])
		}
		for {
			f(set)
			i := 0
			for ; i < n; i++ { // the next number of n digits
				if set.know[i]++; set.know[i] <= len(fixed) {
					break
				}
				set.know[i] = 0
			}
			if i == n {
				return
			}
		}
	})
}

func permutations(s []int, from int, f func()) {
	if from == len(s) {
		f()
		return
	}
	for i := from; i < len(s); i++ {
		s[from], s[i] = s[i], s[from]
		permutations(s, from+1, f)
		s[from], s[i] = s[i], s[from]
	}
}

// exploreAll plays every log of every set of up to most writes.
func exploreAll(t *testing.T, most int, fixed string, rank func(int) Tentative, deletes bool) (sets, logs int) {
	for n := 1; n <= most; n++ {
		everySet(n, []eventKind(fixed), rank, func(set writeSet) {
			for mask := range 1 << n {
				if mask != 0 && !deletes {
					break
				}
				for i := range set.writes {
					set.writes[i].Delete = mask>>i&1 == 1
				}
				x := explorer{t: t, set: set, finals: map[uint64]int{}}
				x.explore(newKeyLog(), 0, 0, nil)
				sets, logs = sets+1, logs+x.logs
			}
		})
	}
	return sets, logs
}

// Whatever order eventual writes are promoted in, before, between and after
// linearizable ones, the key ends with the same; no linearizable write loses to
// one that had not heard of it; nothing that lost is forgotten; and a read
// foretells the end.
func TestEveryOrderOfPromotionHasTheSameWinner(t *testing.T) {
	for _, c := range []struct {
		writes int
		fixed  string
	}{{4, ""}, {4, "P"}, {3, "PP"}, {3, "DP"}, {2, "PDP"}} {
		sets, logs := exploreAll(t, c.writes, c.fixed, ranked, false)
		t.Logf("up to %d writes beside %q: %d sets, %d logs", c.writes, c.fixed, sets, logs)
	}
}

func TestEveryOrderOfPromotionOfFourWrites(t *testing.T) {
	// One base a write here, or there are too many logs.
	sets, logs := 0, 0
	everySet(4, []eventKind("PP"), ranked, func(set writeSet) {
		set.highs = []bool{sets%2 == 0}
		x := explorer{t: t, set: set, finals: map[uint64]int{}}
		x.explore(newKeyLog(), 0, 0, nil)
		sets, logs = sets+1, logs+x.logs
	})
	t.Logf("4 writes beside two linearizable ones: %d sets, %d logs", sets, logs)
}

func TestEveryOrderOfPromotionWithEqualTimestamps(t *testing.T) {
	sets, logs := exploreAll(t, 3, "P", rankedByTies, false)
	t.Logf("up to 3 writes: %d sets, %d logs", sets, logs)
	everySet(5, nil, rankedByTies, func(set writeSet) {
		set.highs = []bool{false}
		x := explorer{t: t, set: set, finals: map[uint64]int{}}
		x.explore(newKeyLog(), 0, 0, nil)
	})
}

// The same while the floor rises and tombstones are collected.
func TestEveryOrderOfPromotionAroundTheFloor(t *testing.T) {
	for _, c := range []struct {
		writes int
		fixed  string
	}{
		{3, "c"}, {3, "C"},
		{3, "Dc"}, {3, "DC"}, {2, "PC"}, {2, "Pc"}, {2, "CP"}, {2, "CD"}, {2, "Cc"},
		{2, "DcP"}, {2, "DCP"}, {2, "DCD"}, {2, "DcC"}, {2, "PDC"}, {2, "DPc"},
	} {
		sets, logs := exploreAll(t, c.writes, c.fixed, ranked, true)
		t.Logf("up to %d writes beside %q: %d sets, %d logs", c.writes, c.fixed, sets, logs)
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
