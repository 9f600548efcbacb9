package check

import (
	"bytes"
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// recorded writes a history as a recorder would have.
func recorded(h *history.History) string {
	var events []history.Event
	for i := range h.Ops {
		o := &h.Ops[i]
		began := *o
		began.Outcome = ""
		events = append(events, history.Event{Type: history.TypeInvoke, At: o.Invoke, Op: &began})
		if o.Outcome != "" {
			events = append(events, history.Event{Type: history.Type(o.Outcome), At: o.Return, Op: o})
		}
	}
	slices.SortStableFunc(events, func(a, b history.Event) int { return cmp.Compare(a.At, b.At) })
	events = slices.Insert(events, 0, history.Event{Type: history.TypeRun, Run: &h.Run})
	add := func(e history.Event) {
		e.At = h.Length
		events = append(events, e)
	}
	for i := range h.Fates {
		add(history.Event{Type: history.TypeFate, Fate: &h.Fates[i]})
	}
	for i := range h.Conflicts {
		add(history.Event{Type: history.TypeConflict, Conflict: &h.Conflicts[i]})
	}
	add(history.Event{Type: history.TypeEnd, End: h.End})
	var out bytes.Buffer
	for _, e := range events {
		line, _ := json.Marshal(e)
		out.Write(append(line, '\n'))
	}
	return out.String()
}

// A file that anybody may have written is judged, or refused, and the judgement
// is the same each time.
func FuzzCheck(f *testing.F) {
	for _, w := range workload.All() {
		if slices.Contains(modelled, w.Name) {
			f.Add(recorded(runModel(w, 1, "", 400)))
		}
	}
	s := of("set")
	f.Add(recorded(told(s.add("a", "a", "", 0, 1), s.read("z", 2, 3), s.add("b", "a b", "a", 4, 0, open))))
	f.Add(strings.ReplaceAll(recorded(told(s.add("a", "a", "", 0, 1), s.read("a", 2, 3))), `"set`, `"counter`))
	f.Fuzz(func(t *testing.T, file string) {
		h, err := history.Read(strings.NewReader(file))
		if err != nil || len(h.Ops) > 300 {
			return
		}
		patience := Options{Patience: 50 * time.Millisecond}
		r := Check(h, patience)
		if !slices.Contains([]Verdict{Holds, Violated, Void}, r.Verdict) || r.Sentence == "" || (r.Verdict == Holds) != (len(r.Void) == 0 && len(r.Findings) == 0) {
			t.Fatalf("%+v", r)
		}
		again := Check(h, patience)
		if undecided(r) || undecided(again) {
			return // a matter of the clock
		}
		if r.Verdict != again.Verdict || r.Sentence != again.Sentence || !slices.Equal(r.Void, again.Void) || !reflect.DeepEqual(r.Workloads, again.Workloads) {
			t.Fatalf("%+v\n%+v", r, again)
		}
	})
}

func undecided(r *Result) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Undecided })
}
