package mutants

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
)

// Mutant is a fault of the product, and the run that finds it.
type Mutant struct {
	// Fault as CAPSTAN_FAULT names it, and What is done wrong, in one line.
	Fault, What string
	// How a run finds it, in one line.
	How string

	run      jepsen.Config // workloads, limits and what else is not as usual
	schedule func() nemesis.Schedule
}

// What seeds there are to try. Most faults are found with the first.
var seeds = []uint64{1, 2, 3, 4}

// All are the mutants, in the order in which they are run.
func All() []Mutant { return slices.Clone(all) }

// find gives the mutants of some names, in the order of All; all of them for no
// names.
func find(names []string) ([]Mutant, error) {
	if len(names) == 0 {
		return All(), nil
	}
	var found []Mutant
	var known []string
	left := slices.Clone(names)
	for _, m := range all {
		known = append(known, m.Fault)
		if i := slices.Index(left, m.Fault); i >= 0 {
			found, left = append(found, m), slices.DeleteFunc(left, func(name string) bool { return name == m.Fault })
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("no mutant %q: there are %s", left[0], strings.Join(known, ", "))
	}
	return found, nil
}

// Kinds of faults that the run's schedule has.
func (m Mutant) Kinds() []string { return m.schedule().Kinds() }

// Workloads of the run.
func (m Mutant) Workloads() []string { return slices.Clone(m.run.Workloads) }

// config of a run of the mutant, or of the program without the fault.
func (m Mutant) config(seed uint64, planted bool) jepsen.Config {
	c := m.run
	c.Seed, c.Schedule, c.Env = seed, m.schedule(), slices.Clone(c.Env)
	c.Nemeses = c.Schedule.Kinds()
	if planted {
		c.Planted = m.Fault
		c.Env = append(c.Env, "CAPSTAN_FAULT="+m.Fault)
	}
	return c
}

// Row is what became of one mutant.
type Row struct {
	Fault string `json:"fault"`
	What  string `json:"what"`
	// Found: some run was judged to be violated, After that much time since the
	// first began, with the Seed; it took so many Runs. Shown is when that run saw
	// the last operation of the finding, 0 if it has none.
	Found bool          `json:"found"`
	After time.Duration `json:"after"`
	Seed  uint64        `json:"seed"`
	Runs  int           `json:"runs"`
	Shown time.Duration `json:"shown,omitempty"`
	// Workload and Checker that found it, and Why in a sentence.
	Workload string `json:"workload,omitempty"`
	Checker  string `json:"checker,omitempty"`
	Why      string `json:"why,omitempty"`
	// Clean: without the fault, the runs with the same seeds hold. Else Unclean says
	// why not.
	Clean   bool   `json:"clean"`
	Unclean string `json:"unclean,omitempty"`
	// Failed is why a run came to no judgement.
	Failed string `json:"failed,omitempty"`
	// Dir of the run that found it, or of the last.
	Dir string `json:"dir"`
}

// OK reports whether the mutant was found, and nothing where it is not.
func (r Row) OK() bool { return r.Found && r.Clean }

// String is the row in one line, for people.
func (r Row) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", r.Fault)
	switch {
	case r.Found:
		fmt.Fprintf(&b, "found after %.0f s by %s of %s: %s", r.After.Seconds(), r.Checker, r.Workload, r.Why)
	case r.Failed != "":
		fmt.Fprintf(&b, "could not tell: %s", r.Failed)
	default:
		fmt.Fprintf(&b, "not found in %d runs, %.0f s", r.Runs, r.After.Seconds())
	}
	if r.Unclean != "" {
		fmt.Fprintf(&b, "; without it: %s", r.Unclean)
	}
	return b.String()
}
