package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	// drainMost bounds the wait for eventual writes to be decided before the
	// figures are read, drainPause is between two looks.
	drainMost  = 5 * time.Second
	drainPause = 100 * time.Millisecond

	cpuMetric     = "process_cpu_seconds_total"
	backlogMetric = "capstan_tentative_backlog"
	lagMetric     = "capstan_promotion_lag_seconds_bucket"
)

// meter reads figures of nodes.
type meter struct{ http *http.Client }

func newMeter() meter {
	return meter{&http.Client{Timeout: metricsTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// reading is what the nodes' figures were at one moment.
type reading struct {
	cpu     map[string]float64 // seconds of each node's process
	backlog float64            // eventual writes that are not decided
	lag     histogram          // of those that are
}

// read asks all nodes that are up.
func (m meter) read(ctx context.Context, c *client.Client) (reading, error) {
	all := reading{cpu: map[string]float64{}, lag: histogram{}}
	s, err := c.Status(ctx)
	if err != nil {
		return reading{}, err
	}
	for _, n := range s.GetNodes() {
		if n.GetApiAddress() == "" || stateName(n.GetState()) != "alive" {
			continue
		}
		found, err := m.samples(ctx, n.GetApiAddress(), cpuMetric, backlogMetric, lagMetric)
		if err == nil && len(found[cpuMetric]) != 1 {
			err = errors.New("no " + cpuMetric)
		}
		if err != nil {
			return reading{}, fmt.Errorf("%s: %w", n.GetName(), err)
		}
		all.cpu[n.GetId()] = found[cpuMetric][0].value
		for _, of := range found[backlogMetric] {
			all.backlog += of.value
		}
		for _, bucket := range found[lagMetric] {
			if err := all.lag.add(bucket); err != nil {
				return reading{}, fmt.Errorf("%s: %w", n.GetName(), err)
			}
		}
	}
	return all, nil
}

// drained reads once no eventual write is undecided, or after a while.
func (m meter) drained(ctx context.Context, c *client.Client) (reading, error) {
	for deadline := time.Now().Add(drainMost); ; {
		r, err := m.read(ctx, c)
		if err != nil || r.backlog == 0 || time.Now().After(deadline) {
			return r, err
		}
		if !sleepUntil(ctx, time.Now().Add(drainPause)) {
			return r, nil
		}
	}
}

// cpuSince is the CPU used by all nodes between two readings. A node that is not
// in both, or began anew, spoils the sum.
func (r reading) cpuSince(before reading) (time.Duration, error) {
	sum := 0.0
	for id, seconds := range before.cpu {
		after, ok := r.cpu[id]
		if !ok || after < seconds {
			return 0, fmt.Errorf("%s was restarted or is gone", id)
		}
		sum += after - seconds
	}
	return time.Duration(sum * float64(time.Second)), nil
}

// readNode reads one figure of one node, that has no labels.
func (m meter) readNode(ctx context.Context, address, metric string) (float64, error) {
	found, err := m.samples(ctx, address, metric)
	switch {
	case err != nil:
		return 0, err
	case len(found[metric]) != 1 || found[metric][0].labels != "":
		return 0, errors.New("no " + metric)
	}
	return found[metric][0].value, nil
}

func (m meter) samples(ctx context.Context, address string, metrics ...string) (map[string][]sample, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := m.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %s", answer.Status)
	}
	return samples(io.LimitReader(answer.Body, metricsMost), metrics...)
}

// sample is a line of a metric; labels is what stands in braces.
type sample struct {
	labels string
	value  float64
}

// samples finds metrics in the text format of Prometheus.
func samples(r io.Reader, metrics ...string) (map[string][]sample, error) {
	found := map[string][]sample{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 {
			continue
		}
		name, labels, _ := strings.Cut(lines.Text()[:at], "{")
		for _, metric := range metrics {
			if name != metric {
				continue
			}
			value, err := strconv.ParseFloat(lines.Text()[at+1:], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", metric, err)
			}
			found[metric] = append(found[metric], sample{strings.TrimSuffix(labels, "}"), value})
		}
	}
	return found, lines.Err()
}
