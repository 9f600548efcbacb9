package client

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// event is something that a call saw or wrote: in one partition, or in all.
type event struct{ number, scope int }

// The tokens of this test are the events that they hold, in words.

func tokenOf(events map[event]bool) string {
	var words []string
	for e := range events {
		words = append(words, fmt.Sprintf("%d:%d", e.number, e.scope))
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

func eventsOf(tokens []string) map[event]bool {
	events := map[event]bool{}
	for _, token := range tokens {
		for word := range strings.SplitSeq(token, ",") {
			number, scope, _ := strings.Cut(word, ":")
			n, _ := strconv.Atoi(number)
			s, _ := strconv.Atoi(scope)
			events[event{n, s}] = true
		}
	}
	return events
}

// Whatever calls are under way at once, a call sends all that calls which had
// returned before it saw or wrote in its scope; and it sends no more tokens than
// there can be.
func TestACallSendsTheWholePastOfItsScope(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const partitions = 3
		var j jar
		type underWay struct {
			scope int
			sent  []string
			event event
			merge bool
		}
		var calls []underWay
		returned := map[event]bool{}
		begun, answers := 0, 0
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				scope := rapid.IntRange(everywhere, partitions-1).Draw(t, "scope")
				sent, _ := j.take(scope)
				has := eventsOf(sent)
				for e := range returned {
					if (scope == everywhere || e.scope == everywhere || e.scope == scope) && !has[e] {
						t.Fatalf("a call of scope %d is not told of %v: it sends %q", scope, e, sent)
					}
				}
				if len(sent) > answers {
					t.Fatalf("%d tokens of %d answers", len(sent), answers)
				}
				begun++
				calls = append(calls, underWay{scope: scope, sent: sent, event: event{begun, scope}})
			},
			"merge": func(t *rapid.T) {
				scope := rapid.IntRange(everywhere, partitions-1).Draw(t, "scope")
				all, _ := j.take(scope)
				if len(all) < 2 {
					t.Skip("nothing to merge")
				}
				n := rapid.IntRange(2, len(all)).Draw(t, "tokens")
				calls = append(calls, underWay{scope: scope, sent: all[:n], merge: true})
			},
			"return": func(t *rapid.T) {
				if len(calls) == 0 {
					t.Skip("no call under way")
				}
				i := rapid.IntRange(0, len(calls)-1).Draw(t, "call")
				done := calls[i]
				calls = slices.Delete(calls, i, i+1)
				answers++
				events := eventsOf(done.sent)
				delete(events, event{}) // of no token
				if !done.merge {
					events[done.event] = true
					returned[done.event] = true
				}
				j.replace(done.scope, done.sent, tokenOf(events))
			},
			"": func(t *rapid.T) {
				if len(calls) > 0 {
					return
				}
				// With nothing under way one call about everything leaves one token.
				sent, _ := j.take(everywhere)
				j.replace(everywhere, sent, tokenOf(returned))
				if after, _ := j.take(everywhere); len(after) > 1 {
					t.Fatalf("%q after a call that replaced all", after)
				}
			},
		})
	})
}

func TestForgettingIsDoneOnceForManyCalls(t *testing.T) {
	var j jar
	j.replace(everywhere, nil, "old")
	_, before := j.take(2)
	j.forget(before)
	if left, _ := j.take(2); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	j.replace(2, nil, "new")
	j.forget(before) // a call that was under way then
	if left, _ := j.take(2); !slices.Equal(left, []string{"new"}) {
		t.Errorf("the new session was forgotten with the old: %q", left)
	}
}

func TestDistancesAreBelievedWhenShort(t *testing.T) {
	c, err := New(Options{Endpoints: []string{"http://a:1", "https://b"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, step := range []struct {
		address    string
		took, want time.Duration
	}{{"a:1", 40, 40}, {"a:1", 80, 60}, {"a:1", 10, 10}, {"a:2", 5, 10}, {"b:443", 7, 10}} {
		c.noteDistance(step.address, step.took)
		if got := time.Duration(c.seeds[0].distance.Load()); got != step.want {
			t.Errorf("after %d to %s a is at %d, want %d", step.took, step.address, got, step.want)
		}
	}
	if got := c.seeds[1].distance.Load(); got != 7 {
		t.Errorf("b is at %d", got)
	}
}

func TestMergeableFitsIntoARequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tokens []string
		for i, size := range rapid.SliceOfN(rapid.IntRange(1, maxToken), 0, 12).Draw(t, "sizes") {
			tokens = append(tokens, strings.Repeat(string(rune('a'+i)), size))
		}
		some := mergeable(tokens)
		if len(some) == 1 || joined(some) > maxToken || len(joinTokens(some)) != joined(some) {
			t.Fatalf("%d tokens of %d bytes together", len(some), joined(some))
		}
		for _, token := range some {
			if !slices.Contains(tokens, token) {
				t.Fatal("a token that was not there")
			}
		}
		if some == nil && len(tokens) > 1 {
			slices.SortFunc(tokens, func(a, b string) int { return len(a) - len(b) })
			if joined(tokens[:2]) <= maxToken {
				t.Fatal("two would have fitted")
			}
		}
	})
}
