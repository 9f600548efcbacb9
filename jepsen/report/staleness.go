package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// bins are the upper ends of the classes of a histogram; the last has none.
var bins = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond,
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// histogram counts times by their order of magnitude.
type histogram struct {
	Name string
	Says string
	Bars []bar
}

type bar struct {
	Label string
	Count string
	Width float64 // in percent of the longest
}

// measured histograms are those of a workload that wrote and then looked, all nodes
// together, and what each node had of them in a line.
func measured(s *check.Staleness) (all []histogram) {
	if s == nil {
		return nil
	}
	for _, k := range []struct {
		name string
		of   func(check.NodeStaleness) check.Ages
	}{
		{"eventual reads", func(n check.NodeStaleness) check.Ages { return n.Eventual }},
		{"bounded reads", func(n check.NodeStaleness) check.Ages { return n.Bounded }},
		{"until a write was first shown", func(n check.NodeStaleness) check.Ages { return n.Shown }},
	} {
		counts, labels := make([]int, len(s.Buckets)+1), make([]string, len(s.Buckets)+1)
		for b := range counts {
			switch {
			case b == len(s.Buckets):
				labels[b] = "> " + span(s.Buckets[b-1])
			case s.Buckets[b] == 0:
				labels[b] = "fresh"
			default:
				labels[b] = "≤ " + span(s.Buckets[b])
			}
		}
		var says []string
		for _, n := range s.Nodes {
			ages := k.of(n)
			if ages.Count == 0 {
				continue
			}
			for b, count := range ages.Histogram[:min(len(ages.Histogram), len(counts))] {
				counts[b] += count
			}
			says = append(says, fmt.Sprintf("%s: %s of %s stale, 99 %% within %s, all within %s", n.Node, share(float64(ages.Stale), float64(ages.Count)), number(ages.Count), span(ages.P99), span(ages.Max)))
		}
		if len(says) > 0 {
			all = append(all, histogram{Name: k.name, Says: strings.Join(says, "; "), Bars: bars(counts, labels)})
		}
	}
	return all
}

// histograms of how old answers said that they may be.
func histograms(h *history.History) (all []histogram) {
	for _, level := range []history.Level{history.Bounded, history.Eventual} {
		var times []time.Duration
		silent, bound := 0, time.Duration(0)
		for i := range h.Ops {
			o := &h.Ops[i]
			if o.Level != level || o.Write() || o.Outcome != history.OK {
				continue
			}
			if !o.StalenessKnown {
				silent++
				continue
			}
			times, bound = append(times, o.Staleness), max(bound, o.MaxStaleness)
		}
		if len(times) == 0 {
			continue
		}
		says := fmt.Sprintf("%s answers: half within %s, 99 %% within %s, all within %s", number(len(times)), span(quantile(times, 0.5)), span(quantile(times, 0.99)), span(quantile(times, 1)))
		if bound > 0 {
			says += fmt.Sprintf("; the loosest bound was %s", span(bound))
		}
		if silent > 0 {
			says += fmt.Sprintf("; %s more said that they did not know", number(silent))
		}
		all = append(all, newHistogram(string(level)+" reads", says, times))
	}
	return all
}

// newHistogram counts times into bins.
func newHistogram(name, says string, times []time.Duration) histogram {
	counts, labels := make([]int, len(bins)+1), make([]string, len(bins)+1)
	for _, t := range times {
		b := 0
		for b < len(bins) && t >= bins[b] {
			b++
		}
		counts[b]++
	}
	for b, upper := range bins {
		labels[b] = "< " + span(upper)
	}
	labels[len(bins)] = "≥ " + span(bins[len(bins)-1])
	return histogram{Name: name, Says: says, Bars: bars(counts, labels)}
}

// bars leaves out those at both ends that are empty.
func bars(counts []int, labels []string) (all []bar) {
	first, last, most := len(counts), -1, 1
	for b, n := range counts {
		if n > 0 {
			first, last, most = min(first, b), b, max(most, n)
		}
	}
	for b := first; b <= last; b++ {
		all = append(all, bar{Label: labels[b], Count: number(counts[b]), Width: percent(float64(counts[b]) / float64(most) * width)})
	}
	return all
}
