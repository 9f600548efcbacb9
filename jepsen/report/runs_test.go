package report

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// aRun is a history as a run of a minute leaves it: five nodes, three faults, of
// which two overlap, and requests of all levels that fare as they would.
func aRun(ops int) *history.History {
	random := rand.New(rand.NewPCG(1, 2))
	nodes := []string{"n1", "n2", "n3", "n4", "n5"}
	h := &history.History{
		Run: history.Run{
			Format: history.Format, Began: time.Date(2026, 11, 25, 17, 0, 0, 0, time.UTC), Workloads: []string{"mixed", "register"},
			Nemeses: []string{"cut-halves", "pause"}, Seed: 7, TimeLimit: 60 * time.Second, Lab: "namespaces", Nodes: nodes, Partitions: 8,
			ReplicationFactor: 3, ElectionTimeout: 1500 * time.Millisecond, Binary: "bin/capstan", Version: "capstan v0.1.0  go1.26.0",
			Harness: "capstan-jepsen v0.1.0", Command: []string{"capstan-jepsen", "run", "--workload", "mixed,register", "--nemesis", "cut-halves,pause"},
		},
		End: &history.End{Settled: true, Asked: true}, Length: 66 * time.Second,
	}
	for i, f := range []history.Band{
		{Fault: history.Fault{Kind: "cut-halves", What: "n1 n4 | n2 n3 n5 cut apart", Nodes: []string{"n1", "n4"}, Apart: [][]string{{"n1", "n4"}, {"n2", "n3", "n5"}}, Felt: true, Effect: "4,381 frames cut"}, From: 5 * time.Second, Until: 19 * time.Second, Healed: true},
		{Fault: history.Fault{Kind: "pause-leader", What: "n2, which leads partition 3, stopped", Nodes: []string{"n2"}, Felt: true, Effect: "stopped for 9 s and went on"}, From: 14 * time.Second, Until: 23 * time.Second, Healed: true},
		{Fault: history.Fault{Kind: "slow-fsync", What: "each fsync of n5 takes 300 ms longer", Nodes: []string{"n5"}}, From: 33 * time.Second, Until: 48 * time.Second, Healed: true},
	} {
		f.Number = i
		h.Faults = append(h.Faults, f)
		line, _ := json.Marshal(map[string]any{"at": int64(f.From), "for": int64(f.Until - f.From), "kind": f.Kind})
		h.Run.Schedule = append(h.Run.Schedule, line)
	}
	for i := range ops {
		at := time.Duration(float64(i) / float64(ops) * float64(65*time.Second))
		if at > 60*time.Second && at < 63*time.Second {
			at = 63 * time.Second
		}
		o := history.Op{
			ID: i, Process: i % 20, Workload: []string{"mixed", "register"}[i%2], Node: nodes[random.IntN(5)], Func: history.Get, Outcome: history.OK,
			Key: fmt.Sprintf("register/%d", random.IntN(20)), Level: []history.Level{history.Linearizable, history.Linearizable, history.Eventual, history.Bounded}[random.IntN(4)],
			Invoke: at, Final: at > 60*time.Second,
		}
		took := time.Duration((1 + random.ExpFloat64()*2) * float64(time.Millisecond))
		if o.Level != history.Bounded && random.IntN(2) == 0 {
			o.Func, o.Value = history.Put, fmt.Sprintf("v%d", i)
		}
		if o.Level == history.Bounded {
			o.MaxStaleness, o.StalenessKnown, o.Staleness = time.Second, true, time.Duration(random.ExpFloat64()*float64(40*time.Millisecond))
		}
		if o.Level == history.Eventual {
			took /= 4
		}
		for _, f := range h.Faults {
			if at < f.From || at > f.Until || !slices.Contains(f.Nodes, o.Node) {
				continue
			}
			switch {
			case f.Kind == "pause-leader":
				o.Outcome, took = history.Info, min(2*time.Second, f.Until-at+took)
			case f.Kind == "slow-fsync" && o.Write():
				took += time.Duration(random.IntN(300)) * time.Millisecond
			case f.Kind == "cut-halves" && o.Level != history.Eventual:
				o.Outcome, o.Reason, took = history.Fail, "no quorum", time.Duration(random.IntN(1600))*time.Millisecond
			}
		}
		o.Return = o.Invoke + took
		h.Ops = append(h.Ops, o)
	}
	h.Notes = []history.Note{{At: 60 * time.Second, Text: "all healed; final operations"}}
	return h
}

