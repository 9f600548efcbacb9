package jepsen

import (
	"strings"
	"testing"
	"time"
)

func valid() Config {
	return Config{Binary: "capstan", Dir: "d", Workloads: []string{"register"}}.withDefaults()
}

func TestConfigIsChecked(t *testing.T) {
	if err := valid().check(); err != nil {
		t.Errorf("with its defaults: %v", err)
	}
	for want, change := range map[string]func(*Config){
		"no binary":          func(c *Config) { c.Binary = "" },
		"no directory":       func(c *Config) { c.Dir = "" },
		"no lab":             func(c *Config) { c.Lab = "moon" },
		"17 nodes":           func(c *Config) { c.Nodes = 17 },
		"6 partitions":       func(c *Config) { c.Partitions = 6 },
		"replication factor": func(c *Config) { c.ReplicationFactor = 6 },
		"time limit":         func(c *Config) { c.TimeLimit = time.Millisecond },
		"concurrency":        func(c *Config) { c.Concurrency = 65 },
		"rate":               func(c *Config) { c.Rate = -1 },
		"operation timeout":  func(c *Config) { c.OpTimeout = time.Hour },
		"no workload":        func(c *Config) { c.Workloads = nil },
		"no workload \"x\"":  func(c *Config) { c.Workloads = []string{"x"} },
		"twice":              func(c *Config) { c.Workloads = []string{"set", "set"} },
	} {
		c := valid()
		change(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Workloads share the rate, but for those that need one of their own.
func TestRates(t *testing.T) {
	c := valid()
	c.Workloads, c.Rate = []string{"availability", "register", "set"}, 90
	rates := map[string]float64{}
	for _, j := range c.jobs() {
		rates[j.name] = j.rate
	}
	if rates["availability"] != 100 || rates["register"] != 45 || rates["set"] != 45 {
		t.Errorf("rates %v", rates)
	}
}
