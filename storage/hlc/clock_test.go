package hlc_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/storage/hlc"
	"pgregory.net/rapid"
)

const offset = 500 * time.Millisecond

// wall is a wall clock that a test sets.
type wall struct {
	mu sync.Mutex
	t  time.Time
}

func newWall() *wall { return &wall{t: time.UnixMilli(1_000_000)} }

func (w *wall) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.t
}

func (w *wall) move(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = w.t.Add(d)
}

func TestTimestampParts(t *testing.T) {
	at := time.UnixMilli(1_789_000_000_123)
	ts := hlc.At(at.Add(400*time.Microsecond)) + 7
	if !ts.Time().Equal(at) || ts.Counter() != 7 {
		t.Fatalf("parts of %d: %v and %d", ts, ts.Time(), ts.Counter())
	}
	if got := hlc.At(time.UnixMilli(-1)); got != 0 {
		t.Fatalf("before 1970: %d", got)
	}
	if got := hlc.At(time.UnixMilli(1 << 48)); got != hlc.Max {
		t.Fatalf("beyond 48 bits: %d", got)
	}
}

func TestNowFollowsTheWallClock(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	if got, want := c.Now(), hlc.At(w.now()); got != want {
		t.Fatalf("first reading %d, want %d", got, want)
	}
	w.move(time.Second)
	if got, want := c.Now(), hlc.At(w.now()); got != want {
		t.Fatalf("a second later %d, want %d", got, want)
	}
}

func TestNowRisesWhileTheWallClockStandsStillOrGoesBack(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	a, b := c.Now(), c.Now()
	w.move(-time.Hour)
	d := c.Now()
	if b != a+1 || d != b+1 {
		t.Fatalf("readings %d, %d, %d", a, b, d)
	}
}

func TestAFullCounterCarriesIntoTheMilliseconds(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	last := c.Now()
	for range 1<<16 + 5 {
		next := c.Now()
		if next <= last {
			t.Fatalf("%d after %d", next, last)
		}
		last = next
	}
	if got, want := last.Time(), w.now().Add(time.Millisecond); !got.Equal(want) || last.Counter() != 5 {
		t.Fatalf("carried to %v counter %d, want %v counter 5", got, last.Counter(), want)
	}
}

func TestObserveIsBoundedByTheOffset(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	near := hlc.At(w.now().Add(offset / 2))
	c.Observe(near)
	if got := c.Now(); got != near+1 {
		t.Fatalf("after a near timestamp %d, want %d", got, near+1)
	}
	c.Observe(hlc.Max)
	if got, want := c.Now(), hlc.At(w.now().Add(offset))+1; got != want {
		t.Fatalf("after a far timestamp %d, want %d", got, want)
	}
	c.Observe(0)
	if got, want := c.Now(), hlc.At(w.now().Add(offset))+2; got != want {
		t.Fatalf("after an old timestamp %d, want %d", got, want)
	}
}

func TestNowAfterTheFarFutureLeavesTheClock(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	before := c.Now()
	far := hlc.At(w.now().Add(24 * time.Hour))
	if a, b := c.NowAfter(far), c.NowAfter(far); a != far+1 || b != far+2 {
		t.Fatalf("two writes after the same far one: %d, %d", a-far, b-far)
	}
	// Another future, nearer than the first, is not pulled up to it.
	near := hlc.At(w.now().Add(time.Hour))
	if got := c.NowAfter(near); got != near+1 {
		t.Fatalf("after a nearer future: %v, want %v", got.Time(), near.Time())
	}
	if got := c.Now(); got != before+1 {
		t.Fatalf("the clock moved to %v", got.Time())
	}
	// When the wall clock gets there, what was given is not given again.
	w.move(time.Hour)
	if got := c.Now(); got != near {
		t.Fatalf("reading %d, want %d", got, near)
	}
	if got := c.Now(); got != near+2 {
		t.Fatalf("reading near+%d, want near+2", got-near)
	}
}

func TestNowAfterTheNearFutureMovesTheClock(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	near := hlc.At(w.now().Add(offset / 2))
	if a, b := c.NowAfter(near), c.Now(); a != near+1 || b != near+2 {
		t.Fatalf("near+%d, near+%d", a-near, b-near)
	}
}

func TestNothingIsAboveMax(t *testing.T) {
	c := hlc.New(newWall().now, offset)
	if got := c.NowAfter(hlc.Max); got != hlc.Max {
		t.Fatalf("after Max: %d", got)
	}
	if got := c.NowAfter(hlc.Max - 1); got != hlc.Max {
		t.Fatalf("after Max-1: %d", got)
	}
	if got := c.Now(); got >= hlc.At(time.UnixMilli(1_000_001)) {
		t.Fatalf("the clock moved to %d", got)
	}
}

func TestRestoreIsAFloorOverARestart(t *testing.T) {
	w := newWall()
	old := hlc.New(w.now, offset)
	last := old.Now()
	w.move(-time.Hour)
	c := hlc.New(w.now, offset)
	c.Restore(old.Last())
	if got := c.Now(); got != last+1 {
		t.Fatalf("first reading after the restart %d, want %d", got, last+1)
	}
}

