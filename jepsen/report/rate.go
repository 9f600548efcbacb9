package report

import (
	"math"
	"strconv"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// height of a chart, in the drawing's own units.
const height = 100.0

// area is one filled or stroked shape of a chart. Class is for the style sheet.
type area struct {
	Class string
	D     string
}

// rateChart is how many operations ended a second, by class, one upon the other.
type rateChart struct {
	Areas []area
	Ticks []tick // of the rate, from the bottom
}

func newRateChart(h *history.History, a axis) rateChart {
	counts := make([][classes]float64, a.count)
	for i := range h.Ops {
		o := &h.Ops[i]
		at := o.Return
		if o.Outcome == "" {
			at = o.Invoke
		}
		b := a.bucket(at)
		counts[b][classOf(o)] += 1 / a.seconds(b)
	}
	top := 0.0
	for _, c := range counts {
		top = max(top, c[answered]+c[refused]+c[unknown])
	}
	distance := round125(top / 3)
	top = max(1, math.Ceil(top/distance)) * distance
	var chart rateChart
	for i := 1.0; i*distance <= top; i++ {
		chart.Ticks = append(chart.Ticks, tick{At: math.Round(i * distance / top * 100), Label: strconv.FormatFloat(i*distance, 'f', -1, 64)})
	}
	below := make([]float64, a.count)
	for c := range classes {
		var d path
		for b := range counts {
			share := counts[b][c] / top * height
			if share > 0 {
				d.rect(a.edge(b), height-below[b]-share, a.edge(b+1)-a.edge(b), share)
			}
			below[b] += share
		}
		if !d.empty() {
			chart.Areas = append(chart.Areas, area{c.String(), d.String()})
		}
	}
	return chart
}

// round125 is the least of 1, 2, 5, 10, 20, ... that is not below x.
func round125(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(max(x, 1))))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= x {
			return m * power
		}
	}
	return 10 * power
}
