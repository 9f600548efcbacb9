package nemesis

import (
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

func rules(t *rapid.T, name string) lab.Rule {
	delay := rapid.Int64Range(0, int64(lab.MaxDelay)).Draw(t, name+" delay")
	return lab.Rule{
		Cut: rapid.Bool().Draw(t, name+" cut"), Delay: time.Duration(delay),
		Jitter: time.Duration(rapid.Int64Range(0, int64(lab.MaxDelay)-delay).Draw(t, name+" jitter")),
		Loss:   rapid.Float64Range(0, 1).Draw(t, name+" loss"), Duplicate: rapid.Float64Range(0, 1).Draw(t, name+" duplicate"),
		Rate: rapid.Int64Range(0, 1<<40).Draw(t, name+" rate"),
	}
}

// What several rules make together is a rule, no better than any of them, whichever
// comes first.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rules(t, "a"), rules(t, "b")
		m := Merge(a, b)
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		if other := Merge(b, a); !near(other.Loss, m.Loss) || !near(other.Duplicate, m.Duplicate) || other.Cut != m.Cut || other.Delay != m.Delay || other.Jitter != m.Jitter || other.Rate != m.Rate {
			t.Fatalf("%+v, the other way %+v", m, other)
		}
		for _, r := range []lab.Rule{a, b} {
			worse := m.Delay >= r.Delay && m.Delay+m.Jitter >= r.Delay+r.Jitter && m.Loss >= r.Loss-1e-9 && m.Duplicate >= r.Duplicate-1e-9 &&
				(m.Cut || !r.Cut) && (r.Rate == 0 || m.Rate > 0 && m.Rate <= r.Rate)
			if !worse {
				t.Fatalf("%+v is better than %+v", m, r)
			}
		}
		if got := Merge(a, lab.Rule{}); !near(got.Loss, a.Loss) || !near(got.Duplicate, a.Duplicate) || got.Delay != a.Delay || got.Jitter != a.Jitter || got.Rate != a.Rate || got.Cut != a.Cut {
			t.Fatalf("%+v with a good link: %+v", a, got)
		}
	})
	if Merge() != (lab.Rule{}) {
		t.Error("no rules are no good link")
	}
	// The usual rules come through as they are, or else a link would be shaped again
	// for nothing.
	for _, k := range kinds {
		if rule := drawn(k, 5, 1).Rule; Merge(rule) != rule {
			t.Errorf("%s: %+v becomes %+v", k.Name, rule, Merge(rule))
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestMergeOfTwo(t *testing.T) {
	got := Merge(lab.Rule{Delay: time.Second, Loss: 0.5, Rate: 100}, lab.Rule{Jitter: time.Second, Loss: 0.5, Duplicate: 0.25, Rate: 50})
	if want := (lab.Rule{Delay: time.Second, Jitter: time.Second, Loss: 0.75, Duplicate: 0.25, Rate: 50}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestMergeOfBends(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) cluster.Control {
			return cluster.Control{
				ClockOffsetMillis: rapid.Int64Range(-maxOffsetMillis, maxOffsetMillis).Draw(t, name+" offset"),
				ClockDriftPPM:     rapid.Int64Range(-maxDriftPPM, maxDriftPPM).Draw(t, name+" drift"),
				DiskFull:          rapid.Bool().Draw(t, name+" full"), SyncError: rapid.Bool().Draw(t, name+" error"),
				SyncDelayMillis: rapid.Int64Range(0, maxSyncMillis).Draw(t, name+" delay"),
			}
		}
		a, b := draw("a"), draw("b")
		m := mergeBends(a, b)
		if err := checkBend(m); err != nil {
			t.Fatal(err)
		}
		if m != mergeBends(b, a) || a != mergeBends(a) || a != mergeBends(a, cluster.Control{}) {
			t.Fatalf("%+v of %+v and %+v", m, a, b)
		}
		if (a.DiskFull || b.DiskFull) != m.DiskFull || (a.SyncError || b.SyncError) != m.SyncError || m.SyncDelayMillis != max(a.SyncDelayMillis, b.SyncDelayMillis) {
			t.Fatalf("%+v of %+v and %+v", m, a, b)
		}
	})
	if got := mergeBends(cluster.Control{ClockOffsetMillis: 5}, cluster.Control{ClockOffsetMillis: -7, ClockDriftPPM: 3}); !reflect.DeepEqual(got, cluster.Control{ClockOffsetMillis: -2, ClockDriftPPM: 3}) {
		t.Errorf("%+v", got)
	}
}