// Whatever a wall clock does and whatever is heard: Now rises, NowAfter is
// above its argument and the clock, nothing is given twice, and what comes
// from elsewhere moves the clock no further than the offset.
func TestClockProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWall()
		c := hlc.New(w.now, offset)
		given := map[hlc.Timestamp]bool{}
		var issued []hlc.Timestamp // every timestamp, in order
		var lastNow hlc.Timestamp
		own := hlc.At(w.now()) // how high the clock may be by wall and ticks alone
		give := func(ts hlc.Timestamp) {
			if given[ts] {
				t.Fatalf("%d given twice", ts)
			}
			given[ts] = true
			issued = append(issued, ts)
		}
		heard := func(t *rapid.T) hlc.Timestamp {
			if len(issued) > 0 && rapid.Bool().Draw(t, "heard an own one") {
				return rapid.SampledFrom(issued).Draw(t, "own")
			}
			ms := rapid.Int64Range(-2000, 4000).Draw(t, "ms ahead")
			return hlc.At(w.now().Add(time.Duration(ms)*time.Millisecond)) + hlc.Timestamp(rapid.Uint16().Draw(t, "counter"))
		}
		bound := func() {
			own = max(own, hlc.At(w.now().Add(offset))) + 1 + hlc.Timestamp(len(issued))
			if last := c.Last(); last > own {
				t.Fatalf("clock at %v, wall clock %v", last.Time(), w.now())
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"wall": func(t *rapid.T) {
				w.move(time.Duration(rapid.Int64Range(-3000, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"now": func(t *rapid.T) {
				ts := c.Now()
				if ts <= lastNow {
					t.Fatalf("Now gave %d after %d", ts, lastNow)
				}
				lastNow = ts
				give(ts)
				bound()
			},
			"observe": func(t *rapid.T) {
				ts, before := heard(t), c.Last()
				c.Observe(ts)
				limit := hlc.At(w.now().Add(offset))
				if got, want := c.Last(), max(before, min(ts, limit)); got != want {
					t.Fatalf("clock at %d, want %d", got, want)
				}
				bound()
			},
			"after": func(t *rapid.T) {
				ts, before := heard(t), c.Last()
				got := c.NowAfter(ts)
				if got <= ts || got <= before {
					t.Fatalf("NowAfter(%d) gave %d, clock was at %d", ts, got, before)
				}
				give(got)
				bound()
			},
		})
	})
}

// A message carries a timestamp; what its receiver does afterwards is later.
func TestCausality(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var clocks []*hlc.Clock
		for range 3 {
			w := newWall()
			w.move(time.Duration(rapid.Int64Range(0, 499).Draw(t, "skew")) * time.Millisecond)
			clocks = append(clocks, hlc.New(w.now, offset))
		}
		last := clocks[0].Now()
		for range 30 {
			c := rapid.SampledFrom(clocks).Draw(t, "to")
			c.Observe(last)
			next := c.Now()
			if next <= last {
				t.Fatalf("effect %d is not after its cause %d", next, last)
			}
			last = next
		}
	})
}

// More separate futures than are remembered: the order that each asks for is
// kept, and the clock still does not move.
func TestManyFutures(t *testing.T) {
	w := newWall()
	c := hlc.New(w.now, offset)
	before := c.Now()
	for i := range 2000 {
		far := hlc.At(w.now().Add(time.Hour + time.Duration(i*7919%2000)*time.Second))
		if got := c.NowAfter(far); got <= far || got > far+2 {
			t.Fatalf("after future %d: far+%d", i, got-far)
		}
	}
	if got := c.Now(); got != before+1 {
		t.Fatalf("the clock moved to %v", got.Time())
	}
}

func TestConcurrentReadingsAreDistinctAndRise(t *testing.T) {
	const workers, each = 8, 2000
	w := newWall()
	c := hlc.New(w.now, offset)
	far := hlc.At(w.now().Add(time.Hour))
	given := make([][]hlc.Timestamp, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for j := range each {
				switch {
				case i == 0 && j%10 == 0:
					w.move(time.Millisecond)
				case i == 1:
					c.Observe(hlc.At(w.now().Add(time.Millisecond)))
				case i == 2:
					given[i] = append(given[i], c.NowAfter(far))
					continue
				}
				given[i] = append(given[i], c.Now())
			}
		})
	}
	wg.Wait()
	var all []hlc.Timestamp
	for _, g := range given {
		if !slices.IsSorted(g) {
			t.Fatal("one caller saw the clock go back")
		}
		all = append(all, g...)
	}
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); n != workers*each {
		t.Fatalf("%d distinct readings of %d", n, workers*each)
	}
}

func BenchmarkNow(b *testing.B) {
	c := hlc.New(time.Now, offset)
	for b.Loop() {
		c.Now()
	}
}
