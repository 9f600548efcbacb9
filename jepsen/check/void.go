package check

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// judgeRun says why a run proves nothing, if it does, and which of its faults did
// nothing.
func judgeRun(h *history.History, workloads []WorkloadResult, o Options) (void, unfelt []string) {
	switch {
	case h.End == nil:
		void = append(void, "the run broke off before its end")
	case h.End.Failed != "":
		void = append(void, "the run was not carried through: "+h.End.Failed)
	default:
		void = append(void, judgeEnd(h)...)
	}
	void = append(void, judgeWorkloads(h, workloads, o)...)
	more, unfelt := judgeFaults(h)
	return append(void, more...), unfelt
}

// judgeEnd: what the cluster ended with is known, if there was anything to ask.
func judgeEnd(h *history.History) (void []string) {
	if !slices.ContainsFunc(h.Ops, func(o history.Op) bool { return o.Receipt != "" }) {
		return nil
	}
	if !h.End.Asked {
		void = append(void, "the fates of eventual writes were not asked for")
	}
	if !h.End.Settled {
		void = append(void, "tentative writes were left at the end")
	}
	return append(void, judgeFates(h)...)
}

// forgettable is one in how many fates the cluster may have forgotten: its record of
// them is bounded.
const forgettable = 20

// judgeFates: a cluster that has forgotten what became of its writes, or that they
// were superseded, can not be held to what it should have remembered.
func judgeFates(h *history.History) (void []string) {
	expired, superseded := 0, 0
	for _, f := range h.Fates {
		switch f.Fate {
		case "expired":
			expired++
		case "superseded":
			superseded++
		}
	}
	if expired*forgettable > len(h.Fates) {
		void = append(void, fmt.Sprintf("the cluster has forgotten what became of %d of %d eventual writes", expired, len(h.Fates)))
	}
	if h.End.ConflictsDropped && superseded > 0 {
		void = append(void, fmt.Sprintf("lists of conflicts were full: whether the %d writes that were superseded were all listed nobody knows", superseded))
	}
	return void
}

// judgeWorkloads: clients got enough done while they worked, for somebody to judge.
func judgeWorkloads(h *history.History, workloads []WorkloadResult, o Options) (void []string) {
	if len(workloads) == 0 {
		return []string{"no workload was run"}
	}
	done := workDone(h)
	for _, w := range workloads {
		void = append(void, done[w.Name].tooLittle(w.Name, o)...)
		if len(w.Checkers) == 0 {
			void = append(void, w.Name+": nothing judges this workload")
		}
	}
	return void
}

// work is what clients of a workload tried and got done while they worked. Final
// operations do not count: they come when all is well again, and would make up for a
// run in which nothing was.
type work struct {
	reads, writes, read, written int
}

func workDone(h *history.History) map[string]work {
	all := map[string]work{}
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Final {
			continue
		}
		w := all[o.Workload]
		switch ok := o.Outcome == history.OK; {
		case o.Write() && ok:
			w.writes, w.written = w.writes+1, w.written+1
		case o.Write():
			w.writes++
		case ok:
			w.reads, w.read = w.reads+1, w.read+1
		default:
			w.reads++
		}
		all[o.Workload] = w
	}
	return all
}

// tooLittle says of a workload why what was done is not enough to tell.
func (w work) tooLittle(name string, o Options) (void []string) {
	all, done := w.reads+w.writes, w.read+w.written
	if least := max(o.Least, all*o.LeastPercent/100); done < least {
		return []string{fmt.Sprintf("%s: %d of %d operations succeeded, fewer than %d", name, done, all, least)}
	}
	// Of a register that nobody wrote to a thousand reads tell nothing.
	if w.writes > 0 && w.written == 0 {
		void = append(void, fmt.Sprintf("%s: none of %d writes succeeded", name, w.writes))
	}
	if w.reads > 0 && w.read == 0 {
		void = append(void, fmt.Sprintf("%s: none of %d reads succeeded", name, w.reads))
	}
	return void
}

// judgeFaults: each kind of fault that was planned came, did something, and came
// while clients were at work.
func judgeFaults(h *history.History) (void, unfelt []string) {
	kinds := planned(h)
	for _, f := range h.Faults {
		if !slices.Contains(kinds, f.Kind) {
			kinds = append(kinds, f.Kind)
		}
	}
	if len(kinds) == 0 && slices.ContainsFunc(h.Run.Nemeses, func(n string) bool { return n != "none" }) {
		void = append(void, "no fault was planned")
	}
	for _, name := range h.Run.Nemeses {
		// What is no kind is a group, of which not all need come.
		if _, kind := effects[name]; kind && len(kinds) > 0 && !slices.Contains(kinds, name) {
			void = append(void, fmt.Sprintf("nemesis %s was asked for, and not planned: there was no time for it", name))
		}
	}
	for _, kind := range kinds {
		came, felt, met := 0, 0, 0
		var idle []string
		for _, f := range h.Faults {
			if f.Kind != kind {
				continue
			}
			came++
			if f.Felt {
				felt++
			} else {
				idle = append(idle, fmt.Sprintf("fault %d, %s", f.Number, f.What))
			}
			if during(h, f) {
				met++
			}
		}
		switch {
		case came == 0:
			void = append(void, fmt.Sprintf("nemesis %s was planned and never came", kind))
		case felt == 0:
			void = append(void, fmt.Sprintf("nemesis %s had no effect", kind))
		case met == 0:
			void = append(void, fmt.Sprintf("nemesis %s came while no client asked anything", kind))
		}
		if felt > 0 {
			unfelt = append(unfelt, idle...)
		}
	}
	return void, unfelt
}

// planned are the kinds of faults of the schedule, in its order.
func planned(h *history.History) (kinds []string) {
	for _, line := range h.Run.Schedule {
		var event struct {
			Kind string `json:"kind"`
		}
		if json.Unmarshal(line, &event) == nil && event.Kind != "" && !slices.Contains(kinds, event.Kind) {
			kinds = append(kinds, event.Kind)
		}
	}
	return kinds
}

// during: some operation was under way while the fault was.
func during(h *history.History, f history.Band) bool {
	return slices.ContainsFunc(h.Ops, func(o history.Op) bool {
		return (!f.Healed || o.Invoke < f.Until) && (o.Outcome == "" || o.Return > f.From)
	})
}
