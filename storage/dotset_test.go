package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
)

func dotsOf(t fataler, ranges ...DotRange) *DotSet {
	t.Helper()
	s := new(DotSet)
	for _, r := range ranges {
		ok(t, s.AddRange(r))
	}
	return s
}

func span(node partition.NodeID, first, last uint64) DotRange {
	return DotRange{Node: node, Incarnation: 0xa1, First: first, Last: last}
}

// dotModel is a set of dots as a map: what a DotSet is compared with.
type dotModel map[Dot]bool

func (m dotModel) add(r DotRange) {
	for n := r.First; n <= r.Last; n++ {
		m[Dot{r.Node, r.Incarnation, n}] = true
	}
}

// ranges is the fewest ranges of the model's dots, in order.
func (m dotModel) ranges() []DotRange {
	var out []DotRange
	for _, d := range slices.SortedFunc(maps.Keys(m), Dot.Compare) {
		if n := len(out) - 1; n >= 0 && out[n].Node == d.Node && out[n].Incarnation == d.Incarnation && out[n].Last+1 == d.Sequence {
			out[n].Last++
			continue
		}
		out = append(out, RangeOf(d))
	}
	return out
}

func (m dotModel) minus(o dotModel) dotModel {
	out := maps.Clone(m)
	maps.DeleteFunc(out, func(d Dot, _ bool) bool { return o[d] })
	return out
}

const modelSequences = 24 // few, so that ranges meet

func drawDot(t *rapid.T) Dot {
	return Dot{
		Node:        rapid.SampledFrom([]partition.NodeID{"n1-aaaa", "n2-bbbb", "n10-c"}).Draw(t, "node"),
		Incarnation: rapid.SampledFrom([]uint64{0, 7, math.MaxUint64}).Draw(t, "incarnation"),
		Sequence:    rapid.Uint64Range(1, modelSequences).Draw(t, "sequence"),
	}
}

func drawDotRange(t *rapid.T) DotRange {
	r := RangeOf(drawDot(t))
	r.Last = min(r.First+rapid.Uint64Range(0, 5).Draw(t, "more"), modelSequences)
	return r
}

// same checks everything that a set tells against the model.
func (m dotModel) same(t fataler, s *DotSet) {
	t.Helper()
	want := m.ranges()
	if got := slices.Collect(s.Ranges()); !slices.Equal(got, want) {
		t.Fatalf("ranges %v, want %v", got, want)
	}
	if s.Len() != uint64(len(m)) || s.Spans() != len(want) || s.IsEmpty() != (len(m) == 0) {
		t.Fatalf("%v: %d dots in %d spans, want %d in %d", s, s.Len(), s.Spans(), len(m), len(want))
	}
	for _, node := range []partition.NodeID{"n1-aaaa", "n2-bbbb", "n10-c", "n3-dddd"} {
		for _, incarnation := range []uint64{0, 7, math.MaxUint64, 8} {
			for n := uint64(0); n <= modelSequences+2; n++ {
				if d := (Dot{node, incarnation, n}); s.Has(d) != m[d] {
					t.Fatalf("%v: Has(%v) is %v", s, d, s.Has(d))
				}
			}
		}
	}
}

