package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// band is a fault on the axis of time. Left and Width are in percent.
type band struct {
	Number       int
	Kind, Family string
	Lane         int
	Left, Width  float64
	X, W         float64 // the same in the drawing's units
	Says         string
}

// bands lays faults that overlap into lanes, as few as there can be.
func bands(faults []history.Band, a axis) (all []band, lanes int) {
	var free []time.Duration // when each lane's last band ends
	ordered := slices.Clone(faults)
	slices.SortStableFunc(ordered, func(x, y history.Band) int { return cmp.Compare(x.From, y.From) })
	for _, f := range ordered {
		until := end(f, a)
		lane := slices.IndexFunc(free, func(t time.Duration) bool { return t <= f.From })
		if lane < 0 {
			lane = len(free)
			free = append(free, 0)
		}
		free[lane] = until
		x, w := a.x(f.From), max(a.x(until)-a.x(f.From), 1)
		all = append(all, band{
			Number: f.Number, Kind: f.Kind, Family: family(f.Kind), Lane: lane, Left: percent(x), Width: percent(w), X: x, W: w,
			Says: fmt.Sprintf("%s to %s: %s", clock(f.From), clock(until), cmp.Or(f.What, f.Kind)),
		})
	}
	return all, len(free)
}

// end of a fault; one that was never healed lasts.
func end(f history.Band, a axis) time.Duration {
	if !f.Healed {
		return a.length
	}
	return f.Until
}

// family is what a kind of fault hits; each has its colour. It goes by the
// words that names of kinds are made of, and a new one is "other".
func family(kind string) string {
	for _, f := range []struct {
		name  string
		words []string
	}{
		{"disk", []string{"disk", "fsync", "wipe", "power"}},
		{"clock", []string{"clock"}},
		{"pause", []string{"pause"}},
		{"kill", []string{"kill", "restart", "crash"}},
		{"network", []string{"cut", "bridge", "ring", "one-way", "flap", "isolate", "slow", "loss", "dup", "narrow", "delay", "jitter"}},
	} {
		for _, w := range f.words {
			if strings.Contains(kind, w) {
				return f.name
			}
		}
	}
	return "other"
}
