package report

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// mostBuckets is into how many moments the time of a run is cut at most: on a
// phone each is still three pixels wide.
const mostBuckets = 120

// steps are the lengths that a moment, or the distance of two ticks, may have.
var steps = []time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
}

// axis is the time of a run, from 0 to its length, cut into equal moments.
type axis struct {
	length time.Duration // above 0
	moment time.Duration
	count  int // of moments; the last may be shorter
}

// longest is what an axis shows of a history, which may say what it likes: more
// than any run lasts, and far from where sums overflow.
const longest = 10 * 365 * 24 * time.Hour

func newAxis(length time.Duration) axis {
	a := axis{length: min(max(length, time.Second), longest)}
	a.moment = step(a.length, mostBuckets)
	a.count = int((a.length + a.moment - 1) / a.moment)
	return a
}

// step is the shortest that divides length into at most so many.
func step(length time.Duration, most int) time.Duration {
	for _, s := range steps {
		if length <= s*time.Duration(most) {
			return s
		}
	}
	return (length + time.Duration(most) - 1) / time.Duration(most)
}

// bucket is the number of the moment in which t is.
func (a axis) bucket(t time.Duration) int {
	return min(max(0, int(t/a.moment)), a.count-1)
}

// seconds that a moment really lasts.
func (a axis) seconds(bucket int) float64 {
	return min(a.moment, a.length-time.Duration(bucket)*a.moment).Seconds()
}

// x is where t is drawn, in thousandths of the width.
func (a axis) x(t time.Duration) float64 {
	return min(max(0, float64(t)/float64(a.length)), 1) * width
}

// edge is where a moment begins.
func (a axis) edge(bucket int) float64 { return a.x(time.Duration(bucket) * a.moment) }

// tick is a label on an axis, and where it stands, in percent.
type tick struct {
	At    float64
	Label string
	Minor bool // left out where there is little room
}

// ticks of time.
func (a axis) ticks() (ticks []tick) {
	distance := step(a.length, 10)
	for i := 0; ; i++ {
		t := time.Duration(i) * distance
		if t > a.length-distance/3 && i > 0 { // the last would stand outside
			return ticks
		}
		ticks = append(ticks, tick{At: percent(a.x(t)), Label: clock(t), Minor: i%2 == 1})
	}
}

// clock is a time of the run, short: 0, 300 ms, 45 s, 2:30, 1:02:00.
func clock(t time.Duration) string {
	switch {
	case t == 0:
		return "0"
	case t < time.Second:
		return fmt.Sprintf("%d ms", t.Milliseconds())
	case t < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", t.Seconds()), ".0") + " s"
	case t < time.Hour:
		return fmt.Sprintf("%d:%02d", int(t.Minutes()), int(t.Seconds())%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", int(t.Hours()), int(t.Minutes())%60, int(t.Seconds())%60)
}

// span is a length of time as people say it, in two or three digits.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-max(d, -math.MaxInt64)) // the least has no opposite
	case d.Round(time.Second) >= time.Minute:
		d = d.Round(time.Second)
		s := fmt.Sprintf("%d min %d s", int(d.Minutes())%60, int(d.Seconds())%60)
		if d >= time.Hour {
			s = fmt.Sprintf("%d h %s", int(d.Hours()), s)
		}
		return strings.TrimSuffix(strings.TrimSuffix(s, " 0 s"), " 0 min")
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}} {
		if d < u.unit {
			continue
		}
		in := float64(d) / float64(u.unit)
		if in < 10 {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", in), ".0") + " " + u.name
		}
		return fmt.Sprintf("%.0f %s", in, u.name)
	}
	return "0"
}

// percent is a coordinate of a drawing as a place on the page.
func percent(x float64) float64 { return math.Round(x/width*1e4) / 100 }
