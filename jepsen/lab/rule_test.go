package lab

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestRuleValidate(t *testing.T) {
	for _, good := range []Rule{
		{}, {Cut: true}, {Delay: MaxDelay}, {Delay: 6 * time.Second, Jitter: 4 * time.Second}, {Loss: 1, Duplicate: 1, Rate: 1},
	} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []Rule{
		{Delay: -1}, {Jitter: -1}, {Delay: MaxDelay + 1}, {Delay: 6 * time.Second, Jitter: 5 * time.Second}, {Delay: math.MaxInt64, Jitter: math.MaxInt64},
		{Loss: -0.1}, {Loss: 1.1}, {Loss: math.NaN()}, {Duplicate: 2}, {Duplicate: math.NaN()}, {Rate: -1},
	} {
		if bad.Validate() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// received is what a link delivered, and when.
type received struct {
	frame byte
	after time.Duration
}

// testLink has frames of size bytes, all of them one letter.
func testLink(seed uint64, size int) (l *link, send func(frames string), got func() []received) {
	var all []received
	began := time.Now()
	l = newLink(rand.New(rand.NewPCG(seed, 0)), func(frame []byte) bool {
		all = append(all, received{frame[0], time.Since(began)})
		return len(frame) == size
	})
	send = func(frames string) {
		buffer := make([]byte, size)
		for i := range len(frames) {
			copy(buffer, bytes.Repeat([]byte{frames[i]}, size)) // the buffer is used again
			l.carry(buffer)
		}
	}
	got = func() []received {
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Clone(all)
	}
	return l, send, got
}

func want(t *testing.T, got []received, want ...received) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("delivered %v, want %v", got, want)
	}
}

func TestLinkDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, send, got := testLink(1, 100)
		send("a")
		l.shape(Rule{Delay: 20 * time.Millisecond})
		send("bc")
		time.Sleep(10 * time.Millisecond)
		l.shape(Rule{}) // the next overtakes those on their way
		send("d")
		time.Sleep(10 * time.Millisecond)
		want(t, got(), received{'a', 0}, received{'d', 10 * time.Millisecond}, received{'b', 20 * time.Millisecond}, received{'c', 20 * time.Millisecond})
	})
}

// A cut takes what is on its way along, and the link is good after it.
func TestLinkCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, send, got := testLink(1, 100)
		l.shape(Rule{Delay: 20 * time.Millisecond})
		send("ab")
		time.Sleep(10 * time.Millisecond)
		l.shape(Rule{Cut: true})
		send("c")
		time.Sleep(time.Second)
		l.shape(Rule{})
		send("d")
		l.shape(Rule{Delay: 20 * time.Millisecond})
		send("e")
		time.Sleep(time.Second)
		want(t, got(), received{'d', 1010 * time.Millisecond}, received{'e', 1030 * time.Millisecond})
		if got, want := l.counted(), (Traffic{Sent: 5, Delivered: 2, Cut: 3, Bytes: 200}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// A narrow link takes one frame after the other, and drops what would wait longer
// than maxBacklog.
func TestLinkRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, send, got := testLink(1, 100)
		l.shape(Rule{Rate: 1000}) // a frame in 100 ms
		send("abcdefghij")
		time.Sleep(2 * time.Second)
		var expected []received
		for i := range 6 { // the last one waits 500 ms for its turn
			expected = append(expected, received{byte('a' + i), time.Duration(i+1) * 100 * time.Millisecond})
		}
		want(t, got(), expected...)
		if c := l.counted(); c.Overflowed != 4 {
			t.Errorf("%+v, want 4 overflowed", c)
		}
	})
}

func TestLinkBoundsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		l, send, got := testLink(1, size)
		l.shape(Rule{Delay: time.Second})
		send("abcdefghijklmnopqrstuvwxyz")
		if c := l.counted(); c.Waiting != maxWaitingBytes/size || c.Overflowed != 26-maxWaitingBytes/size {
			t.Errorf("%+v", c)
		}
		time.Sleep(time.Second)
		synctest.Wait() // what is due at this moment comes first
		send("z")       // there is room again
		time.Sleep(time.Second)
		if got := got(); len(got) != maxWaitingBytes/size+1 || got[len(got)-1].frame != 'z' {
			t.Errorf("delivered %v", got)
		}
	})
}

func TestClosedLinkDeliversNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, send, got := testLink(1, 100)
		l.shape(Rule{Delay: time.Second})
		send("a")
		l.close()
		send("b")
		time.Sleep(2 * time.Second)
		want(t, got())
	})
}

// bubbled hides from rapid that it is a T, whose deadline means nothing in
// virtual time.
type bubbled struct{ *testing.T }

