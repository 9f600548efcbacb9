package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// Files of a run, in its directory, beside the nodes' logs.
const (
	HistoryFile  = "history.jsonl"
	ScheduleFile = "schedule.jsonl"
	ResultFile   = "result.json"
)

const (
	// startPatience bounds the start of the cluster: seconds on an idle machine.
	startPatience = time.Minute
	// endPatience bounds the whole end.
	endPatience = 5 * time.Minute
	// stopPatience bounds the nodes' stopping in order.
	stopPatience = 20 * time.Second
	// faultLength is how long a fault lasts, four election timeouts, and quietLength
	// how long all is well between two of them, in a run that has the time.
	faultLength = 4 * electionTimeout
	quietLength = 4 * time.Second
	// overlap is the chance that while a fault lasts another one begins.
	overlap = 0.3
	// progressEvery is how often Config.Progress is told.
	progressEvery = 200 * time.Millisecond
	// flushEvery is how often the record is written out: a run that is killed leaves
	// what had happened until then.
	flushEvery = time.Second
)

// Interrupted is what End.Failed says of a run whose context ended.
const Interrupted = "interrupted"

// Outcome is a run that came to a judgement.
type Outcome struct {
	Dir     string
	History *history.History
	Result  *check.Result
}

// Run carries out a test, from the making of the hosts to the judgement, and leaves
// Dir with the record, the schedule, the judgement and the nodes' logs. It is an
// error if it did not come to a judgement: what is wrong with the Config, a lab
// that this machine does not allow (lab.ErrForbidden), a cluster that does not
// start.
//
// If ctx ends once clients are at work, they stop, all is healed and the record is
// judged as far as it goes. When Run returns no process is left.
func Run(ctx context.Context, c Config) (*Outcome, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	c.Dir = dir
	program, err := AskProgram(ctx, c.Binary)
	if err != nil {
		return nil, err
	}
	schedule, err := c.plan(program.Faults)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(c.Dir, HistoryFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	err = c.record(ctx, file, schedule, program)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return judge(c.Dir)
}

// plan gives the schedule: as it was given, or planned.
func (c Config) plan(faultBuild bool) (nemesis.Schedule, error) {
	if c.Schedule != nil {
		return c.Schedule, errors.Join(c.Schedule.Check(c.names(), c.Partitions), c.Schedule.Possible(c.Lab, faultBuild))
	}
	if len(c.Nemeses) == 0 {
		return nil, nil
	}
	fault, quiet := min(faultLength, c.TimeLimit/3), min(quietLength, c.TimeLimit/4)
	schedule, err := nemesis.Plan(nemesis.Config{
		Seed: c.Seed, Nodes: c.names(), Partitions: c.Partitions, Kinds: c.Nemeses, Lab: c.Lab, FaultBuild: faultBuild,
		Length: c.TimeLimit, Quiet: quiet, Fault: fault, Overlap: overlap,
	})
	if err != nil {
		return nil, err
	}
	planned := schedule.Kinds()
	for _, name := range c.Nemeses {
		// Of a group not all need come. A kind was asked for.
		if _, err := nemesis.Find(name); err == nil && !slices.Contains(planned, name) {
			return nil, fmt.Errorf("a time limit of %v has no room for nemesis %s: it takes about %v for each, and %v more", c.TimeLimit, name, faultLength+quietLength, quietLength)
		}
	}
	return schedule, nil
}

// record carries the test out and records it.
func (c Config) record(ctx context.Context, file io.Writer, schedule nemesis.Schedule, program Program) (failed error) {
	if err := writeFile(filepath.Join(c.Dir, ScheduleFile), schedule.Write); err != nil {
		return err
	}
	open := lab.OpenNamespaces
	if c.Lab == lab.Loopback {
		open = lab.OpenLoopback
	}
	hosts, err := open(lab.Config{Hosts: c.names(), Seed: c.Seed})
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, hosts.Close()) }()
	nodes, err := cluster.New(cluster.Config{
		Lab: hosts, Binary: c.Binary, Dir: c.Dir, Env: c.Env, FaultBuild: program.Faults, Volatile: schedule.Volatile(),
		Args: append([]string{"--partitions", fmt.Sprint(c.Partitions), "--replication-factor", fmt.Sprint(c.ReplicationFactor)}, c.Args...),
	})
	if err != nil {
		return err
	}
	defer func() {
		failed = errors.Join(failed, nodes.Close())
		for _, n := range nodes.Nodes() {
			if !c.Keep {
				failed = errors.Join(failed, os.RemoveAll(n.DataDir))
			}
		}
	}()
	urls := map[string]string{}
	for _, n := range nodes.Nodes() {
		urls[n.Name] = n.URL()
	}
	clients, err := newAsked(urls)
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, clients.close()) }()
	return c.with(ctx, file, schedule, program, hosts, nodes, clients)
}

