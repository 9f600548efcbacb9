package check

import (
	"cmp"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// explained reports whether the order that versions tell explains all answers: a tag
// is in one partition, whose log has all its writes. Where many operations wait for
// each other, a search for an order does not end; this one needs none. If it does
// not explain them, another may.
func explained(ops []porcupine.Operation) bool {
	writes, reads, ok := inLog(ops)
	if !ok {
		return false
	}
	states := []string{""} // states[i]: after i writes
	for _, w := range writes {
		states = append(states, with(states[len(states)-1], w.op))
	}
	// Each read after as few writes as its answer and those before it permit.
	for i := range reads {
		r := &reads[i]
		for n, w := range writes {
			if w.Return < r.Call {
				r.after = max(r.after, n+1)
			}
		}
		for _, before := range reads[:i] {
			if before.Return < r.Call {
				r.after = max(r.after, before.after)
			}
		}
		for {
			if r.after == len(states) {
				return false
			}
			if ok, _ := tagModel.Step(states[r.after], r.op, nil); ok {
				break
			}
			r.after++
		}
	}
	order := slices.Concat(writes, reads)
	slices.SortStableFunc(order, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.after, b.after), compare(!a.op.Write(), !b.op.Write()), cmp.Compare(a.Call, b.Call))
	})
	last := int64(-1)
	for _, o := range order {
		if last = max(last, o.Call); last > o.Return {
			return false
		}
	}
	return true
}

// placed is an operation that takes effect after so many writes, its own included.
type placed struct {
	porcupine.Operation
	op    *history.Op
	after int
	at    contract.Version
}

// inLog takes apart the writes, in the order of their versions, and the reads, in
// that of their beginning. A write whose version nobody told is left out if it may
// come after all; false: it may not.
func inLog(ops []porcupine.Operation) (writes, reads []placed, ok bool) {
	told := map[string]string{} // value: version of who wrote it
	for _, p := range ops {
		o := p.Input.(*history.Op)
		for _, e := range o.Entries {
			told[e.Value] = e.Version
		}
		if o.Func == history.Get && o.Found {
			told[o.Value] = o.Version
		}
	}
	for _, p := range ops {
		o := placed{Operation: p, op: p.Input.(*history.Op)}
		if !o.op.Write() {
			reads = append(reads, o)
			continue
		}
		text := o.op.Version
		if text == "" && o.op.Func == history.Put {
			text = told[o.op.Value]
		}
		at, err := version(text)
		switch {
		case err == nil:
			o.at = at
			writes = append(writes, o)
		case o.Return != math.MaxInt64:
			return nil, nil, false
		}
	}
	slices.SortStableFunc(writes, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.at.Index, b.at.Index), cmp.Compare(a.at.Timestamp, b.at.Timestamp))
	})
	for i := range writes {
		writes[i].after = i + 1
	}
	slices.SortStableFunc(reads, func(a, b placed) int { return cmp.Compare(a.Call, b.Call) })
	return writes, reads, true
}
