package report

import (
	"fmt"
	"time"

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

// newHistogram leaves out empty classes at both ends.
func newHistogram(name, says string, times []time.Duration) histogram {
	counts := make([]int, len(bins)+1)
	for _, t := range times {
		b := 0
		for b < len(bins) && t >= bins[b] {
			b++
		}
		counts[b]++
	}
	first, last, most := len(counts), 0, 0
	for b, n := range counts {
		if n > 0 {
			first, last, most = min(first, b), b, max(most, n)
		}
	}
	h := histogram{Name: name, Says: says}
	for b := first; b <= last; b++ {
		label := "≥ " + span(bins[len(bins)-1])
		if b < len(bins) {
			label = "< " + span(bins[b])
		}
		h.Bars = append(h.Bars, bar{Label: label, Count: number(counts[b]), Width: percent(float64(counts[b]) / float64(most) * width)})
	}
	return h
}
