package report

import (
	"fmt"

	"github.com/capstan-kv/capstan/jepsen/check"
)

// fates is what became of the eventual writes of one workload, as shares of a bar.
type fates struct {
	Workload string
	Says     string
	Parts    []part
}

type part struct {
	Class string
	Width float64 // in percent
}

func allFates(s check.Stats) (all []fates) {
	for _, f := range s.Fates {
		one := fates{Workload: f.Workload, Says: fmt.Sprintf("%s eventual writes", number(f.Writes))}
		for _, p := range []struct {
			class, word string
			count       int
		}{
			{"committed", "committed", f.Committed},
			{"superseded", "superseded", f.Superseded},
			{"lost", "lost with a node that was removed", f.Lost},
			{"lost", "expired", f.Expired},
			{"open", "undecided", f.Pending},
			{"open", "not asked", f.Writes - f.Committed - f.Superseded - f.Lost - f.Expired - f.Pending},
		} {
			if p.count <= 0 {
				continue
			}
			one.Says += fmt.Sprintf(", %s %s (%s)", number(p.count), p.word, share(float64(p.count), float64(f.Writes)))
			one.Parts = append(one.Parts, part{p.class, percent(float64(p.count) / float64(f.Writes) * width)})
		}
		one.Says += fmt.Sprintf("; %s on the lists of conflicts", number(f.Conflicts))
		all = append(all, one)
	}
	return all
}
