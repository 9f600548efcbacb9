package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// The staleness workload: each key has one writer, which then polls all nodes.
var (
	stalenessBound = Checker{
		Workload: "staleness", Name: "bound",
		What:  "no bounded read is older than it may be, nor than its answer says, by the clients' clock; no linearizable one is old at all",
		Check: byContract(unbounded(contract.CheckBounded), covered),
	}
	stalenessAge = Checker{
		Workload: "staleness", Name: "age",
		What:  "measured by values alone: for how long what a read showed had been replaced when it began; never longer than a bound",
		Check: checkAge,
	}
	stalenessAnswers = Checker{
		Workload: "staleness", Name: "answers",
		What:  "what is read was written, by a write that had begun and was not refused; each write has one version",
		Check: byContract(unbounded(contract.CheckAnswers), answeredRead),
	}
)

// covered reads are sure to see something.
func covered(o *history.Op) bool {
	return o.Func == history.Get && answered(o) && o.Level != history.Eventual
}

// Staleness is how old answers were: the time, on the clients' clock, from the
// acknowledgement of the first write that a read should have shown, had it been fresh,
// until that read began. Fresh answers are of age 0.
type Staleness struct {
	// Nodes in the order of the run.
	Nodes []NodeStaleness `json:"nodes"`
	// Buckets are the upper ends of those of the histograms, in nanoseconds; the
	// first are fresh answers, and there is one more bucket for what is older than the
	// last.
	Buckets []time.Duration `json:"buckets"`
}

// NodeStaleness is that of one node's answers.
type NodeStaleness struct {
	Node     string `json:"node"`
	Eventual Ages   `json:"eventual"`
	Bounded  Ages   `json:"bounded"`
	// Shown is how long after its acknowledgement a write was shown for the first
	// time by an eventual or bounded read here: at most, since nobody asked all the
	// time.
	Shown Ages `json:"shown"`
}

// Ages are a distribution.
type Ages struct {
	Count int           `json:"count"`
	Stale int           `json:"stale"` // above 0
	P50   time.Duration `json:"p50"`
	P90   time.Duration `json:"p90"`
	P99   time.Duration `json:"p99"`
	Max   time.Duration `json:"max"`
	// Histogram has a count for each of Staleness.Buckets, and one for the rest.
	Histogram []int `json:"histogram"`
}

// ageBuckets of the histograms.
var ageBuckets = []time.Duration{
	0, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
	30 * time.Second,
}

func ages(of []time.Duration) Ages {
	slices.Sort(of)
	a := Ages{Count: len(of), Histogram: make([]int, len(ageBuckets)+1)}
	for _, age := range of {
		if age > 0 {
			a.Stale++
		}
		i, _ := slices.BinarySearch(ageBuckets, age)
		a.Histogram[i]++
	}
	a.P50, a.P90, a.P99, a.Max = quantile(of, 50), quantile(of, 90), quantile(of, 99), quantile(of, 100)
	return a
}

// quantile of sorted durations, by nearest rank; 0 of none.
func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// oneWriter is a key as its only writer made it.
type oneWriter struct {
	writes []*history.Op
	place  map[string]int // of a value, in writes
}

func checkAge(v *View) Judgement {
	var j Judgement
	keys := map[string]*oneWriter{}
	for _, o := range v.Ops {
		if o.Func != history.Put || o.Outcome == history.Fail {
			continue
		}
		k := keys[o.Key]
		if k == nil {
			k = &oneWriter{place: map[string]int{}}
			keys[o.Key] = k
		}
		k.place[o.Value] = len(k.writes)
		k.writes = append(k.writes, o)
	}
	eventual, bounded := map[string][]time.Duration{}, map[string][]time.Duration{}
	shown := map[string]map[*history.Op]time.Duration{} // by node, by write: after its acknowledgement
	for _, o := range v.Ops {
		k := keys[o.Key]
		if o.Func != history.Get || !answered(o) || k == nil || o.Node == "" || o.Final {
			continue // at the end all has been good for long
		}
		saw := -1
		if place, known := k.place[o.Value]; o.Found && known {
			saw = place
		} else if o.Found {
			continue // never written: not a matter of age
		}
		age, newer := k.age(saw, o.Invoke)
		j.Seen++
		switch o.Level {
		case history.Eventual:
			eventual[o.Node] = append(eventual[o.Node], age)
		case history.Bounded:
			bounded[o.Node] = append(bounded[o.Node], age)
			if age > o.MaxStaleness {
				ops := []*history.Op{newer, o}
				if saw >= 0 {
					ops = append(ops, k.writes[saw])
				}
				j.Findings = append(j.Findings, Finding{
					Key: o.Key, Ops: show(ops...),
					Why: fmt.Sprintf("a read that may be %v old showed what had been replaced for %v", o.MaxStaleness, age),
				})
			}
		case history.Linearizable:
			continue
		}
		if shown[o.Node] == nil {
			shown[o.Node] = map[*history.Op]time.Duration{}
		}
		if saw >= 0 && answered(k.writes[saw]) {
			w := k.writes[saw]
			if _, before := shown[o.Node][w]; !before {
				shown[o.Node][w] = max(0, o.Return-w.Return)
			}
		}
	}
	s := &Staleness{Buckets: ageBuckets}
	var every []time.Duration
	for _, node := range v.History.Run.Nodes {
		every = append(every, eventual[node]...)
		var first []time.Duration
		for _, after := range shown[node] {
			first = append(first, after)
		}
		s.Nodes = append(s.Nodes, NodeStaleness{Node: node, Eventual: ages(eventual[node]), Bounded: ages(bounded[node]), Shown: ages(first)})
	}
	v.Stats.Staleness = s
	a := ages(every)
	j.Detail = fmt.Sprintf("eventual reads: %d of %d were stale, p50 %v, p99 %v, at most %v",
		a.Stale, a.Count, rounded(a.P50), rounded(a.P99), rounded(a.Max))
	return j
}

// age of what a read at a time showed, writes[saw] (-1: nothing): since when a write
// after it had been acknowledged, and which.
func (k *oneWriter) age(saw int, at time.Duration) (time.Duration, *history.Op) {
	for _, w := range k.writes[saw+1:] {
		// Writes begin one after the other; one of unknown outcome never returned.
		if w.Invoke >= at {
			break
		}
		if answered(w) && w.Return < at {
			return at - w.Return, w
		}
	}
	return 0, nil
}

// rounded to what a person reads.
func rounded(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
