package report

import (
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// ledger is who was answered in which situation, of all nodes together, and how
// long linearizable service was away.
type ledger struct {
	Rows    []ledgerRow
	Allowed string
	Away    []away
}

type ledgerRow struct {
	Level, Situation string
	Says             string
	Parts            []part
}

// away is a moment from which on some were not served who had a quorum.
type away struct{ When, What, Says string }

// situations in the order of the page, in words.
var situations = []struct{ name, says string }{
	{"whole", "no fault"},
	{"majority", "a quorum within reach"},
	{"minority", "no quorum within reach"},
	{"disturbed", "nobody can tell"},
	{"stopped", "the node was down, paused, on its way back, or out of reach"},
}

func newLedger(a *check.Availability) *ledger {
	if a == nil {
		return nil
	}
	l := &ledger{Allowed: fmt.Sprintf("%s are allowed, and %s for a machine that does everything at once", span(a.Bound), span(a.Allowance))}
	for _, level := range levels {
		for _, s := range situations {
			if row := newLedgerRow(a, level, s.name); row != nil {
				row.Situation = s.says
				l.Rows = append(l.Rows, *row)
			}
		}
	}
	for _, i := range a.Interruptions {
		w := away{When: clock(i.At), What: i.What, Says: fmt.Sprintf("%d of %d partitions were refused at first", i.Interrupted, i.Partitions)}
		if i.Interrupted > i.Open {
			w.Says += fmt.Sprintf("; served again after %s (half), %s (all)", span(i.P50), span(i.Max))
		}
		if i.Refused > 0 {
			w.Says += fmt.Sprintf("; some node refused for %s", span(i.Refused))
		}
		if i.Open > 0 {
			w.Says += fmt.Sprintf("; %d not before something else changed", i.Open)
		}
		l.Away = append(l.Away, w)
	}
	return l
}

// newLedgerRow adds the nodes up; nil: nobody asked.
func newLedgerRow(a *check.Availability, level history.Level, situation string) *ledgerRow {
	var sum check.AvailabilityRow
	for _, r := range a.Rows {
		if r.Level == level && r.Situation == situation {
			sum.Asked, sum.Answered, sum.Refused = sum.Asked+r.Asked, sum.Answered+r.Answered, sum.Refused+r.Refused
			sum.Unknown, sum.Silent = sum.Unknown+r.Unknown, sum.Silent+r.Silent
			sum.Max, sum.RefusedMax = max(sum.Max, r.Max), max(sum.RefusedMax, r.RefusedMax)
		}
	}
	if sum.Asked == 0 {
		return nil
	}
	row := &ledgerRow{Level: string(level), Says: fmt.Sprintf("of %s", number(sum.Asked))}
	for _, p := range []struct {
		class, word string
		count       int
		within      time.Duration
	}{
		{"answered", "answered", sum.Answered, sum.Max},
		{"refused", "refused", sum.Refused, sum.RefusedMax},
		{"unknown", "of unknown outcome", sum.Unknown, 0},
		{"silent", "without an answer", sum.Silent, 0},
	} {
		if p.count == 0 {
			continue
		}
		row.Parts = append(row.Parts, part{p.class, percent(float64(p.count) / float64(sum.Asked) * width)})
		row.Says += fmt.Sprintf(", %s %s", number(p.count), p.word)
		if p.within > 0 {
			row.Says += fmt.Sprintf(" within %s", span(p.within))
		}
	}
	return row
}

// anyNode: some clients found their way by themselves.
func anyNode(all []strip) bool {
	return slices.ContainsFunc(all, func(s strip) bool { return s.Node == "any" })
}