func aResult(h *history.History, v check.Verdict) *check.Result {
	r := &check.Result{
		Verdict:  v,
		Sentence: "Holds: mixed, register, 5,000 operations on 5 nodes in 1 min, of which 4,100 were answered; 2 of 3 faults were felt (cut-halves, pause-leader).",
		Void:     []string{}, Unfelt: []string{"slow-fsync of n5"},
		Run: []check.CheckerResult{
			{Name: "replicas", What: "after the run all replicas of a partition hold the same", OK: true, Seen: 24},
			{Name: "troubles", What: "no process panicked, raced, or ended by itself", OK: true},
		},
	}
	var counts history.Counts
	for _, o := range h.Ops {
		switch o.Outcome {
		case history.OK:
			counts.OK++
		case history.Fail:
			counts.Fail++
		default:
			counts.Info++
		}
	}
	for _, name := range h.Run.Workloads {
		r.Workloads = append(r.Workloads, check.WorkloadResult{Name: name, Counts: counts, Checkers: []check.CheckerResult{
			{Name: "mixing", What: "linearizable operations of each key are linearizable, with the eventual writes among them", OK: v != check.Violated || name != "register", Found: map[bool]int{true: 1958}[v == check.Violated && name == "register"], Seen: 2500, Detail: "20 keys; the slowest took 40 ms"},
			{Name: "answers", What: "nothing is read that was never written, or was refused", OK: true, Seen: 1800},
		}})
	}
	ages := func(scale int) check.Ages {
		return check.Ages{Count: 400, Stale: 120, P50: 0, P99: 80 * time.Millisecond, Max: 900 * time.Millisecond, Histogram: []int{280, 10, 20, 30 * scale, 20, 5}}
	}
	r.Stats.Staleness = &check.Staleness{Buckets: []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}}
	for i, n := range h.Run.Nodes {
		r.Stats.Staleness.Nodes = append(r.Stats.Staleness.Nodes, check.NodeStaleness{Node: n, Eventual: ages(i), Bounded: ages(1)})
	}
	r.Stats.Availability = &check.Availability{
		Bound: 3 * time.Second, Allowance: time.Second,
		Rows: []check.AvailabilityRow{
			{Node: "n1", Level: history.Linearizable, Situation: "minority", Asked: 200, Refused: 190, Silent: 10, RefusedMax: 900 * time.Millisecond},
			{Node: "n4", Level: history.Linearizable, Situation: "minority", Asked: 100, Refused: 100, RefusedMax: 400 * time.Millisecond},
			{Node: "n2", Level: history.Linearizable, Situation: "majority", Asked: 400, Answered: 380, Refused: 20, Max: 2 * time.Second, RefusedMax: time.Second},
			{Node: "n1", Level: history.Eventual, Situation: "minority", Asked: 300, Answered: 300, Max: 7 * time.Millisecond},
		},
		Interruptions: []check.Interruption{
			{What: "cut-halves n1 n4 | n2 n3 n5", At: 5 * time.Second, Partitions: 8, Interrupted: 3, P50: 1600 * time.Millisecond, Max: 2100 * time.Millisecond},
			{Fault: 1, What: "pause-leader n2", At: 14 * time.Second, Partitions: 8, Interrupted: 1, Refused: 900 * time.Millisecond, Open: 1},
		},
	}
	r.Stats.Fates = []check.Fates{{Workload: "mixed", Writes: 500, Committed: 430, Superseded: 60, Lost: 2, Pending: 1, Conflicts: 60}}
	switch v {
	case check.Violated:
		r.Sentence = "Violated: register: register/3 is not linearizable: a read after 19.2 s saw a value that had been replaced before it began."
		ops := []history.Op{
			{ID: 1, Process: 3, Node: "n1", Func: history.Put, Level: history.Linearizable, Key: "register/3", Value: "v3-17", Outcome: history.OK, Version: "12-117309440000000003-n1-k3f9", Invoke: 17e9, Return: 17002e6},
			{ID: 2, Process: 8, Node: "n4", Func: history.Put, Level: history.Linearizable, Key: "register/3", Value: "v8-2", Condition: history.IfVersion, Expect: "v3-17", Outcome: history.Info, Reason: "deadline exceeded", Invoke: 17001e6, Return: 19e9},
			{ID: 3, Process: 5, Node: "n2", Func: history.Get, Level: history.Linearizable, Key: "register/3", Outcome: history.OK, Found: true, Value: "v8-2", Version: "13-117309440983040000-n4-k3f9", Invoke: 18e9, Return: 18001e6},
			{ID: 4, Process: 9, Node: "n5", Func: history.Get, Level: history.Linearizable, Key: "register/3", Outcome: history.OK, Found: true, Value: "v3-17", Version: "12-117309440000000003-n1-k3f9", Invoke: 19200e6, Return: 19203e6, ServedBy: "n1"},
			{ID: 5, Process: 11, Node: "n5", Func: history.Delete, Level: history.Eventual, Key: "register/3", Outcome: history.OK, Base: 12, Session: "s4", Tentative: true, Invoke: 19201e6, Return: 19202e6},
		}
		f := check.Finding{Workload: "register", Checker: "mixing", Key: "register/3", Why: "no order of these explains the answers"}
		for _, o := range ops {
			f.Ops = append(f.Ops, check.Shown{Op: o, Invoke: o.Invoke, Return: o.Return})
		}
		r.Findings = []check.Finding{f, {Workload: "mixed", Checker: "mixing", Key: "mixed/a-key-with-a-name-that-is-much-longer-than-any-telephone-is-wide-and-has-no-place-to-break-it", Why: "not decided within 30s, of 412 operations", Undecided: true}}
	case check.Void:
		r.Sentence = "Could not tell: no fault of kind slow-fsync was felt, and register had 12 successful operations, fewer than 50."
		r.Void = []string{"no fault of kind slow-fsync was felt", "register: 12 operations succeeded, 50 are needed"}
	}
	return r
}