// with carries the test out on a cluster that does not run yet.
func (c Config) with(ctx context.Context, file io.Writer, schedule nemesis.Schedule, program Program, hosts lab.Lab, nodes *cluster.Cluster, clients *asked) error {
	p := &progress{config: c, phase: "starting"}
	defer p.tell()()
	start, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := nodes.Start(start); err != nil {
		return err
	}
	found, err := placed(start, clients, c.names(), c.Partitions)
	if err != nil {
		return err
	}
	began := time.Now()
	record := history.NewRecorder(file, func() time.Duration { return time.Since(began) })
	run := &running{
		caller: clients, record: record, nodes: c.names(), partitions: c.Partitions, opTimeout: c.OpTimeout, ids: found.ids,
	}
	header := c.header(schedule, program)
	header.Began, header.Placement, header.ReplicationFactor = began.UTC(), found.placement, found.replicationFactor
	if err := run.write(history.Event{Type: history.TypeRun, Run: header}); err != nil {
		return err
	}
	if missed := schedule.Missed(c.Nemeses, c.Lab, program.Faults); len(missed) > 0 {
		if err := run.write(history.Event{Type: history.TypeNote, Note: "no time to disturb by " + strings.Join(missed, ", ")}); err != nil {
			return err
		}
	}
	disturb := &faults{run: run, face: clients, schedule: schedule}
	jobs := c.jobs()
	p.at(began, record, disturb)
	defer p.flush()()

	work, stop := context.WithTimeout(ctx, c.TimeLimit)
	defer stop()
	p.set("running")
	others, workFailed := meanwhile(work,
		func(ctx context.Context) error { return run.run(ctx, jobs) },
		func(ctx context.Context) error { return disturb.carryOut(ctx, disturb.target(ctx, hosts, nodes)) },
		run.watchStalls, // its failure is the record's
	)
	if err := errors.Join(workFailed, run.failure()); err != nil {
		return err // of the record: it can not go on
	}
	end := c.end(ctx, &ending{run: run, face: clients, awaitReady: nodes.AwaitReady, settle: c.Patience, placement: found.placement}, jobs, p)
	if err := others[0]; err != nil {
		end.Failed = joined(end.Failed, "nemesis: "+err.Error())
	}
	p.set("stopping")
	if err := stopAll(ctx, run, nodes); err != nil {
		end.Failed = joined(end.Failed, err.Error())
	}
	return errors.Join(run.write(history.Event{Type: history.TypeEnd, End: &end}), record.Flush())
}

// end is what follows the clients' work, unless somebody is in a hurry.
func (c Config) end(ctx context.Context, e *ending, jobs []job, p *progress) history.End {
	if ctx.Err() != nil {
		return history.End{Failed: Interrupted}
	}
	patient, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	var final []history.Op
	for _, j := range jobs {
		for _, o := range j.generator.Final() {
			o.Workload = j.name
			final = append(final, o)
		}
	}
	end := e.carryOut(patient, final, p.set)
	if ctx.Err() != nil {
		end.Failed = Interrupted // whatever failed, failed of that
	}
	return end
}

// stopAll has the nodes end in order, unless somebody is in a hurry, and records
// what they should not have done.
func stopAll(ctx context.Context, run *running, nodes *cluster.Cluster) error {
	var all []history.Trouble
	if ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(ctx, stopPatience)
		defer cancel()
		if err := nodes.Stop(ctx); err != nil {
			all = append(all, history.Trouble{What: err.Error()})
		}
	}
	found, err := nodes.Trouble()
	for _, t := range found {
		all = append(all, history.Trouble{Node: t.Node, File: filepath.Base(t.File), Line: t.Line, What: t.What})
	}
	for i := range all {
		err = errors.Join(err, run.write(history.Event{Type: history.TypeTrouble, Trouble: &all[i]}))
	}
	return err
}

