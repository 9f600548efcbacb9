package main

import (
	"math"
	"strings"
	"testing"
)

func TestHistogram(t *testing.T) {
	found, err := samples(strings.NewReader(`# HELP capstan_promotion_lag_seconds Time
capstan_promotion_lag_seconds_bucket{le="0.01"} 100
capstan_promotion_lag_seconds_bucket{le="0.02"} 150
capstan_promotion_lag_seconds_bucket{le="0.1"} 198
capstan_promotion_lag_seconds_bucket{le="+Inf"} 200
capstan_promotion_lag_seconds_bucket_not{le="+Inf"} 7
capstan_promotion_lag_seconds_count 200
process_cpu_seconds_total 1.5e+01
`), lagMetric, cpuMetric)
	if err != nil {
		t.Fatal(err)
	}
	if cpu := found[cpuMetric]; len(cpu) != 1 || cpu[0].value != 15 || cpu[0].labels != "" {
		t.Errorf("cpu %+v", cpu)
	}
	h := histogram{}
	for range 2 { // two nodes
		for _, line := range found[lagMetric] {
			if err := h.add(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	if h.count() != 400 {
		t.Errorf("%d counted", h.count())
	}
	before := histogram{0.01: 100, 0.02: 100, 0.1: 100, math.Inf(1): 100}
	h = h.since(before) // 100, 200, 296, 300
	for q, want := range map[float64]float64{0.25: 0.0075, 0.5: 0.015, 0.99: 0.1, 0.66667: 0.02, 0: 0} {
		if q == 0.99 { // the 297th is above the highest bound
			if got := h.quantile(q); got != want {
				t.Errorf("quantile %g: %g, not %g", q, got, want)
			}
			continue
		}
		if got := h.quantile(q); math.Abs(got-want) > 1e-4 {
			t.Errorf("quantile %g: %g, not %g", q, got, want)
		}
	}
	if got := (histogram{}).quantile(0.5); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
	if err := h.add(sample{`p="1"`, 1}); err == nil {
		t.Error("a bucket without a bound was taken")
	}
}
