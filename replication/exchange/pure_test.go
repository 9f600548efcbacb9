package exchange

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		self, leader    partition.NodeID
		replica         bool
		replicas, nodes string
		silent, want    string
	}{
		{self: "a", replica: true, leader: "b", replicas: "a b c", nodes: "a b c d e", want: "a b c d e"},
		{self: "b", replica: true, leader: "c", replicas: "a b c", nodes: "a b c d e", want: "b c a d e"},
		{self: "b", leader: "", replicas: "a b c", nodes: "a b c d e", want: "b a c d e"}, // its replica is not open yet
		{self: "d", leader: "c", replicas: "a b c", nodes: "a b c d e", want: "c a b d e"},
		{self: "d", leader: "c", replicas: "a b c", nodes: "a b c d e", silent: "c", want: "a b d e"},
		{self: "d", leader: "c", replicas: "a b c", nodes: "a b c d e", silent: "a b c", want: "d e"},
		{self: "d", leader: "c", replicas: "a b c", nodes: "a b c d e", silent: "a b c e", want: "d"},
		{self: "d", replica: true, leader: "a", replicas: "a b c", nodes: "a b c d", want: "d a b c"}, // moved away, and still readable
		{self: "d", leader: "e", replicas: "a b c", nodes: "a b c d e", want: "a b c d e"},            // an old guess
		{self: "x", leader: "", replicas: "", nodes: "", want: "x"},
	} {
		got := choose(surroundings{
			self: c.self, replica: c.replica, leader: c.leader, replicas: names(c.replicas), nodes: names(c.nodes),
			reachable: func(n partition.NodeID) bool { return !slices.Contains(names(c.silent), n) },
		})
		if !slices.Equal(got, names(c.want)) {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func names(s string) (ids []partition.NodeID) {
	for _, n := range strings.Fields(s) {
		ids = append(ids, partition.NodeID(n))
	}
	return ids
}

// Whoever is there, the order has this node once, all reachable nodes once, and
// nobody else.
func TestChooseProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := names("a b c d e f")
		some := func(what string) (ids []partition.NodeID) {
			for _, n := range rapid.Permutation(all).Draw(t, what) {
				if rapid.Bool().Draw(t, what+" has "+string(n)) {
					ids = append(ids, n)
				}
			}
			return ids
		}
		up := some("up")
		s := surroundings{
			self: "a", replica: rapid.Bool().Draw(t, "replica"), replicas: some("replicas"), nodes: some("nodes"),
			leader:    rapid.SampledFrom(append(names("z"), all...)).Draw(t, "leader"),
			reachable: func(n partition.NodeID) bool { return slices.Contains(up, n) },
		}
		got := choose(s)
		want := map[partition.NodeID]bool{"a": true}
		for _, n := range slices.Concat(s.replicas, s.nodes) {
			if s.reachable(n) {
				want[n] = true
			}
		}
		for i, n := range got {
			if !want[n] || slices.Index(got, n) != i {
				t.Fatalf("%v of %v", got, want)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%v of %v", got, want)
		}
		if (s.replica || slices.Contains(s.replicas, "a")) != (got[0] == "a") && len(got) > 1 && slices.Contains(s.replicas, got[1]) {
			t.Fatalf("%v: a replica is first, and no other node is before replicas", got)
		}
	})
}

// model is a set of dots as a map.
func model(s *storage.DotSet) map[storage.Dot]bool {
	m := map[storage.Dot]bool{}
	for r := range s.Ranges() {
		for n := r.First; n <= r.Last; n++ {
			m[storage.Dot{Node: r.Node, Incarnation: r.Incarnation, Sequence: n}] = true
		}
	}
	return m
}

func drawSmall(t *rapid.T, name string) *storage.DotSet {
	s := &storage.DotSet{}
	for range rapid.IntRange(0, 5).Draw(t, name) {
		first := rapid.Uint64Range(1, 12).Draw(t, "first")
		r := storage.DotRange{
			Node: rapid.SampledFrom(names("a b")).Draw(t, "node"), Incarnation: rapid.Uint64Range(1, 2).Draw(t, "incarnation"),
			First: first, Last: first + rapid.Uint64Range(0, 3).Draw(t, "more"),
		}
		if err := s.AddRange(r); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestSetsOfDots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawSmall(t, "a"), drawSmall(t, "b"), drawSmall(t, "c")
		left, both := map[storage.Dot]bool{}, map[storage.Dot]bool{}
		for d := range model(a) {
			if !b.Has(d) && !c.Has(d) {
				left[d] = true
			}
			if b.Has(d) {
				both[d] = true
			}
		}
		if got := model(minus(a, b, c)); fmt.Sprint(got) != fmt.Sprint(left) {
			t.Fatalf("%v - %v - %v = %v", a, b, c, got)
		}
		if got := model(common(a, b)); fmt.Sprint(got) != fmt.Sprint(both) {
			t.Fatalf("%v and %v have %v in common", a, b, got)
		}
		spans := rapid.IntRange(1, 4).Draw(t, "spans")
		whole := &storage.DotSet{}
		for _, p := range parts(a, spans) {
			if p.Spans() > spans {
				t.Fatalf("a part of %v is %v, more than %d runs", a, p, spans)
			}
			if err := whole.Merge(p); err != nil {
				t.Fatal(err)
			}
		}
		if !whole.Equal(a) {
			t.Fatalf("the parts of %v make %v", a, whole)
		}
	})
}

func TestBehind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSmall(t, "set")
		last := storage.Dot{
			Node: rapid.SampledFrom(names("a b")).Draw(t, "node"), Incarnation: rapid.Uint64Range(1, 2).Draw(t, "incarnation"),
			Sequence: rapid.Uint64Range(1, 16).Draw(t, "sequence"),
		}
		got := &storage.DotSet{}
		for _, r := range behind(slices.Collect(s.Ranges()), last) {
			if err := got.AddRange(r); err != nil {
				t.Fatal(err)
			}
		}
		want := map[storage.Dot]bool{}
		for d := range model(s) {
			if d.Compare(last) > 0 {
				want[d] = true
			}
		}
		if fmt.Sprint(model(got)) != fmt.Sprint(want) {
			t.Fatalf("behind %v of %v: %v", last, s, got)
		}
	})
}

// A write is aged when it was there before: by number, below what was the
// newest then, or above all that came since it is counted.
func TestAged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		aged := rapid.Uint64Range(0, 8).Draw(t, "aged")
		newest := aged + rapid.Uint64Range(0, 8).Draw(t, "newer")
		o := origin{"a", 1}
		pl := &place{newest: map[origin]uint64{o: newest}, aged: map[origin]uint64{o: aged}}
		first := rapid.Uint64Range(1, 20).Draw(t, "first")
		r := storage.DotRange{Node: "a", Incarnation: 1, First: first, Last: first + rapid.Uint64Range(0, 10).Draw(t, "more")}
		got := map[uint64]bool{}
		for _, part := range pl.agedOf(r) {
			for n := part.First; n <= part.Last && n > 0; n++ {
				got[n] = true
			}
		}
		for n := r.First; n <= r.Last; n++ {
			want := n <= aged || n > newest
			if got[n] != want || pl.isAged(storage.Dot{Node: "a", Incarnation: 1, Sequence: n}) != want {
				t.Fatalf("%d of %v, aged to %d, newest %d: %v", n, r, aged, newest, got[n])
			}
		}
	})
}
