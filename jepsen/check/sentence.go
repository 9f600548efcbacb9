package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// sentence is the verdict, to people, in one line.
func sentence(h *history.History, r *Result) string {
	switch r.Verdict {
	case Violated:
		f := r.Findings[0]
		f.Ops = nil
		s := "Violated: " + f.String()
		if n := r.Found() - 1; n > 0 {
			s += fmt.Sprintf(" (and %d more)", n)
		}
		return s + "."
	case Void:
		s := "Could not tell: " + r.Void[0]
		if n := len(r.Void) - 1; n > 0 {
			s += fmt.Sprintf(" (and %d more reasons)", n)
		}
		return s + "."
	}
	checkers := len(r.Run)
	var names []string
	for _, w := range r.Workloads {
		names = append(names, w.Name)
		checkers += len(w.Checkers)
	}
	s := fmt.Sprintf("Holds: %d operations of %s on %d nodes in %v", len(h.Ops), list(names), len(h.Run.Nodes), h.Length.Round(time.Second))
	if len(h.Faults) > 0 {
		s += fmt.Sprintf(", through %s (%s)", numbered(len(h.Faults), "fault"), list(kinds(h)))
	} else {
		s += ", without faults"
	}
	return s + fmt.Sprintf("; %d checkers found nothing.", checkers)
}

// Found counts all findings, also those that are not among Findings.
func (r *Result) Found() (n int) {
	for _, c := range r.Run {
		n += c.Found
	}
	for _, w := range r.Workloads {
		for _, c := range w.Checkers {
			n += c.Found
		}
	}
	return n
}

func numbered(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// kinds of faults that there were.
func kinds(h *history.History) []string {
	var kinds []string
	for _, f := range h.Faults {
		kinds = append(kinds, f.Kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// list is "a, b and c".
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