// By any rules, each frame is accounted for, and arrives neither sooner nor later
// than the rule says. One seed does the same twice.
func TestLinkAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(t *rapid.T) {
			seed := rapid.Uint64().Draw(t, "seed")
			full := rapid.IntRange(1, 50).Draw(t, "room")
			part := rapid.SampledFrom([]float64{0, 0, 0.3, 1})
			type step struct {
				rule  Rule
				sent  int
				pause time.Duration
			}
			steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
				return step{
					rule: Rule{
						Cut:   rapid.IntRange(0, 5).Draw(t, "cut") == 0,
						Delay: time.Duration(rapid.IntRange(0, 20).Draw(t, "delay")) * time.Millisecond, Jitter: time.Duration(rapid.IntRange(0, 20).Draw(t, "jitter")) * time.Millisecond,
						Loss: part.Draw(t, "loss"), Duplicate: part.Draw(t, "duplicate"), Rate: rapid.Int64Range(0, 20000).Draw(t, "rate"),
					},
					sent: rapid.IntRange(0, 20).Draw(t, "sent"), pause: time.Duration(rapid.IntRange(0, 15).Draw(t, "pause")) * time.Millisecond,
				}
			}), 1, 8).Draw(t, "steps")
			run := func() (Traffic, []time.Duration) {
				var arrivals []time.Duration
				began, latest, room := time.Now(), time.Duration(0), full
				l := newLink(rand.New(rand.NewPCG(seed, 0)), func([]byte) bool {
					arrivals = append(arrivals, time.Since(began))
					room--
					return room >= 0
				})
				account := func() Traffic {
					c := l.counted()
					if c.Sent+c.Duplicated != c.Delivered+c.Cut+c.Lost+c.Overflowed+c.Waiting {
						t.Fatalf("not all is accounted for: %+v", c)
					}
					return c
				}
				for _, s := range steps {
					l.shape(s.rule)
					before := account()
					for range s.sent {
						l.carry(make([]byte, 100))
					}
					after := account()
					if s.rule.Cut && (after.Delivered != before.Delivered || after.Waiting != 0) {
						t.Fatalf("cut: %+v, then %+v", before, after)
					}
					last := time.Since(began) + s.rule.Delay + s.rule.Jitter
					if s.rule.Rate > 0 {
						last += maxBacklog + time.Duration(100/float64(s.rule.Rate)*float64(time.Second))
					}
					latest = max(latest, last)
					time.Sleep(s.pause)
					synctest.Wait() // what is due at this moment comes first
				}
				time.Sleep(latest + time.Millisecond)
				synctest.Wait()
				if c := account(); c.Waiting != 0 {
					t.Fatalf("%+v: the last is due after %s", c, latest)
				}
				c := account()
				if int(c.Delivered) != min(full, len(arrivals)) || c.Bytes != 100*c.Delivered {
					t.Fatalf("%d arrived at a host with room for %d: %+v", len(arrivals), full, c)
				}
				return c, arrivals
			}
			first, when := run()
			if again, whenAgain := run(); again != first || !slices.Equal(when, whenAgain) {
				t.Fatalf("once %+v %v, then %+v %v", first, when, again, whenAgain)
			}
		})
	})
}

func TestDelayIsNeverShorter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		rule := Rule{
			Delay: time.Duration(rapid.Int64Range(0, int64(MaxDelay/2)).Draw(t, "delay")), Jitter: time.Duration(rapid.Int64Range(0, int64(MaxDelay/2)).Draw(t, "jitter")),
			Rate: rapid.Int64Range(0, 1<<30).Draw(t, "rate"), Duplicate: 0.5,
		}
		free := now.Add(time.Duration(rapid.Int64Range(-int64(time.Second), int64(maxBacklog)).Draw(t, "free")))
		size := rapid.IntRange(1, maxWaitingBytes).Draw(t, "size")
		p := rule.pass(now, free, size, rand.New(rand.NewPCG(1, 2)))
		wire := time.Duration(0)
		if rule.Rate > 0 {
			wire = time.Duration(float64(size) / float64(rule.Rate) * 1e9)
			if free.After(now) {
				wire += free.Sub(now)
			}
		}
		if p.cut || p.lost || p.overflowed || p.copies < 1 {
			t.Fatalf("dropped: %+v", p)
		}
		for i := range p.copies {
			if took := p.arrive[i].Sub(now) - wire; took < rule.Delay || took > rule.Delay+rule.Jitter {
				t.Fatalf("%+v took %s besides %s on the wire", rule, took, wire)
			}
		}
	})
}
