package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// histogram is one of Prometheus: by upper bound, how many were not above it.
type histogram map[float64]float64

// add takes up the line of a bucket.
func (h histogram) add(line sample) error {
	bound, begins := strings.CutPrefix(line.labels, `le="`)
	bound, ends := strings.CutSuffix(bound, `"`)
	if !begins || !ends {
		return fmt.Errorf("a bucket with labels %s", line.labels)
	}
	le, err := strconv.ParseFloat(bound, 64) // +Inf too
	if err != nil {
		return err
	}
	h[le] += line.value
	return nil
}

// since is what was counted after an earlier reading.
func (h histogram) since(before histogram) histogram {
	later := histogram{}
	for le, n := range h {
		later[le] = n - before[le]
	}
	return later
}

func (h histogram) count() int64 { return int64(h[math.Inf(1)]) }

// quantile is where a part q of all lies, if they are spread evenly in each
// bucket; for what lies above the highest bound it is that bound.
func (h histogram) quantile(q float64) float64 {
	rank := q * h[math.Inf(1)]
	low, below := 0.0, 0.0
	for _, le := range slices.Sorted(maps.Keys(h)) {
		if h[le] >= rank && h[le] > below {
			if math.IsInf(le, 1) {
				break
			}
			return low + (le-low)*(rank-below)/(h[le]-below)
		}
		low, below = le, h[le]
	}
	return low
}
