package storage

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestOrderedAgainstASortedSlice: an ordered set is a sorted slice without
// repetitions, also when its blocks split and merge.
func TestOrderedAgainstASortedSlice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := ordered[int]{compare: cmp.Compare[int]}
		var model []int
		for range rapid.IntRange(1, 12).Draw(rt, "rounds") {
			from, n := rapid.IntRange(0, 3000).Draw(rt, "from"), rapid.IntRange(1, 900).Draw(rt, "n")
			step := rapid.SampledFrom([]int{1, -1, 7, 1009}).Draw(rt, "step")
			insert := rapid.Bool().Draw(rt, "insert")
			for i := range n {
				v := ((from+i*step)%3001 + 3001) % 3001
				at, there := slices.BinarySearch(model, v)
				if insert {
					if o.insert(v) == there {
						rt.Fatalf("inserted %d, there before: %v", v, there)
					}
					if !there {
						model = slices.Insert(model, at, v)
					}
				} else {
					if o.remove(v) != there {
						rt.Fatalf("removed %d, there before: %v", v, there)
					}
					if there {
						model = slices.Delete(model, at, at+1)
					}
				}
			}
			if got := slices.Collect(o.all); !slices.Equal(got, model) {
				rt.Fatalf("%v, want %v", got, model)
			}
			probe := rapid.IntRange(-1, 3002).Draw(rt, "probe")
			at, there := slices.BinarySearch(model, probe)
			if _, ok := o.find(probe); ok != there {
				rt.Fatalf("found %d: %v", probe, ok)
			}
			if got := slices.Collect(o.from(probe)); !slices.Equal(got, model[at:]) {
				rt.Fatalf("from %d: %v, want %v", probe, got, model[at:])
			}
			if first, ok := o.first(); ok != (len(model) > 0) || ok && first != model[0] {
				rt.Fatalf("first %d, %v", first, ok)
			}
			for i, b := range o.blocks {
				if len(b) == 0 || cap(b) > tentativeBlock {
					rt.Fatalf("block of %d with room for %d", len(b), cap(b))
				}
				if i > 0 && len(b)+len(o.blocks[i-1]) <= tentativeSparse {
					rt.Fatalf("blocks of %d and %d beside each other", len(o.blocks[i-1]), len(b))
				}
			}
		}
	})
}