// Dots come in any order, more than once, with gaps, into sets that have
// clones; each set always is what its own additions make of it.
func TestDotSetIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sets, models := []*DotSet{{}}, []dotModel{{}}
		pick := func(what string) int { return rapid.IntRange(0, len(sets)-1).Draw(t, what) }
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				i, d := pick("set"), drawDot(t)
				ok(t, sets[i].Add(d))
				models[i].add(RangeOf(d))
			},
			"add range": func(t *rapid.T) {
				i, r := pick("set"), drawDotRange(t)
				ok(t, sets[i].AddRange(r))
				models[i].add(r)
			},
			"clone": func(t *rapid.T) {
				if len(sets) == 4 {
					t.Skip("enough clones")
				}
				i := pick("set")
				sets, models = append(sets, sets[i].Clone()), append(models, maps.Clone(models[i]))
			},
			"merge": func(t *rapid.T) {
				i, j := pick("into"), pick("from")
				ok(t, sets[i].Merge(sets[j]))
				maps.Copy(models[i], models[j])
			},
			"": func(t *rapid.T) {
				for i := range sets {
					models[i].same(t, sets[i])
				}
				i, j := pick("one"), pick("other")
				lacks := models[i].minus(models[j])
				if got, want := slices.Collect(sets[i].Minus(sets[j])), lacks.ranges(); !slices.Equal(got, want) {
					t.Fatalf("%v minus %v: %v, want %v", sets[i], sets[j], got, want)
				}
				if got, want := sets[i].Equal(sets[j]), maps.Equal(models[i], models[j]); got != want {
					t.Fatalf("%v equals %v: %v", sets[i], sets[j], got)
				}
				if got, want := bytes.Equal(AppendDotSet(nil, sets[i]), AppendDotSet(nil, sets[j])), maps.Equal(models[i], models[j]); got != want {
					t.Fatalf("%v and %v have the same encoding: %v", sets[i], sets[j], got)
				}
			},
		})
	})
}

// What one lacks, sent over and added, makes both equal.
func TestDotSetExchangeConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := new(DotSet), new(DotSet)
		for _, r := range rapid.SliceOfN(rapid.Custom(drawDotRange), 0, 20).Draw(t, "a") {
			ok(t, a.AddRange(r))
		}
		for _, r := range rapid.SliceOfN(rapid.Custom(drawDotRange), 0, 20).Draw(t, "b") {
			ok(t, b.AddRange(r))
		}
		toB, toA := slices.Collect(a.Minus(b)), slices.Collect(b.Minus(a))
		for _, r := range toB {
			ok(t, b.AddRange(r))
		}
		for _, r := range toA {
			ok(t, a.AddRange(r))
		}
		if !a.Equal(b) {
			t.Fatalf("%v and %v", a, b)
		}
		for range a.Minus(b) {
			t.Fatal("equal sets lack something")
		}
	})
}

func TestDotSetMinusStopsWhenAsked(t *testing.T) {
	s := dotsOf(t, span("n1", 1, 3), span("n1", 5, 6), span("n2", 2, 9))
	for _, other := range []*DotSet{{}, dotsOf(t, span("n1", 2, 2), span("n2", 4, 4))} {
		all := slices.Collect(s.Minus(other))
		for stop := 1; stop <= len(all); stop++ {
			var got []DotRange
			for r := range s.Minus(other) {
				if got = append(got, r); len(got) == stop {
					break
				}
			}
			if !slices.Equal(got, all[:stop]) {
				t.Fatalf("%v, want %v", got, all[:stop])
			}
		}
	}
}

func TestDotSetAtTheEndsOfTheNumbers(t *testing.T) {
	const last = math.MaxUint64
	s := dotsOf(t, span("n1", last, last), span("n1", 1, 1), span("n1", last-2, last-2))
	if got, want := s.String(), "{n1/a1:1,18446744073709551613,18446744073709551615}"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	back, err := DecodeDotSet(AppendDotSet(nil, s))
	ok(t, err)
	if !back.Equal(s) {
		t.Fatalf("%v came back as %v", s, back)
	}
	all := dotsOf(t, span("n1", 1, last))
	if got := slices.Collect(all.Minus(s)); !slices.Equal(got, []DotRange{span("n1", 2, last-3), span("n1", last-1, last-1)}) {
		t.Fatalf("%v", got)
	}
	ok(t, s.AddRange(span("n1", 1, last)))
	ok(t, all.Merge(s))
	if !s.Equal(all) || s.Len() != last || s.Spans() != 1 {
		t.Fatalf("%v", s)
	}
	ok(t, s.AddRange(span("n2", 1, last)))
	if s.Len() != last {
		t.Fatalf("two full incarnations have %d dots", s.Len())
	}
	back, err = DecodeDotSet(AppendDotSet(nil, s))
	ok(t, err)
	if !back.Equal(s) {
		t.Fatalf("%v came back as %v", s, back)
	}
}

