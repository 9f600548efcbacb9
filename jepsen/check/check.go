package check

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// Verdict is what a run says about what was promised.
type Verdict string

// The verdicts.
const (
	Holds    Verdict = "holds"
	Violated Verdict = "violated"
	Void     Verdict = "could not tell"
)

// Exit is the status of a program that ends with the verdict.
func (v Verdict) Exit() int {
	switch v {
	case Holds:
		return 0
	case Violated:
		return 1
	}
	return 2
}

// Finding is one way in which the history breaks what was promised.
type Finding struct {
	Workload string `json:"workload,omitempty"`
	Checker  string `json:"checker"`
	Key      string `json:"key,omitempty"`
	// Why, in a sentence.
	Why string `json:"why"`
	// Ops that show it, in order of invocation.
	Ops []Shown `json:"ops,omitempty"`
	// Undecided: the checker ran out of time. That is not good, and no violation.
	Undecided bool `json:"undecided,omitempty"`
}

// Shown is an operation of a Finding, with its times.
type Shown struct {
	history.Op
	Invoke time.Duration `json:"invoke"`
	Return time.Duration `json:"return,omitempty"`
}

// Result is the judgement of a history. As JSON it is the same bytes for the same
// judgement.
type Result struct {
	Verdict Verdict `json:"verdict"`
	// Sentence says it to people.
	Sentence string    `json:"sentence"`
	Findings []Finding `json:"findings,omitempty"`
	// Void are the reasons why the run can not tell, also if it found a violation.
	Void []string `json:"void,omitempty"`
	// Faults that did nothing, though others of their kind did.
	Unfelt    []string         `json:"unfelt,omitempty"`
	Workloads []WorkloadResult `json:"workloads"`
	// Run is what the checkers of every run found.
	Run   []CheckerResult `json:"run"`
	Stats Stats           `json:"stats"`
}

// WorkloadResult is the judgement of one workload.
type WorkloadResult struct {
	Name     string          `json:"name"`
	Checkers []CheckerResult `json:"checkers"`
	Counts   history.Counts  `json:"counts"`
}

// CheckerResult is what one checker found.
type CheckerResult struct {
	Name string `json:"name"`
	What string `json:"what"`
	OK   bool   `json:"ok"`
	// Found counts its findings; Result.Findings has the first maxFindings of them.
	Found int `json:"found,omitempty"`
	// Seen counts the operations that it judged.
	Seen   int    `json:"seen"`
	Detail string `json:"detail,omitempty"`
}

// maxFindings of one checker are shown: where much is wrong, all of it is not worth
// reading.
const maxFindings = 10

// Options of Check. Those that are 0 have the value that is said.
type Options struct {
	// Patience is how long, on the real clock, a checker may take to decide one
	// key: 30 s.
	Patience time.Duration
	// Least operations of each workload that must have been answered with
	// success for it to tell anything: 50. At least LeastPercent of all: 5.
	Least        int
	LeastPercent int
}

func (o Options) withDefaults() Options {
	o.Patience = cmp.Or(o.Patience, 30*time.Second)
	o.Least = cmp.Or(o.Least, 50)
	o.LeastPercent = cmp.Or(o.LeastPercent, 5)
	return o
}

// Check judges a history. It may be called concurrently on one history that
// nobody changes.
func Check(h *history.History, o Options) *Result {
	o = o.withDefaults()
	r := &Result{Void: []string{}}
	run := func(workload string, ops []*history.Op) []CheckerResult {
		results := []CheckerResult{}
		for _, c := range Checkers(workload) {
			j := c.Check(&View{History: h, Ops: ops, Options: o, Stats: &r.Stats})
			for i := range j.Findings {
				f := &j.Findings[i]
				f.Workload, f.Checker = workload, c.Name
			}
			slices.SortStableFunc(j.Findings, func(a, b Finding) int { return cmp.Compare(a.shows(), b.shows()) })
			r.Findings = append(r.Findings, j.Findings[:min(len(j.Findings), maxFindings)]...)
			if workload != "" && j.Seen == 0 && len(j.Findings) == 0 && len(j.Void) == 0 {
				j.Void = []string{workload + ": " + c.Name + " had nothing to judge"} // and proves nothing
			}
			r.Void = append(r.Void, j.Void...)
			results = append(results, CheckerResult{Name: c.Name, What: c.What, OK: len(j.Findings) == 0, Found: len(j.Findings), Seen: j.Seen, Detail: j.Detail})
		}
		return results
	}
	all, of := byWorkload(h)
	for _, name := range names(h, of) {
		r.Workloads = append(r.Workloads, WorkloadResult{Name: name, Checkers: run(name, of[name]), Counts: count(of[name])})
	}
	r.Run = run("", all)
	r.Stats.Fates = countFates(h, names(h, of))
	void, unfelt := judgeRun(h, r.Workloads, o)
	r.Void, r.Unfelt = append(void, r.Void...), unfelt
	undecided := func(f Finding) bool { return f.Undecided }
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return compare(undecided(a), undecided(b)) })
	for _, f := range r.Findings {
		if f.Undecided {
			r.Void = append(r.Void, f.Workload+": "+f.Checker+" of "+f.Key+": "+f.Why)
		}
	}
	switch {
	case slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Undecided }):
		r.Verdict = Violated
	case len(r.Void) > 0:
		r.Verdict = Void
	default:
		r.Verdict = Holds
	}
	r.Sentence = sentence(h, r)
	return r
}

// names of the workloads: those that were to run, and those of operations.
func names(h *history.History, of map[string][]*history.Op) []string {
	list := slices.Clone(h.Run.Workloads)
	for name := range of {
		list = append(list, name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func byWorkload(h *history.History) (all []*history.Op, of map[string][]*history.Op) {
	of = map[string][]*history.Op{}
	for i := range h.Ops {
		o := &h.Ops[i]
		all = append(all, o)
		of[o.Workload] = append(of[o.Workload], o)
	}
	return all, of
}

func count(ops []*history.Op) history.Counts {
	var c history.Counts
	for _, o := range ops {
		switch o.Outcome {
		case history.OK:
			c.OK++
		case history.Fail:
			c.Fail++
		case history.Info:
			c.Info++
		default:
			c.Open++
		}
	}
	return c
}

func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// shows is when the history first shows it: when the last of its operations ended.
// One that has none comes last.
func (f *Finding) shows() time.Duration {
	if len(f.Ops) == 0 {
		return math.MaxInt64
	}
	var at time.Duration
	for _, o := range f.Ops {
		at = max(at, o.Invoke, o.Return)
	}
	return at
}

// show takes operations into a finding, each once, in order of invocation.
func show(ops ...*history.Op) []Shown {
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b *history.Op) int { return cmp.Or(cmp.Compare(a.Invoke, b.Invoke), cmp.Compare(a.ID, b.ID)) })
	var shown []Shown
	for _, o := range slices.Compact(ops) {
		shown = append(shown, Shown{Op: *o, Invoke: o.Invoke, Return: o.Return})
	}
	return shown
}

// String tells a finding to people, with its operations, a line each.
func (f Finding) String() string {
	var b strings.Builder
	for _, part := range []string{f.Workload, f.Checker, f.Key} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	b.WriteString(f.Why)
	for _, o := range f.Ops {
		b.WriteString("\n  " + o.String())
	}
	return b.String()
}

// String tells the operation, with the times that it was recorded at.
func (s Shown) String() string {
	o := s.Op
	o.Invoke, o.Return = s.Invoke, s.Return
	return o.String()
}
