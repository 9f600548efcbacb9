package replication

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What is remembered never claims more than all pairs together would, and,
// while few are waiting to be applied, nothing less.
func TestRememberedSaysNoMoreThanItHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r remembered
		var heard []asking
		var applied uint64
		best := func() (at time.Duration, ok bool) {
			for _, p := range heard {
				if p.index <= applied && (!ok || p.asked > at) {
					at, ok = p.asked, true
				}
			}
			return at, ok
		}
		crowded := false
		spread := rapid.IntRange(1, 60).Draw(t, "spread")
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "add") {
				p := asking{time.Duration(rapid.IntRange(0, spread).Draw(t, "asked")), uint64(rapid.IntRange(0, spread).Draw(t, "index"))}
				heard = append(heard, p)
				crowded = crowded || len(r.pairs) == maxRemembered
				r.add(p, applied)
			} else {
				applied += uint64(rapid.IntRange(0, spread).Draw(t, "applied"))
			}
			want, any := best()
			got, ok := r.newest(applied)
			if ok && (!any || got > want) {
				t.Fatalf("claims %d, %v with %v applied of %v", got, ok, applied, heard)
			}
			if !crowded && (ok != any || got != want) {
				t.Fatalf("knows %d, %v; could know %d, %v with %v applied of %v", got, ok, want, any, applied, heard)
			}
			if len(r.pairs) > maxRemembered {
				t.Fatalf("%d pairs", len(r.pairs))
			}
			for i := 1; i < len(r.pairs); i++ {
				if r.pairs[i].asked <= r.pairs[i-1].asked || r.pairs[i].index <= r.pairs[i-1].index {
					t.Fatalf("out of order: %v", r.pairs)
				}
			}
		}
	})
}

// A replica that falls behind for long is not starved: some pair is always
// reached, and the newest is kept for when it has caught up.
func TestRememberedWhileFarBehind(t *testing.T) {
	var r remembered
	const lag = 500
	for now := range uint64(10_000) {
		applied := max(now, lag) - lag
		r.add(asking{time.Duration(now), now}, applied)
		if at, ok := r.newest(applied); now > 3*lag && (!ok || uint64(at) < applied-lag) {
			t.Fatalf("at %d, with %d applied: %v, %v", now, applied, at, ok)
		}
	}
	if at, ok := r.newest(10_000); !ok || at != 9_999 {
		t.Errorf("caught up: %v, %v", at, ok)
	}
}