func TestDotSetRefusesWhatIsNoDot(t *testing.T) {
	s := dotsOf(t, span("n1", 1, 2))
	for _, r := range []DotRange{
		{},
		span("", 1, 1),
		span("n1", 0, 3),
		span("n1", 4, 3),
		span(partition.NodeID(bytes.Repeat([]byte("n"), MaxNodeIDBytes+1)), 1, 1),
	} {
		if err := s.AddRange(r); err == nil {
			t.Fatalf("%v was added", r)
		}
	}
	if err := s.Add(Dot{Node: "n1"}); err == nil || s.String() != "{n1/a1:1-2}" {
		t.Fatalf("%v, set %v", err, s)
	}
}

func TestDotSetIsBounded(t *testing.T) {
	s := new(DotSet)
	for i := range uint64(MaxDotSpans) {
		ok(t, s.Add(Dot{"n1", 1, 2 * (i + 1)}))
	}
	before := s.Clone()
	if err := s.Add(Dot{"n1", 1, 2*MaxDotSpans + 2}); !errors.Is(err, ErrDotSetFull) {
		t.Fatalf("a run too many: %v", err)
	}
	if err := s.Add(Dot{"n2", 1, 1}); !errors.Is(err, ErrDotSetFull) {
		t.Fatalf("an incarnation too many: %v", err)
	}
	if err := s.Merge(dotsOf(t, span("n0", 1, 1))); !errors.Is(err, ErrDotSetFull) || !s.Equal(before) {
		t.Fatalf("merging an incarnation too many: %v", err)
	}
	b := AppendDotSet(nil, s)
	back, err := DecodeDotSet(b)
	ok(t, err)
	if !back.Equal(s) {
		t.Fatal("the fullest set does not come back")
	}
	// Whatever closes a gap, or is there, has room; and then others have.
	ok(t, s.Add(Dot{"n1", 1, 2}))
	ok(t, s.Merge(dotsOf(t, DotRange{"n0", 1, 1, 1}, DotRange{"n1", 1, 1, 5})))
	if s.Spans() != MaxDotSpans-1 || before.Spans() != MaxDotSpans {
		t.Fatalf("%d and %d runs", s.Spans(), before.Spans())
	}
	ok(t, s.Add(Dot{"n2", 1, 1}))

	// The decoder has the same bound: one more run behind the others.
	head := 1 + 1 + 1 + len("n1") + 1 + 8 // format, nodes, the node, incarnations, the incarnation
	count, n := binary.Uvarint(b[head:])
	if count != MaxDotSpans {
		t.Fatalf("looked for the count in the wrong place: %d", count)
	}
	over := append(binary.AppendUvarint(bytes.Clone(b[:head]), count+1), b[head+n:]...)
	if _, err := DecodeDotSet(append(over, 0, 0)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a set with a run too many: %v", err)
	}
}

// In a healthy cluster the record of promoted dots stays as small as a version
// vector, whatever the number of writes.
func TestDotSetSize(t *testing.T) {
	s := new(DotSet)
	for i := range uint64(100_000) {
		for _, node := range []partition.NodeID{"n1-aaaa", "n2-bbbb", "n3-cccc"} {
			ok(t, s.Add(Dot{node, 1 << 60, i + 1}))
		}
	}
	if b := AppendDotSet(nil, s); s.Spans() != 3 || len(b) != 2+3*(1+7+1+8+1+1+3) {
		t.Fatalf("%d spans, %d bytes", s.Spans(), len(b))
	}
}

