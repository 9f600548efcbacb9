package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/api/client"
)

const (
	// metricsTimeout and metricsMost bound what one node may take to answer,
	// and how much is read of it.
	metricsTimeout = 3 * time.Second
	metricsMost    = 16 << 20
	cpuMetric      = "process_cpu_seconds_total"
)

// meter reads figures of nodes: how much CPU they have used, and others.
type meter struct{ http *http.Client }

func newMeter() meter {
	return meter{&http.Client{Timeout: metricsTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// cpuReading is the CPU seconds of each node's process.
type cpuReading map[string]float64

func (m meter) read(ctx context.Context, c *client.Client) (cpuReading, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	reading := make(cpuReading)
	for _, n := range s.GetNodes() {
		if n.GetApiAddress() == "" || stateName(n.GetState()) != "alive" {
			continue
		}
		seconds, err := m.readNode(ctx, n.GetApiAddress(), cpuMetric)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.GetName(), err)
		}
		reading[n.GetId()] = seconds
	}
	return reading, nil
}

// readNode reads one figure of one node.
func (m meter) readNode(ctx context.Context, address, metric string) (float64, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := m.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("/metrics: %s", answer.Status)
	}
	return figure(io.LimitReader(answer.Body, metricsMost), metric)
}

// figure finds a metric without labels in the text format of Prometheus.
func figure(r io.Reader, metric string) (float64, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), metric+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, errors.New("no " + metric)
}

// since is the CPU used by all nodes between two readings. A node that is not
// in both, or began anew, spoils the sum.
func (r cpuReading) since(before cpuReading) (time.Duration, error) {
	sum := 0.0
	for id, seconds := range before {
		after, ok := r[id]
		if !ok || after < seconds {
			return 0, fmt.Errorf("%s was restarted or is gone", id)
		}
		sum += after - seconds
	}
	return time.Duration(sum * float64(time.Second)), nil
}

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
}

type benchLatency struct {
	Mean float64 `json:"mean"`
	P50  int64   `json:"p50"`
	P90  int64   `json:"p90"`
	P99  int64   `json:"p99"`
	P999 int64   `json:"p99_9"`
	Max  int64   `json:"max"`
}

func (m *measurement) report(s benchSettings, cpu time.Duration, cpuErr error) benchReport {
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
	switch {
	case cpuErr != nil:
		r.ServerCPUReason = cpuErr.Error()
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
