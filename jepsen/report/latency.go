package report

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// mostDots of one class that a chart draws. Above, it takes one in so many, and
// the slowest of each moment.
const mostDots = 2000

// latencyChart is how long operations of one level took, on a logarithmic scale.
type latencyChart struct {
	Level string
	Areas []area // dots, then lines
	Ticks []tick
	// Count of operations, and how many of them are drawn.
	Count, Drawn int
	P50, P99     string // of those answered, over the whole run
	Worst        string
}

// latencyCharts has one for each level that was used. All have the same scale.
func latencyCharts(h *history.History, a axis) (charts []latencyChart) {
	low, high := time.Duration(math.MaxInt64), time.Duration(0)
	by := map[history.Level][]*history.Op{}
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Outcome == "" {
			continue
		}
		by[o.Level] = append(by[o.Level], o)
		low, high = min(low, o.Return-o.Invoke), max(high, o.Return-o.Invoke)
	}
	s := newScale(low, high)
	for _, level := range levels {
		if len(by[level]) > 0 {
			charts = append(charts, newLatencyChart(level, by[level], a, s))
		}
	}
	return charts
}

func newLatencyChart(level history.Level, ops []*history.Op, a axis, s scale) latencyChart {
	chart := latencyChart{Level: string(level), Ticks: s.ticks(), Count: len(ops)}
	var times []time.Duration
	moments := make([][]time.Duration, a.count)
	var of [classes][]*history.Op
	for _, o := range ops {
		c := classOf(o)
		of[c] = append(of[c], o)
		if c == answered {
			took := o.Return - o.Invoke
			times = append(times, took)
			moments[a.bucket(o.Invoke)] = append(moments[a.bucket(o.Invoke)], took)
		}
	}
	for c, ops := range of {
		var d path
		for _, o := range thin(ops, a) {
			d.dot(a.x(o.Invoke), s.y(o.Return-o.Invoke))
			chart.Drawn++
		}
		if !d.empty() {
			chart.Areas = append(chart.Areas, area{"dots " + class(c).String(), d.String()})
		}
	}
	for _, q := range []struct {
		class string
		of    float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		var d path
		begin := true
		for b, times := range moments {
			if len(times) == 0 {
				begin = true // nothing was answered: the line breaks
				continue
			}
			d.line((a.edge(b)+a.edge(b+1))/2, s.y(quantile(times, q.of)), begin)
			begin = false
		}
		if !d.empty() {
			chart.Areas = append(chart.Areas, area{"line " + q.class, d.String()})
		}
	}
	if len(times) > 0 {
		chart.P50, chart.P99, chart.Worst = span(quantile(times, 0.5)), span(quantile(times, 0.99)), span(quantile(times, 1))
	}
	return chart
}

// thin leaves at most about mostDots, evenly, and the slowest of each moment.
func thin(ops []*history.Op, a axis) []*history.Op {
	if len(ops) <= mostDots {
		return ops
	}
	every := (len(ops) + mostDots - 1) / mostDots
	slowest := make([]*history.Op, a.count)
	var left []*history.Op
	for i, o := range ops {
		if i%every == 0 {
			left = append(left, o)
		}
		if b := a.bucket(o.Invoke); slowest[b] == nil || o.Return-o.Invoke > slowest[b].Return-slowest[b].Invoke {
			slowest[b] = o
		}
	}
	for _, o := range slowest {
		if o != nil {
			left = append(left, o)
		}
	}
	slices.SortStableFunc(left, func(x, y *history.Op) int { return cmp.Compare(x.ID, y.ID) })
	return slices.Compact(left)
}

// quantile sorts what it is given, which is not empty.
func quantile(times []time.Duration, q float64) time.Duration {
	slices.Sort(times)
	return times[min(len(times)-1, int(q*float64(len(times))))]
}

// scale is logarithmic, in whole decades of seconds.
type scale struct{ low, high int }

func newScale(low, high time.Duration) scale {
	s := scale{
		low:  int(math.Floor(math.Log10(max(low, 10*time.Microsecond).Seconds()))),
		high: int(math.Ceil(math.Log10(max(high, time.Millisecond).Seconds()))),
	}
	s.low = min(s.low, s.high-1)
	return s
}

func (s scale) y(t time.Duration) float64 {
	at := (math.Log10(max(t, time.Microsecond).Seconds()) - float64(s.low)) / float64(s.high-s.low)
	return height * (1 - min(max(0, at), 1))
}

func (s scale) ticks() (ticks []tick) {
	for decade := s.low + 1; decade < s.high; decade++ {
		t := time.Duration(math.Round(math.Pow(10, float64(decade)) * float64(time.Second)))
		ticks = append(ticks, tick{At: math.Round(float64(decade-s.low) / float64(s.high-s.low) * 100), Label: span(t)})
	}
	return ticks
}