func TestDotSetGrowsWithoutAllocating(t *testing.T) {
	s := dotsOf(t, span("n1", 1, 1))
	ok(t, s.Clone().Add(Dot{"n1", 0xa1, 2}))
	next := uint64(2)
	ok(t, s.Add(Dot{"n1", 0xa1, next})) // takes its own copy
	if n := testing.AllocsPerRun(100, func() {
		next++
		ok(t, s.Add(Dot{"n1", 0xa1, next}))
	}); n != 0 {
		t.Fatalf("%v allocations for the next dot", n)
	}
}

func TestDotSetEncodingIsPinned(t *testing.T) {
	s := dotsOf(t, DotRange{"n2", 1, 200, 200}, DotRange{"n1", 0x0102030405060708, 1, 3}, DotRange{"n1", 0x0102030405060708, 5, 6}, DotRange{"n1", 9, 1, 1})
	want := []byte{1, 2,
		2, 'n', '1', 2,
		9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
		8, 7, 6, 5, 4, 3, 2, 1, 2, 0, 2, 0, 1,
		2, 'n', '2', 1,
		1, 0, 0, 0, 0, 0, 0, 0, 1, 199, 1, 0,
	}
	if got := AppendDotSet([]byte("x"), s); !bytes.Equal(got[1:], want) || got[0] != 'x' {
		t.Fatalf("%v, want %v", got[1:], want)
	}
	if got, want := s.String(), "{n1/9:1 n1/102030405060708:1-3,5-6 n2/1:200}"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	if got := AppendDotSet(nil, new(DotSet)); !bytes.Equal(got, []byte{1, 0}) {
		t.Fatalf("the empty set is %v", got)
	}
}

func TestDotSetRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := new(DotSet)
		for range rapid.IntRange(0, 12).Draw(t, "ranges") {
			r := DotRange{
				Node:        partition.NodeID(rapid.StringN(1, 40, 200).Draw(t, "node")),
				Incarnation: rapid.Uint64().Draw(t, "incarnation"),
				First:       rapid.Uint64Min(1).Draw(t, "first"),
			}
			if rapid.Bool().Draw(t, "again") && !s.IsEmpty() {
				old := rapid.SampledFrom(slices.Collect(s.Ranges())).Draw(t, "old")
				r.Node, r.Incarnation = old.Node, old.Incarnation
			}
			r.Last = rapid.Uint64Min(r.First).Draw(t, "last")
			ok(t, s.AddRange(r))
		}
		b := AppendDotSet(nil, s)
		back, err := DecodeDotSet(b)
		ok(t, err)
		if !back.Equal(s) || back.Spans() != s.Spans() {
			t.Fatalf("%v came back as %v", s, back)
		}
		for cut := range b {
			if _, err := DecodeDotSet(b[:cut]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut at %d of %d: %v", cut, len(b), err)
			}
		}
		if _, err := DecodeDotSet(append(b, 0)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with a byte behind it: %v", err)
		}
		// A decoded set is one to go on with, and shares nothing.
		clear(b)
		ok(t, back.Add(Dot{"zz", 1, 1}))
		if !back.Has(Dot{"zz", 1, 1}) || !slices.Equal(slices.Collect(back.Minus(s)), []DotRange{{"zz", 1, 1, 1}}) && !s.Has(Dot{"zz", 1, 1}) {
			t.Fatalf("%v and a dot is %v", s, back)
		}
	})
}

