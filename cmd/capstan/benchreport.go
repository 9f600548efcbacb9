package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// benchReport is what bench prints. Its JSON is for programs that compare runs:
// units are in the names.
type benchReport struct {
	Workload        string           `json:"workload"`
	Level           string           `json:"level"`
	Acks            uint32           `json:"acks"`
	Replicas        uint32           `json:"replicas"`
	MaxStaleness    float64          `json:"max_staleness_seconds"`
	Loop            string           `json:"loop"`
	Clients         int              `json:"clients"`
	Conns           int              `json:"conns"`
	KeySizeBytes    int              `json:"key_size_bytes"`
	ValueSizeBytes  int              `json:"value_size_bytes"`
	Keys            int              `json:"keys"`
	RatePerSecond   float64          `json:"rate_per_second"`
	Seconds         float64          `json:"seconds"`
	Operations      int64            `json:"operations"`
	OpsPerSecond    float64          `json:"ops_per_second"`
	Latency         benchLatency     `json:"latency_us"`
	Errors          map[string]int64 `json:"errors"`
	NotFound        int64            `json:"not_found"`
	ServerCPUPerOp  *float64         `json:"server_cpu_us_per_op"` // null: unknown
	ServerCPUReason string           `json:"server_cpu_unknown_because,omitempty"`
	Promotion       *benchPromotion  `json:"promotion"` // null: nothing was promoted, or it is not known
}

// benchPromotion is how long after it was accepted an eventual write was decided.
// It is read from the nodes' histograms: between two of their bounds it is a guess.
type benchPromotion struct {
	Decided int64   `json:"decided"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	Waiting int64   `json:"waiting"` // not decided when the figures were read
}

type benchLatency struct {
	Mean float64 `json:"mean"`
	P50  int64   `json:"p50"`
	P90  int64   `json:"p90"`
	P99  int64   `json:"p99"`
	P999 int64   `json:"p99_9"`
	Max  int64   `json:"max"`
}

// report makes the report of what the clients saw, and of the nodes' figures
// before and after.
func (m *measurement) report(s benchSettings, before, after reading, figuresErr error) benchReport {
	loop := "closed"
	if s.rate > 0 {
		loop = "open"
	}
	h := m.latencies
	r := benchReport{
		Workload: s.workload, Level: s.at, Acks: s.acks, Replicas: s.replicas, MaxStaleness: s.maxStaleness.Seconds(), Loop: loop, Clients: s.clients, Conns: s.conns,
		KeySizeBytes: s.keySize, ValueSizeBytes: s.valueSize, Keys: s.keys, RatePerSecond: s.rate,
		Seconds: m.took.Seconds(), Operations: h.TotalCount(), OpsPerSecond: float64(h.TotalCount()) / m.took.Seconds(),
		Latency: benchLatency{
			Mean: h.Mean(), P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90), P99: h.ValueAtQuantile(99),
			P999: h.ValueAtQuantile(99.9), Max: h.Max(),
		},
		Errors: m.errors, NotFound: m.missed,
	}
	if figuresErr != nil {
		r.ServerCPUReason = figuresErr.Error()
		return r
	}
	if lag := after.lag.since(before.lag); lag.count() > 0 && s.at == eventual {
		const us = 1e6
		r.Promotion = &benchPromotion{
			Decided: lag.count(), P50: lag.quantile(0.5) * us, P99: lag.quantile(0.99) * us, Waiting: int64(after.backlog),
		}
	}
	cpu, err := after.cpuSince(before)
	switch {
	case err != nil:
		r.ServerCPUReason = err.Error()
	case r.Operations > 0:
		perOp := float64(cpu.Microseconds()) / float64(r.Operations)
		r.ServerCPUPerOp = &perOp
	}
	return r
}

func (r benchReport) text() string {
	var out strings.Builder
	level := r.Level
	switch {
	case r.Acks > 0:
		level += fmt.Sprintf(" (acks %d)", r.Acks)
	case r.Replicas > 0:
		level += fmt.Sprintf(" (replicas %d)", r.Replicas)
	case r.MaxStaleness > 0:
		level += fmt.Sprintf(" (at most %gs old)", r.MaxStaleness)
	}
	fmt.Fprintf(&out, "%s, %s, %d clients on %d connections a node, %d-byte keys, %d-byte values, %s loop", r.Workload, level, r.Clients, r.Conns, r.KeySizeBytes, r.ValueSizeBytes, r.Loop)
	if r.RatePerSecond > 0 {
		fmt.Fprintf(&out, " at %g a second", r.RatePerSecond)
	}
	fmt.Fprintf(&out, "\n  throughput  %.0f ops/s  (%d in %.1fs)\n", r.OpsPerSecond, r.Operations, r.Seconds)
	ms := func(us int64) string { return fmt.Sprintf("%.2fms", float64(us)/1000) }
	fmt.Fprintf(&out, "  latency     p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n", ms(r.Latency.P50), ms(r.Latency.P90), ms(r.Latency.P99), ms(r.Latency.P999), ms(r.Latency.Max))
	if r.ServerCPUPerOp != nil {
		fmt.Fprintf(&out, "  server CPU  %.0fus per operation, all nodes together\n", *r.ServerCPUPerOp)
	} else if r.ServerCPUReason != "" {
		fmt.Fprintf(&out, "  server CPU  unknown: %s\n", r.ServerCPUReason)
	}
	if r.Promotion != nil {
		fmt.Fprintf(&out, "  promotion   p50 %s  p99 %s after it was accepted  (%d decided, %d not yet)\n",
			ms(int64(r.Promotion.P50)), ms(int64(r.Promotion.P99)), r.Promotion.Decided, r.Promotion.Waiting)
	}
	if r.NotFound > 0 {
		fmt.Fprintf(&out, "  not found   %d\n", r.NotFound)
	}
	if len(r.Errors) == 0 {
		out.WriteString("  errors      none\n")
	} else {
		out.WriteString("  errors     ")
		for _, reason := range slices.Sorted(maps.Keys(r.Errors)) {
			fmt.Fprintf(&out, " %s %d", reason, r.Errors[reason])
		}
		out.WriteByte('\n')
	}
	return out.String()
}
