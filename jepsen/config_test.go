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

// Who names two kinds of faults gets both, or is told that there is no time.
func TestAKindThatIsNamedIsPlanned(t *testing.T) {
	c := valid()
	c.Nemeses = []string{"cut-halves", "pause-one"}
	refused := 0
	for c.Seed = range 20 {
		c.TimeLimit = 24 * time.Second
		if s, err := c.plan(false); err != nil || len(s.Kinds()) != 2 {
			t.Errorf("seed %d: %v %v", c.Seed, s.Kinds(), err)
		}
		c.TimeLimit = 12 * time.Second
		s, err := c.plan(false)
		if err == nil && len(s.Kinds()) != 2 || err != nil && !strings.Contains(err.Error(), "a time limit of 12s has no room for nemesis ") {
			t.Errorf("seed %d: %v %v", c.Seed, s.Kinds(), err)
		}
		if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("both always fit: nothing was tested")
	}
	c.Nemeses = []string{"cut", "pauses"}
	if s, err := c.plan(false); err != nil || len(s) != 1 {
		t.Errorf("groups: %v %v", s, err)
	}
}