func TestDotSetDecoderIsStrict(t *testing.T) {
	incarnation := func(i byte, runs ...byte) []byte {
		return append([]byte{i, 0, 0, 0, 0, 0, 0, 0}, runs...)
	}
	top := bytes.Repeat([]byte{255}, 9) // with a last byte of 1, the highest number
	for name, b := range map[string][]byte{
		"nothing":                    {},
		"another format":             {2, 0},
		"a node without a name":      slices.Concat([]byte{1, 1, 0, 1}, incarnation(1, 1, 0, 0)),
		"a node twice":               slices.Concat([]byte{1, 2, 1, 'n', 1}, incarnation(1, 1, 0, 0), []byte{1, 'n', 1}, incarnation(2, 1, 0, 0)),
		"nodes out of order":         slices.Concat([]byte{1, 2, 1, 'n', 1}, incarnation(1, 1, 0, 0), []byte{1, 'm', 1}, incarnation(2, 1, 0, 0)),
		"a node without dots":        slices.Concat([]byte{1, 1, 1, 'n', 0}, incarnation(1, 1, 0, 0)),
		"an incarnation twice":       slices.Concat([]byte{1, 1, 1, 'n', 2}, incarnation(1, 1, 0, 0), incarnation(1, 1, 0, 0)),
		"incarnations out of order":  slices.Concat([]byte{1, 1, 1, 'n', 2}, incarnation(2, 1, 0, 0), incarnation(1, 1, 0, 0)),
		"an incarnation without":     slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 0, 0, 0)),
		"a longer form":              slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1, 0x80, 0, 0)),
		"a run beyond the end":       slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1, 1), top, []byte{1}),
		"a run that begins there":    slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1), top, []byte{1, 0}),
		"a run behind the last":      slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 2, 0, 253), top[1:], []byte{1, 0, 0}),
		"more runs than bytes":       slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 255, 255, 3, 0, 0)),
		"more nodes than bytes":      slices.Concat([]byte{1, 255, 255, 255, 255, 15, 1, 'n', 1}, incarnation(1, 1, 0, 0)),
		"a number of eleven bytes":   slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1), top, []byte{255, 1, 0}),
		"more incarnations than fit": slices.Concat([]byte{1, 1, 1, 'n', 2}, incarnation(1, 1, 0, 0)),
	} {
		if s, err := DecodeDotSet(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for name, b := range map[string][]byte{
		"one dot":                slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1, 0, 0)),
		"the last dot":           slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1, 254), top[1:], []byte{1, 0}),
		"all dots":               slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 1, 0, 254), top[1:], []byte{1}),
		"the first and the last": slices.Concat([]byte{1, 1, 1, 'n', 1}, incarnation(1, 2, 0, 0, 252), top[1:], []byte{1, 0}),
	} {
		if _, err := DecodeDotSet(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDotText(t *testing.T) {
	d := Dot{"n2-k3f9", 0xbeef, 17}
	if got := fmt.Sprint(d, RangeOf(d), DotRange{"n2-k3f9", 0xbeef, 17, 20}); got != "n2-k3f9/beef:17 n2-k3f9/beef:17 n2-k3f9/beef:17-20" {
		t.Fatal(got)
	}
	if d.IsZero() || !(Dot{}).IsZero() {
		t.Fatal("which one is zero?")
	}
}

func FuzzDotSet(f *testing.F) {
	f.Add(AppendDotSet(nil, new(DotSet)))
	f.Add(AppendDotSet(nil, dotsOf(f, span("n1", 1, 3), span("n1", 5, 300), span("n2", 1000, math.MaxUint64))))
	f.Add(AppendDotSet(nil, dotsOf(f, span("n1", math.MaxUint64, math.MaxUint64), DotRange{"n1", 0, 2, 2})))
	f.Add(append(AppendDotSet(nil, dotsOf(f, span("n1", 1, 3))), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeDotSet(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		// What is accepted has exactly one encoding, and is a set like any other.
		if again := AppendDotSet(nil, s); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes as %x", b, again)
		}
		built := new(DotSet)
		for r := range s.Ranges() {
			ok(t, built.AddRange(r))
		}
		if !built.Equal(s) || built.Spans() != s.Spans() {
			t.Fatalf("%v, built from its ranges %v", s, built)
		}
	})
}

func BenchmarkDotSetAddInOrder(b *testing.B) {
	s, next := new(DotSet), uint64(0)
	for b.Loop() {
		next++
		if err := s.Add(Dot{"n1-aaaa", 1, next}); err != nil {
			b.Fatal(err)
		}
	}
}
