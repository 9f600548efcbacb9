package jepsen

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// Defaults of a Config.
const (
	DefaultNodes       = 5
	DefaultPartitions  = 8
	DefaultReplication = 3
	DefaultConcurrency = 2
	DefaultRate        = 200
	DefaultTimeLimit   = time.Minute
	DefaultOpTimeout   = time.Second
	DefaultPatience    = 2 * time.Minute
)

const (
	// electionTimeout of partitions, as docs/consistency.md has it (rule 14).
	electionTimeout = 1500 * time.Millisecond
	// maxRate and maxConcurrency bound a run to what one machine can make and a
	// history can hold.
	maxRate        = 100_000
	maxConcurrency = 64
	maxTimeLimit   = 24 * time.Hour
)

// Config says what to run. What is zero has its default.
type Config struct {
	// Binary is the capstan program.
	Binary string
	// Dir takes all files of the run; it is made if it is missing. It must not
	// hold a history yet.
	Dir string
	// Lab to run in. Namespaces, the default, has to be called within lab.Within.
	Lab lab.Kind
	// Nodes is how many, 1 to lab.MaxHosts. Partitions is a power of two.
	Nodes, Partitions, ReplicationFactor int
	// Workloads by name, at least one. Nemeses by name; none: nothing is disturbed.
	Workloads, Nemeses []string
	// Schedule of faults. If it is nil one is planned of Nemeses and Seed.
	Schedule nemesis.Schedule
	Seed     uint64
	// TimeLimit of the clients' work. Start and end come on top.
	TimeLimit time.Duration
	// Concurrency is how many processes a workload has for each node.
	Concurrency int
	// Rate of operations a second, of all workloads together that have no rate of
	// their own.
	Rate float64
	// OpTimeout is the deadline of operations that have none of their own.
	OpTimeout time.Duration
	// Patience bounds, in the end, the wait until all nodes are ready, and that until
	// nothing is under way any more.
	Patience time.Duration
	// Args are further flags of capstan serve, Env further variables of its
	// environment, NAME=value.
	Args, Env []string
	// Planted names the fault that Env plants, for the record.
	Planted string
	// Harness is the version of the caller's program, Command how it was called:
	// for the record.
	Harness string
	Command []string
	// Keep leaves the nodes' data directories in Dir. Logs are always left.
	Keep bool
	// Progress, if set, is told several times a second how the run gets on, from
	// one goroutine.
	Progress func(Progress)
}

// Progress is a look at a run.
type Progress struct {
	// Elapsed of Limit, of the clients' work.
	Elapsed, Limit time.Duration
	// Phase in a word or two.
	Phase  string
	Counts history.Counts
	// Faults that are active now.
	Faults []string
}

func (c Config) withDefaults() Config {
	c.Lab = cmp.Or(c.Lab, lab.Namespaces)
	c.Nodes = cmp.Or(c.Nodes, DefaultNodes)
	c.Partitions = cmp.Or(c.Partitions, DefaultPartitions)
	c.ReplicationFactor = cmp.Or(c.ReplicationFactor, min(DefaultReplication, c.Nodes))
	c.TimeLimit = cmp.Or(c.TimeLimit, DefaultTimeLimit)
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.Rate = cmp.Or(c.Rate, DefaultRate)
	c.OpTimeout = cmp.Or(c.OpTimeout, DefaultOpTimeout)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	return c
}

// check says what is wrong with a Config that has its defaults.
func (c Config) check() error {
	switch {
	case c.Binary == "":
		return errors.New("no binary")
	case c.Dir == "":
		return errors.New("no directory")
	case c.Lab != lab.Namespaces && c.Lab != lab.Loopback:
		return fmt.Errorf("no lab %q: there are %q and %q", c.Lab, lab.Namespaces, lab.Loopback)
	case c.Nodes < 1 || c.Nodes > lab.MaxHosts:
		return fmt.Errorf("%d nodes: a run has 1 to %d", c.Nodes, lab.MaxHosts)
	case c.Partitions < 1 || c.Partitions&(c.Partitions-1) != 0:
		return fmt.Errorf("%d partitions: their number is a power of two", c.Partitions)
	case c.ReplicationFactor < 1 || c.ReplicationFactor > c.Nodes:
		return fmt.Errorf("replication factor %d of %d nodes", c.ReplicationFactor, c.Nodes)
	case c.TimeLimit < time.Second || c.TimeLimit > maxTimeLimit:
		return fmt.Errorf("time limit %v: it is 1s to %v", c.TimeLimit, maxTimeLimit)
	case c.Concurrency < 1 || c.Concurrency > maxConcurrency:
		return fmt.Errorf("concurrency %d: it is 1 to %d", c.Concurrency, maxConcurrency)
	case c.Rate <= 0 || c.Rate > maxRate:
		return fmt.Errorf("rate %g: it is above 0 and at most %d", c.Rate, maxRate)
	case c.OpTimeout < 10*time.Millisecond || c.OpTimeout > time.Minute:
		return fmt.Errorf("operation timeout %v: it is 10ms to 1m", c.OpTimeout)
	case c.Patience < time.Second || c.Patience > DefaultPatience:
		return fmt.Errorf("patience %v: it is 1s to %v", c.Patience, DefaultPatience)
	case len(c.Workloads) == 0:
		return errors.New("no workload")
	}
	for i, name := range c.Workloads {
		if _, err := workload.Find(name); err != nil {
			return err
		}
		if slices.Contains(c.Workloads[:i], name) {
			return fmt.Errorf("workload %s twice", name)
		}
	}
	return nil
}

// names are those of the nodes.
func (c Config) names() []string {
	var names []string
	for i := range c.Nodes {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	return names
}
