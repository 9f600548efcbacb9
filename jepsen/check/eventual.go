package check

import (
	"fmt"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// The eventual workload: eventual writes alone, of values that nobody writes
// twice.
var (
	eventualConverged = Checker{
		Workload: "eventual", Name: "converged",
		What:  "in the end all nodes show the same, and it is what a linearizable read gives",
		Check: converged,
	}
	eventualFates = Checker{
		Workload: "eventual", Name: "fates",
		What:  "each acknowledged write is committed, or superseded and on the list of conflicts",
		Check: byContract(unbounded(contract.CheckFates), received),
	}
	eventualSuperseded = Checker{
		Workload: "eventual", Name: "superseded",
		What:  "each eventual write that lost had not heard of a linearizable one, or is older, and its receipt names the winner that the list of conflicts names",
		Check: byContract(unbounded(contract.CheckSuperseded), received),
	}
	eventualOrder = Checker{
		Workload: "eventual", Name: "order",
		What:  "of two writes the one with the higher timestamp wins",
		Check: byContract(unbounded(contract.CheckPrecedence), answeredWrite),
	}
	eventualAnswers = Checker{
		Workload: "eventual", Name: "answers",
		What:  "what is read was written, by a write that had begun and was not refused; each write is committed once",
		Check: byContract(unbounded(contract.CheckAnswers), answeredRead),
	}
	eventualNodes = Checker{
		Workload: "eventual", Name: "own writes",
		What:  "a read sees what the node that answers it has taken itself",
		Check: byContract(unbounded(contract.CheckNodes), eventualRead),
	}
)

func answeredWrite(o *history.Op) bool { return o.Write() && answered(o) }

func eventualRead(o *history.Op) bool { return o.Level == history.Eventual && answeredRead(o) }

// received: somebody can ask what became of it.
func received(o *history.Op) bool { return o.Receipt != "" }

// converged holds the final reads of each key against each other. They come after
// the last write, and in one session, so that no node may still be behind.
func converged(v *View) Judgement {
	var j Judgement
	silent := 0
	for _, ops := range byKey(v.Ops) {
		type question struct {
			node  string
			level history.Level
		}
		answers := map[question]bool{}
		var first *history.Op
		for _, o := range ops {
			if !o.Final || o.Func != history.Get {
				continue
			}
			q := question{o.Node, o.Level}
			answers[q] = answers[q] || o.Outcome == history.OK
			if o.Outcome != history.OK {
				continue
			}
			j.Seen++
			switch {
			case first == nil:
				first = o
			case o.Found != first.Found || o.Value != first.Value || o.Found && o.Version != first.Version:
				j.Findings = append(j.Findings, Finding{
					Key: o.Key, Ops: show(first, o),
					Why: fmt.Sprintf("in the end %s shows %s and %s shows %s", first.Node, shownValue(first), o.Node, shownValue(o)),
				})
			}
			if o.Tentative {
				j.Findings = append(j.Findings, Finding{Key: o.Key, Ops: show(o), Why: "in the end it is tentative"})
			}
		}
		if first == nil {
			silent++
		}
		for _, answered := range answers {
			if !answered {
				silent++
			}
		}
	}
	if silent > 0 {
		j.Void = []string{fmt.Sprintf("%d final reads were not answered", silent)}
	}
	return j
}

func shownValue(o *history.Op) string {
	if !o.Found {
		return "nothing"
	}
	return fmt.Sprintf("%s of %s", o.Value, o.Version)
}
