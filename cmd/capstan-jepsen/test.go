package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
	"github.com/capstan-kv/capstan/jepsen/report"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// faultVariable plants a fault in a build that has them.
const faultVariable = "CAPSTAN_FAULT"

// testSettings are the flags of run.
type testSettings struct {
	outputFlag
	config   jepsen.Config
	lab      string
	store    string
	schedule string
}

func (p *program) runCommand() *cobra.Command {
	var s testSettings
	cmd := &cobra.Command{
		Use:   "run [flags] [-- FLAGS OF CAPSTAN SERVE]",
		Short: "start a cluster, disturb it while clients work, judge what they saw",
		Long: `Starts a cluster of real capstan processes, has clients work while the nemeses
disturb it, heals all, asks what the cluster ended with, and judges the history. It
takes a directory below --dir for the report, the history, the schedule of
faults and the nodes' logs.

--lab=namespaces gives every node a host and a network interface of its own, with
this program as the switch between them: links can be cut, slow or lossy. It needs
Linux and user namespaces, and no root. --lab=loopback is for machines that forbid
those: nodes are processes on 127.0.0.x, which can be killed and paused, and cut
themselves off from each other.

Ctrl-C ends the load, heals all and judges what there is, which cannot tell much. A
second Ctrl-C ends all at once, and leaves the nodes' data in the run's directory.
Neither leaves a process behind.

Exit status: 0 what was promised holds; 1 it was violated; 2 the test could not
tell, or did not run.`,
		Example: `  capstan-jepsen run --workload register --nemesis cut-halves,pause --time-limit 60s
  capstan-jepsen run --workload register,mixed,session --nemesis cuts,kills --time-limit 5m --rate 500
  capstan-jepsen run --seed 4711                                    # the same faults once more
  capstan-jepsen run --schedule store/20261125-180000-4711/schedule.jsonl
  capstan-jepsen run --binary ./capstan-v0.1.0 -- --max-clock-offset=1s   # another build, other flags`,
		Args: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at > 0 || at < 0 && len(args) > 0 {
				return usageErrorf("%s takes no arguments but those after --, got %q", cmd.CommandPath(), args[0]).hint(cmd.CommandPath() + " --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s.config.Args = args
			if !cmd.Flags().Changed("seed") {
				s.config.Seed = rand.Uint64N(1_000_000) // short, for people
			}
			return p.runTest(cmd.Context(), s)
		},
	}
	s.add(cmd)
	flags, c := cmd.Flags(), &s.config
	flags.StringSliceVar(&c.Workloads, "workload", []string{"register"}, "what clients do, see list; all for all")
	flags.StringSliceVar(&c.Nemeses, "nemesis", []string{"cut-halves", "pause"}, "what is done to the cluster, see list; none for nothing")
	flags.DurationVar(&c.TimeLimit, "time-limit", jepsen.DefaultTimeLimit, "how long clients work; start and end come on top")
	flags.Uint64Var(&c.Seed, "seed", 0, "what the plan of faults and the operations are drawn from (default: drawn, and told)")
	flags.StringVar(&s.schedule, "schedule", "", "carry out the faults of this file, as a run writes one, instead of drawing them")
	flags.StringVar(&s.lab, "lab", string(lab.Namespaces), "namespaces, or loopback")
	flags.StringVar(&c.Binary, "binary", "", "the capstan to test (default: the one beside this program, or in PATH)")
	flags.IntVar(&c.Nodes, "nodes", jepsen.DefaultNodes, "how many nodes")
	flags.IntVar(&c.Partitions, "partitions", jepsen.DefaultPartitions, "how many partitions, a power of two")
	flags.IntVar(&c.ReplicationFactor, "replication-factor", 0, "on how many nodes each is (default: 3, or all if there are fewer)")
	flags.Float64Var(&c.Rate, "rate", jepsen.DefaultRate, "operations a second, of all workloads together")
	flags.IntVar(&c.Concurrency, "concurrency", jepsen.DefaultConcurrency, "operations in flight, a node and workload")
	flags.DurationVar(&c.OpTimeout, "timeout", jepsen.DefaultOpTimeout, "deadline of an operation")
	flags.StringVar(&s.store, "dir", "store", "directory for the directories of runs")
	flags.BoolVar(&c.Keep, "keep", false, "leave the nodes' data directories, too")
	flags.StringVar(&c.Planted, "plant", "", "plant this fault in a binary that has some (make build-faults): it should be found")
	return cmd
}

// complete checks what can be checked before anything is made.
func (s *testSettings) complete(ctx context.Context, name string, args []string) error {
	c := &s.config
	c.Lab = lab.Kind(s.lab)
	if c.Lab != lab.Namespaces && c.Lab != lab.Loopback {
		return usageErrorf("--lab is %s or %s, not %q", lab.Namespaces, lab.Loopback, s.lab)
	}
	if slices.Equal(c.Workloads, []string{"all"}) {
		c.Workloads = nil
		for _, w := range workload.All() {
			c.Workloads = append(c.Workloads, w.Name)
		}
	}
	if slices.Equal(c.Nemeses, []string{"none"}) {
		c.Nemeses = nil
	}
	if s.schedule != "" {
		file, err := os.Open(s.schedule)
		if err != nil {
			return usageErrorf("--schedule: %w", err)
		}
		defer file.Close()
		if c.Schedule, err = nemesis.Read(file); err != nil {
			return usageErrorf("--schedule %s: %w", s.schedule, err)
		}
		if c.Schedule == nil {
			c.Schedule = nemesis.Schedule{} // of no faults
		}
		c.Nemeses = nil // those of the schedule
		for _, e := range c.Schedule {
			if !slices.Contains(c.Nemeses, e.Kind) {
				c.Nemeses = append(c.Nemeses, e.Kind)
			}
		}
	}
	var err error
	if c.Binary, err = findBinary(c.Binary, "capstan"); err != nil {
		return err
	}
	if c.Planted != "" {
		if err := canPlant(ctx, c.Binary, c.Planted); err != nil {
			return err
		}
		c.Env = []string{faultVariable + "=" + c.Planted}
	}
	c.Harness, c.Command = programVersion(), append([]string{name}, args...)
	return known(c)
}

// runTest runs the test where hosts can be made. It is called again there.
func (p *program) runTest(ctx context.Context, s testSettings) error {
	asJSON, err := s.json()
	if err != nil {
		return err
	}
	if err := s.complete(ctx, p.name(), p.args); err != nil {
		var usage *usageError
		if !errors.As(err, &usage) {
			return usageErrorf("%w", err).hint("capstan-jepsen list, capstan-jepsen run --help")
		}
		return err
	}
	if s.config.Lab == lab.Loopback {
		return p.judged(ctx, s, asJSON)
	}
	err = p.inNamespaces(func() error { return p.judged(ctx, s, asJSON) })
	if errors.Is(err, lab.ErrForbidden) {
		return usageErrorf("%w", err).
			hint("allow user namespaces, or --lab=loopback: there nodes can be killed, paused and cut off, and links cannot be slow, lossy or one-way")
	}
	return err
}

// judged is the test itself.
func (p *program) judged(ctx context.Context, s testSettings, asJSON bool) error {
	c := s.config
	c.Dir = filepath.Join(s.store, fmt.Sprintf("%s-%d", time.Now().Format("20060102-150405"), c.Seed))
	line := newProgress(p.stderr)
	fmt.Fprintf(p.stderr, "%s on %d nodes, %s, lab %s, seed %d, in %s\n", strings.Join(c.Workloads, ", "), c.Nodes, disturbed(c.Nemeses), c.Lab, c.Seed, c.Dir)
	c.Progress = line.show
	outcome, err := p.test(ctx, c)
	line.clear()
	if err != nil {
		if ctx.Err() != nil { // what fails then is of no interest
			return usageErrorf("interrupted before clients were at work: %w", context.Cause(ctx))
		}
		e := usageErrorf("the test did not run: %w", err)
		if logs, _ := filepath.Glob(filepath.Join(c.Dir, "*.log")); len(logs) > 0 {
			return e.hint("the nodes' logs in " + c.Dir)
		}
		return e
	}
	p.status = outcome.Result.Verdict.Exit()
	page := filepath.Join(c.Dir, reportFile)
	if err := writeReport(page, c.Dir, outcome.History, outcome.Result); err != nil {
		return usageErrorf("%s The report can not be written: %w", outcome.Result.Sentence, err)
	}
	files := resultFiles{
		Report: page, History: filepath.Join(c.Dir, jepsen.HistoryFile), Schedule: filepath.Join(c.Dir, jepsen.ScheduleFile),
		Repeat: repeat(&outcome.History.Run),
	}
	if asJSON {
		return p.printObject(struct {
			*check.Result
			resultFiles
		}{outcome.Result, files})
	}
	return p.write(verdict(outcome.Result, colours(p.stdout)) + files.text())
}

// resultFiles is where to look further.
type resultFiles struct {
	Report   string   `json:"report"`
	History  string   `json:"history"`
	Schedule string   `json:"schedule"`
	Repeat   []string `json:"repeat"`
}

func (f resultFiles) text() string {
	return fmt.Sprintf("\nreport    %s\nhistory   %s\nschedule  %s\nagain     %s\n", f.Report, f.History, f.Schedule, report.Quote(f.Repeat))
}

func disturbed(nemeses []string) string {
	if len(nemeses) == 0 {
		return "undisturbed"
	}
	return "disturbed by " + strings.Join(nemeses, ", ")
}

// known: there are such workloads and nemeses. What else a test needs, it says
// itself.
func known(c *jepsen.Config) error {
	for _, name := range c.Workloads {
		if _, err := workload.Find(name); err != nil {
			return usageErrorf("%w", err).hint("capstan-jepsen list")
		}
	}
	for _, name := range c.Nemeses {
		if slices.ContainsFunc(nemesis.Groups(), func(g nemesis.Group) bool { return g.Name == name }) {
			continue
		}
		if _, err := nemesis.Find(name); err != nil {
			return usageErrorf("%w", err).hint("capstan-jepsen list")
		}
	}
	return nil
}
