package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// The scan workload: writes to the few keys of a hash tag, and scans of it.
var (
	scanMoment = Checker{
		Workload: "scan", Name: "one moment",
		What:  "each scan is the tag at one moment: porcupine finds an order of all operations of a tag that explains all answers",
		Check: shrunk(checkMoments),
	}
	scanAnswers = Checker{
		Workload: "scan", Name: "answers",
		What:  "a scan's keys are those asked for, in order, each once, with values that were written to them and not refused",
		Check: checkScanAnswers,
	}
)

// tag of a key, or of a scan's prefix: both have it between braces.
func tag(o *history.Op) string {
	_, rest, _ := strings.Cut(o.Key, "{")
	name, _, _ := strings.Cut(rest, "}")
	return name
}

func byTag(ops []*history.Op) (of map[string][]*history.Op, tags []string) {
	of = map[string][]*history.Op{}
	for _, o := range ops {
		of[tag(o)] = append(of[tag(o)], o)
	}
	return of, slices.Sorted(maps.Keys(of))
}

func checkMoments(v *View) Judgement {
	var j Judgement
	of, tags := byTag(v.Ops)
	for _, name := range tags {
		ops := of[name]
		for _, o := range ops {
			if o.Func == history.Scan && answered(o) {
				j.Seen++
			}
		}
		in := moments(ops)
		if explained(in) {
			continue
		}
		switch porcupine.CheckOperationsTimeout(tagModel, in, v.Options.Patience) {
		case porcupine.Ok:
		case porcupine.Illegal:
			j.Findings = append(j.Findings, Finding{
				Key: name, Why: "no moments of these operations explain the answers", Ops: show(ops...),
			})
		default:
			j.Findings = append(j.Findings, Finding{
				Key: name, Undecided: true, Why: fmt.Sprintf("not decided within %v, of %d operations", v.Options.Patience, len(ops)),
			})
		}
	}
	j.Detail = fmt.Sprintf("%d tags", len(tags))
	return j
}

// moments are the operations in which porcupine is to find an order. A write without
// an answer may take effect at any time after it began; one whose effect nobody saw
// may as well come last, and is left out, since porcupine can not cope with many.
func moments(ops []*history.Op) []porcupine.Operation {
	seen := map[string]time.Duration{} // value: end of the first that saw it
	gone := map[string]time.Duration{} // key: end of the last that did not find it
	see := func(value string, at time.Duration) {
		if first, was := seen[value]; !was || at < first {
			seen[value] = at
		}
	}
	keys := map[string]bool{}
	for _, o := range ops {
		if o.Func != history.Scan {
			keys[o.Key] = true
		}
	}
	for _, o := range ops {
		switch {
		case !answered(o):
		case o.Func == history.Get && o.Found:
			see(o.Value, o.Return)
		case o.Func == history.Get:
			gone[o.Key] = max(gone[o.Key], o.Return)
		case o.Func == history.Scan:
			for key := range keys {
				if !slices.ContainsFunc(o.Entries, func(e history.Entry) bool { return e.Key == key }) {
					gone[key] = max(gone[key], o.Return)
				}
			}
			for _, e := range o.Entries {
				see(e.Value, o.Return)
			}
		}
	}
	var of []porcupine.Operation
	open := 0
	for _, o := range ops {
		p := porcupine.Operation{ClientId: o.Process, Input: o, Call: int64(o.Invoke), Return: int64(o.Return)}
		switch {
		case o.Outcome == history.Fail:
			continue
		case answered(o) && o.Level == history.Bounded:
			p.Call = int64(max(0, o.Invoke-age(o))) // of any moment since then
			open++
			p.ClientId = -open
		case answered(o):
		case !o.Write():
			continue
		default:
			open++
			p.ClientId, p.Return = -open, math.MaxInt64
			if o.Func == history.Put {
				first, was := seen[o.Value]
				if !was {
					continue
				}
				p.Return = max(int64(first), p.Call)
			} else if gone[o.Key] <= o.Invoke {
				continue
			}
		}
		of = append(of, p)
	}
	return of
}

// age that a bounded read may be of: what its answer says, if it does.
func age(o *history.Op) time.Duration {
	if o.StalenessKnown {
		return max(0, min(o.Staleness, o.MaxStaleness))
	}
	return o.MaxStaleness
}

// tagModel is the state of a tag: its keys and values, as text in the order of keys.
// Inputs are *history.Op.
var tagModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		s, o := state.(string), input.(*history.Op)
		switch o.Func {
		case history.Scan:
			return s == joined(o.Entries), s
		case history.Get:
			value, found := lookup(s, o.Key)
			return found == o.Found && (!found || value == o.Value), s
		default:
			return true, with(s, o)
		}
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprint(input) },
}

// A state is a line for each key, KEY=VALUE; workloads write neither = nor newlines.

func joined(entries []history.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Key + "=" + e.Value + "\n")
	}
	return b.String()
}

func split(state string) (entries []history.Entry) {
	for line := range strings.Lines(state) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		entries = append(entries, history.Entry{Key: key, Value: value})
	}
	return entries
}

func lookup(state, key string) (string, bool) {
	for _, e := range split(state) {
		if e.Key == key {
			return e.Value, true
		}
	}
	return "", false
}

// with is the state after a write.
func with(state string, w *history.Op) string {
	entries := slices.DeleteFunc(split(state), func(e history.Entry) bool { return e.Key == w.Key })
	if w.Func == history.Put {
		entries = append(entries, history.Entry{Key: w.Key, Value: w.Value})
		slices.SortFunc(entries, func(a, b history.Entry) int { return cmp.Compare(a.Key, b.Key) })
	}
	return joined(entries)
}

func checkScanAnswers(v *View) Judgement {
	var j Judgement
	writes := map[string]*history.Op{} // by value
	for _, o := range v.Ops {
		if o.Func == history.Put {
			writes[o.Value] = o
		}
	}
	for _, o := range v.Ops {
		if !answeredRead(o) {
			continue
		}
		j.Seen++
		if o.Level == history.Bounded && o.StalenessKnown && o.Staleness > o.MaxStaleness {
			j.Findings = append(j.Findings, Finding{Key: tag(o), Ops: show(o), Why: fmt.Sprintf("it is %v old, and may be %v old", o.Staleness, o.MaxStaleness)})
		}
		entries := o.Entries
		if o.Func == history.Get && o.Found {
			entries = []history.Entry{{Key: o.Key, Value: o.Value}}
		}
		for i, e := range entries {
			w := writes[e.Value]
			wrong, ops := "", []*history.Op{o}
			switch {
			case !strings.HasPrefix(e.Key, o.Key):
				wrong = "was not asked for"
			case i > 0 && entries[i-1].Key >= e.Key:
				wrong = fmt.Sprintf("comes after %s", entries[i-1].Key)
			case w == nil || w.Key != e.Key:
				wrong = fmt.Sprintf("has the value %s, which was never written to it", e.Value)
			case w.Outcome == history.Fail:
				wrong, ops = fmt.Sprintf("has the value %s, which was refused", e.Value), append(ops, w)
			case o.Return < w.Invoke:
				wrong, ops = fmt.Sprintf("has the value %s, which was written later", e.Value), append(ops, w)
			}
			if wrong != "" {
				j.Findings = append(j.Findings, Finding{Key: tag(o), Ops: show(ops...), Why: e.Key + " " + wrong})
				break
			}
		}
	}
	return j
}
