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
	void = append(void, judgeWorkloads(workloads, o)...)
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
	return void
}

func judgeWorkloads(workloads []WorkloadResult, o Options) (void []string) {
	if len(workloads) == 0 {
		return []string{"no workload was run"}
	}
	for _, w := range workloads {
		all := w.Counts.OK + w.Counts.Fail + w.Counts.Info + w.Counts.Open
		if least := max(o.Least, all*o.LeastPercent/100); w.Counts.OK < least {
			void = append(void, fmt.Sprintf("%s: %d of %d operations succeeded, fewer than %d", w.Name, w.Counts.OK, all, least))
		}
		if len(w.Checkers) == 0 {
			void = append(void, w.Name+": nothing judges this workload")
		}
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
