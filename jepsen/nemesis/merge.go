package nemesis

import (
	"fmt"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Merge is the rule of a link that follows several at once: it is cut if any of
// them cuts it, they all hold frames back, each loses and duplicates its part, and
// the smallest rate stays.
func Merge(rules ...lab.Rule) (merged lab.Rule) {
	for _, r := range rules {
		merged.Cut = merged.Cut || r.Cut
		merged.Delay = min(merged.Delay+r.Delay, lab.MaxDelay)
		merged.Jitter += r.Jitter
		merged.Loss = either(merged.Loss, r.Loss)
		merged.Duplicate = either(merged.Duplicate, r.Duplicate)
		if merged.Rate == 0 || r.Rate > 0 && r.Rate < merged.Rate {
			merged.Rate = r.Rate
		}
	}
	merged.Jitter = min(merged.Jitter, lab.MaxDelay-merged.Delay)
	return merged
}

// either is the chance that one of two that know nothing of each other happens.
func either(a, b float64) float64 {
	if a == 0 || b == 0 {
		return a + b // exactly
	}
	return min(1-(1-a)*(1-b), 1)
}

// Bounds of what clocks and disks are bent by.
const (
	maxOffsetMillis = int64(24 * time.Hour / time.Millisecond)
	maxDriftPPM     = 900_000
	maxSyncMillis   = int64(10 * time.Second / time.Millisecond)
)

func checkBend(c cluster.Control) error {
	if c != mergeBends(c) || c.SyncDelayMillis < 0 || c.SyncDelayMillis > maxSyncMillis {
		return fmt.Errorf("bend %+v: a clock by at most %d ms and %d ppm, a sync by 0 to %d ms", c, maxOffsetMillis, maxDriftPPM, maxSyncMillis)
	}
	return nil
}

// mergeBends is the control of a node that several bend at once: clocks add up,
// the slowest disk stays, and one that fails for any fails.
func mergeBends(controls ...cluster.Control) (merged cluster.Control) {
	for _, c := range controls {
		merged.ClockOffsetMillis += c.ClockOffsetMillis
		merged.ClockDriftPPM += c.ClockDriftPPM
		merged.DiskFull = merged.DiskFull || c.DiskFull
		merged.SyncDelayMillis = max(merged.SyncDelayMillis, c.SyncDelayMillis)
		merged.SyncError = merged.SyncError || c.SyncError
	}
	merged.ClockOffsetMillis = max(-maxOffsetMillis, min(merged.ClockOffsetMillis, maxOffsetMillis))
	merged.ClockDriftPPM = max(-maxDriftPPM, min(merged.ClockDriftPPM, maxDriftPPM))
	return merged
}
