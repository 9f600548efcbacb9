package budget

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func claim(t *testing.T, b *Budget, o *Owner, bytes int64) *Claim {
	t.Helper()
	c, err := b.Claim(o, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClaims: claims fit up to the bounds of the budget and of their owner, and what
// is given back can be claimed again.
func TestClaims(t *testing.T) {
	b := New("things", Limits{Bytes: 100, OwnerBytes: 60, Count: 3, OwnerCount: 2})
	var one, two Owner
	first := claim(t, b, &one, 50)
	var full *Full
	if _, err := b.Claim(&one, 11); !errors.As(err, &full) || !full.Owner || full.Budget != "things" {
		t.Fatalf("beyond the owner's part: %v", err)
	}
	if err := first.Grow(10); err != nil {
		t.Fatal(err)
	}
	second := claim(t, b, &two, 40)
	if err := second.Grow(1); !errors.As(err, &full) || full.Owner {
		t.Fatalf("beyond the budget: %v", err)
	}
	claim(t, b, &two, 0) // nothing is always there
	if _, err := b.Claim(nil, 0); err == nil {
		t.Fatal("a fourth claim of three")
	}
	first.Close()
	first.Close()
	if err := second.Grow(20); err != nil {
		t.Fatal(err)
	}
	if u := b.Use(); u.Bytes != 60 || u.Count != 2 || u.Refused != 3 {
		t.Fatalf("%+v", u)
	}
}

// TestStalled: a claim that waits without progress is ended after Patience, one that
// gets on is not, and one that no longer waits is not.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New("answers", Limits{Bytes: 100, Patience: 10 * time.Second, Pressed: time.Second})
		ended := map[string]time.Duration{}
		start := time.Now()
		wait := func(name string) *Claim {
			c := claim(t, b, nil, 10)
			c.Wait(func() { ended[name] = time.Since(start) })
			return c
		}
		stalled, steady, resumed := wait("stalled"), wait("steady"), wait("resumed")
		resumed.Resume()
		for range 6 {
			time.Sleep(5 * time.Second)
			steady.Moved()
		}
		synctest.Wait()
		if len(ended) != 1 || ended["stalled"] != 10*time.Second || !stalled.Ended() || steady.Ended() {
			t.Fatalf("ended after: %v", ended)
		}
		if err := stalled.Grow(1); err == nil {
			t.Fatal("an ended claim grows")
		}
		stalled.Close()
		if u := b.Use(); u.Bytes != 20 || u.Count != 2 || u.Ended != 1 {
			t.Fatalf("%+v", u)
		}
		time.Sleep(10 * time.Second) // the steady one stands still now
		synctest.Wait()
		if !steady.Ended() {
			t.Fatal("the timer was not set again")
		}
		late := wait("late")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if !late.Ended() {
			t.Fatal("the timer does not run after a time without claims")
		}
	})
}

// TestPressed: who needs room gets that of the claims that have stood still for
// longest, and no more of them than are needed.
func TestPressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New("answers", Limits{Bytes: 100, OwnerBytes: 80, Patience: time.Minute, Pressed: time.Second})
		var mu sync.Mutex
		var ended []int // guarded by mu
		var greedy, other Owner
		var claims []*Claim
		for i := range 8 {
			c := claim(t, b, &greedy, 10)
			c.Wait(func() {
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, i)
			})
			claims = append(claims, c)
			time.Sleep(10 * time.Millisecond)
		}
		if _, err := b.Claim(&other, 30); err == nil {
			t.Fatal("claims that have just moved were ended")
		}
		time.Sleep(2 * time.Second)
		claims[0].Moved()
		claim(t, b, &other, 30)
		synctest.Wait()
		if len(ended) != 1 || ended[0] != 1 {
			t.Fatalf("ended %v", ended)
		}
		// In an owner's own part only its own claims make room: number 2 is next.
		if _, err := b.Claim(&other, 60); err == nil {
			t.Fatal("an owner got more than its part")
		}
		synctest.Wait()
		if len(ended) != 1 {
			t.Fatalf("ended %v", ended)
		}
		claim(t, b, &greedy, 20)
		synctest.Wait()
		if slices.Sort(ended); !slices.Equal(ended, []int{1, 2, 3}) {
			t.Fatalf("ended %v", ended)
		}
		for _, c := range claims {
			c.Close()
		}
	})
}

// TestSums: whatever is done, what the budget holds is what its claims hold.
func TestSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := New("things", Limits{Bytes: 50, OwnerBytes: 30, Count: 6})
		owners := []*Owner{{}, {}, nil}
		var open []*Claim
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			n := int64(rapid.IntRange(0, 20).Draw(t, "bytes"))
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if c, err := b.Claim(owners[rapid.IntRange(0, 2).Draw(t, "owner")], n); err == nil {
					open = append(open, c)
				}
			case 1:
				if len(open) > 0 {
					_ = open[0].Grow(n)
				}
			case 2:
				if len(open) > 0 {
					open[len(open)-1].Shrink(min(n, open[len(open)-1].bytes))
				}
			case 3:
				if len(open) > 0 {
					open[0].Close()
					open = open[1:]
				}
			}
			var bytes int64
			perOwner := map[*Owner]int64{}
			for _, c := range open {
				bytes += c.bytes
				perOwner[c.owner] += c.bytes
			}
			if u := b.Use(); u.Bytes != bytes || u.Count != len(open) || u.Bytes > 50 || u.Count > 6 {
				t.Fatalf("%+v, the claims hold %d", u, bytes)
			}
			for _, o := range owners[:2] {
				if o.bytes != perOwner[o] || o.bytes > 30 {
					t.Fatalf("owner %+v holds %d", *o, perOwner[o])
				}
			}
		}
	})
}

func BenchmarkClaim(b *testing.B) {
	budget := New("requests", Limits{Bytes: 1 << 30, Count: 1 << 20, Patience: time.Minute, Pressed: time.Second})
	var owner Owner
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c, _ := budget.Claim(&owner, 0)
			c.Wait(func() {})
			_ = c.Grow(256)
			c.Resume()
			c.Close()
		}
	})
}
