package check

import (
	"github.com/capstan-kv/capstan/jepsen/history"
)

// Checker judges one thing. It may be called concurrently.
type Checker struct {
	// Workload whose operations it judges; empty: it judges the run as a whole.
	Workload string
	Name     string
	// What it looks for, in one line.
	What  string
	Check func(*View) Judgement
}

// View is what a checker sees. It changes nothing but Stats.
type View struct {
	History *history.History
	// Ops of the checker's workload, of all for one of the run, in order of
	// invocation.
	Ops     []*history.Op
	Options Options
	// Stats of the result: a checker sets those that are its own.
	Stats *Stats
}

// Judgement is what a checker found.
type Judgement struct {
	// Seen counts the operations that could have shown what it looks for.
	Seen int
	// Detail is what there is to say besides, in one line.
	Detail   string
	Findings []Finding
	// Void says why the run can not tell what this checker looks for.
	Void []string
}

// checkers of this package, a line each: those of one workload together.
var checkers = []Checker{
	registerLinearizable, registerAnswers, registerVersions,
	setLost, setStale, setDuplicated, setPhantom, setForked,
	counterBounds, counterMonotonic, counterFinal,
	mixedMixing, mixedPrecedence, mixedAnswers, mixedNodes, mixedVersions, mixedSuperseded, mixedFates, mixedConverged,
	eventualConverged, eventualFates, eventualSuperseded, eventualOrder, eventualAnswers, eventualNodes,
	sessionReadsWrites, sessionReads, sessionWrites, sessionFollows, sessionAnswers, sessionNodes, sessionSuperseded, sessionFates,
	stalenessBound, stalenessAge, stalenessAnswers,
	deleteResurrection, deleteMixing, deletePrecedence, deleteAnswers, deleteSuperseded, deleteFates,
	scanMoment, scanAnswers,
	availability,
	replicas, promoted, troubles,
}

// Checkers gives those of a workload; of "", those of every run.
func Checkers(workload string) []Checker {
	var of []Checker
	for _, c := range checkers {
		if c.Workload == workload {
			of = append(of, c)
		}
	}
	return of
}