func (c Config) header(schedule nemesis.Schedule, program Program) *history.Run {
	r := &history.Run{
		Format: history.Format, Workloads: c.Workloads, Nemeses: c.Nemeses, Seed: c.Seed, TimeLimit: c.TimeLimit, Lab: string(c.Lab),
		Nodes: c.names(), Partitions: c.Partitions, ElectionTimeout: electionTimeout,
		Binary: c.Binary, Version: program.String(), Planted: c.Planted, Harness: c.Harness, Command: c.Command,
	}
	for _, e := range schedule {
		line, _ := json.Marshal(e) // it was written to a file before
		r.Schedule = append(r.Schedule, line)
	}
	return r
}

// jobs are the workloads. Those without a rate of their own share the run's.
func (c Config) jobs() []job {
	var jobs []job
	share := 0
	for _, name := range c.Workloads {
		w, _ := workload.Find(name) // the Config was checked
		slots := c.Concurrency * c.Nodes
		jobs = append(jobs, job{
			name: name, slots: slots, routed: w.Routed, rate: w.Rate * float64(c.Nodes), seed: c.Seed,
			generator: w.New(workload.Config{
				Seed: c.Seed, Nodes: c.names(), Processes: slots, ElectionTimeout: electionTimeout,
				Partitions: c.Partitions, PartitionOf: func(key string) int { return partitionOf(key, c.Partitions) },
			}),
		})
		if w.Rate == 0 {
			share++
		}
	}
	for i := range jobs {
		if jobs[i].rate == 0 {
			jobs[i].rate = c.Rate / float64(share)
		}
	}
	return jobs
}

// standing is the cluster that a run finds when it is ready.
type standing struct {
	placement         [][]string
	ids               *identities
	replicationFactor int
}

// placed asks where partitions live and which node id stands behind each name, and
// whether this program and the cluster mean the same by a key's partition.
func placed(ctx context.Context, f face, nodes []string, partitions int) (*standing, error) {
	status, err := f.status(ctx, nodes[0])
	if err != nil {
		return nil, err
	}
	if got := len(status.GetPartitions()); got != partitions {
		return nil, fmt.Errorf("the cluster has %d partitions, and was to have %d", got, partitions)
	}
	s := &standing{placement: make([][]string, partitions), ids: &identities{}, replicationFactor: int(status.GetReplicationFactor())}
	for _, n := range status.GetNodes() {
		if n.GetState() == capstanv1.NodeState_NODE_STATE_ALIVE {
			s.ids.learn(n.GetName(), 0, n.GetId())
		}
	}
	for _, name := range nodes {
		if s.ids.of(name).id == "" {
			return nil, fmt.Errorf("%s, which is ready, is not alive by the status of %s", name, nodes[0])
		}
	}
	for i, p := range status.GetPartitions() {
		for _, r := range p.GetReplicas() {
			if r.GetVoter() {
				s.placement[i] = append(s.placement[i], r.GetNode())
			}
		}
		slices.Sort(s.placement[i])
	}
	for _, key := range []string{"register/0", "scan/{7}/1"} {
		got, err := f.locate(ctx, nodes[0], key)
		if err != nil {
			return nil, err
		}
		if want := partitionOf(key, partitions); got != want {
			return nil, fmt.Errorf("the cluster has key %q in partition %d, and by the rule it is in %d", key, got, want)
		}
	}
	return s, nil
}

// judge reads the record back, as anybody can later, and judges it.
func judge(dir string) (*Outcome, error) {
	file, err := os.Open(filepath.Join(dir, HistoryFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	h, err := history.Read(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file.Name(), err)
	}
	o := &Outcome{Dir: dir, History: h, Result: check.Check(h, check.Options{})}
	return o, writeFile(filepath.Join(dir, ResultFile), func(to io.Writer) error {
		out := json.NewEncoder(to)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		return out.Encode(o.Result)
	})
}

func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + "\n" + b
}
