package contract

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The order that versions tell only spares the search: the verdict is that of the
// search, whatever is wrong.
func TestWhatVersionsTellDoesNotChangeTheVerdict(t *testing.T) {
	verdicts, spared := map[porcupine.CheckResult]int{}, 0
	for _, fault := range []string{"", "skip-base", "older-wins", "promote-twice", "too-stale"} {
		for seed := range uint64(300) {
			h := runModel(seed, fault)
			if random := rand.New(rand.NewPCG(seed, 2)); seed%3 == 0 { // some answers are wrong
				o, p := &h.Ops[random.IntN(len(h.Ops))], h.Ops[random.IntN(len(h.Ops))]
				if o.read() && p.read() {
					o.Found, o.Value, o.Version = p.Found, p.Value, p.Version
				}
			}
			for _, k := range known(h) {
				ops := k.operations()
				want := porcupine.CheckOperationsTimeout(register, ops, time.Minute)
				if got := k.legal(ops, time.Minute); got != want {
					t.Fatalf("fault %q, seed %d: %s, and without versions %s", fault, seed, got, want)
				}
				verdicts[want]++
				if told, ok := k.asTold(ops); ok && porcupine.CheckOperationsTimeout(register, told, time.Minute) == porcupine.Ok {
					spared++
				}
			}
		}
	}
	t.Logf("%v, of which the versions told %d", verdicts, spared)
	if verdicts[porcupine.Illegal] == 0 || spared < verdicts[porcupine.Ok]/2 {
		t.Errorf("%v, of which the versions told %d", verdicts, spared)
	}
}

// Clients wait for each other in crowds, and many are never told what became of
// their writes: without versions a search does not end.
func TestMixingCopesWithCrowds(t *testing.T) {
	var ops []Op
	last := ""
	for round := range 10 {
		from, to := 100*round, 100*round+60
		for i := range 20 {
			v := fmt.Sprintf("v%d-%d", round, i)
			index := uint64(100*round + i + 1)
			ops = append(ops,
				put(v, from, to, at(index, index)), get(v, from, to, at(index, index)),
				put("u"+v, from, to, unknown), put("w"+v, from, to, ifAbsent, mismatch, at(index, index)))
			last = v
		}
		// A condition met one of the unknown writes, which nobody else saw.
		index := uint64(100*round + 50)
		ops = append(ops, put("met"+last, from+70, from+80, ifValue(last), mismatch, at(index, index)))
	}
	for i := range ops {
		ops[i].Process = i
	}
	if got := CheckMixing(&History{Ops: ops}, 10*time.Second); len(got) > 0 {
		t.Errorf("%v", got[0].Why)
	}
}

func TestNothingIsPlacedBetweenADeleteAndTheNextWrite(t *testing.T) {
	tell(t, func(h *History) []Violation { return CheckMixing(h, time.Minute) }, []story{
		{name: "before the first, which is slow", ops: []Op{put("a", 0, 9, at(5, 1)), get("", 2, 3), get("a", 4, 5, at(5, 1))}},
		{name: "after a slow delete", ops: []Op{put("a", 0, 1, at(5, 1)), del(2, 20, at(6, 2)), get("a", 3, 4, at(5, 1)), get("", 5, 6), put("b", 3, 20, at(7, 3)), get("b", 8, 9, at(7, 3))}},
		{name: "two gaps", ops: []Op{
			put("a", 0, 1, at(5, 1)), del(2, 3, at(6, 2)), put("b", 4, 5, at(7, 3)), get("b", 6, 7, at(7, 3)), del(8, 9, at(8, 4)), get("", 10, 11),
		}},
		{name: "after an unknown delete", ops: []Op{put("a", 0, 1, at(5, 1)), del(2, 3, unknown), get("", 4, 5), put("b", 6, 7, at(9, 3)), get("b", 8, 9, at(9, 3))}},
		{name: "in no gap", ops: []Op{put("a", 0, 1, at(5, 1)), del(2, 3, at(6, 2)), put("b", 4, 5, at(7, 3)), get("", 6, 7)}, bad: "no order"},
		{name: "several of one entry", ops: []Op{put("a", 0, 9, at(5, 1)), put("b", 0, 9, at(5, 2)), get("a", 1, 2, at(5, 1)), get("b", 3, 4, at(5, 2))}},
		{name: "several of one entry, the wrong way", ops: []Op{put("a", 0, 9, at(5, 1)), put("b", 0, 9, at(5, 2)), get("b", 1, 2, at(5, 2)), get("a", 3, 4, at(5, 1)), get("b", 5, 6, at(5, 2))}, bad: "no order"},
	})
}
