package contract

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// CheckRule13 decides for each key whether the linearizable operations, and the
// eventual writes as operations that take effect at most once at any one moment
// after they began, are linearizable. patience bounds it for each key; a key
// for which it runs out gives a Violation that is Undecided.
func CheckRule13(h *History, patience time.Duration) []Violation {
	const rule = "rule 13"
	var found []Violation
	for _, k := range known(h) {
		ops := k.operations()
		switch porcupine.CheckOperationsTimeout(register, ops, patience) {
		case porcupine.Ok:
		case porcupine.Illegal:
			var shown []*Op
			for _, o := range ops {
				shown = append(shown, o.Input.(*Op))
			}
			found = append(found, violation(rule, k, shown, "no order of these explains the answers"))
		default:
			v := violation(rule, k, nil, "not decided within %v, of %d operations", patience, len(ops))
			v.Undecided = true
			found = append(found, v)
		}
	}
	return found
}

// operations are those that rule 13 is about. A write that may take effect at
// any time returns at the end of time, but a checker can not cope with many of
// those. As no value is written twice, most can be spared:
//
//   - one whose value was seen took effect before the first who saw it was
//     answered: it returns then;
//   - one whose value was not seen may as well come after everything else: it is
//     left out, unless a condition could tell that there was some value.
//
// Neither changes the verdict. Of what is left, the log tells as much: a write that
// was superseded takes no effect, and one that was committed does so between what
// stands before it and behind it.
func (k *key) operations() []porcupine.Operation {
	seen := map[string]time.Duration{} // value: end of the first that saw it
	anyValue, nothing := false, false
	see := func(value string, at time.Duration) {
		if first, ok := seen[value]; !ok || at < first {
			seen[value] = at
		}
	}
	for _, o := range k.ops {
		if o.Level != Linearizable {
			continue
		}
		switch {
		case o.read() && o.Found:
			see(o.Value, o.Return)
		case o.read():
			nothing = true
		case o.Condition == Always:
		case o.Outcome == Mismatch:
			anyValue, nothing = true, true
		case o.Outcome == OK && o.Condition == IfValue:
			see(o.Expect, o.Return)
		case o.Outcome == OK || o.Outcome == Unknown:
			anyValue, nothing = true, true
		}
	}
	var ops []porcupine.Operation
	open := 0
	for _, o := range k.ops {
		p := porcupine.Operation{ClientId: o.Process, Input: o, Call: int64(o.Invoke), Return: int64(o.Return)}
		switch {
		case o.Level == Linearizable && (o.read() || o.write() && (o.Outcome == OK || o.Outcome == Mismatch)):
		case o.mayApply():
			p.Return = math.MaxInt64
			at, was := seen[o.Value]
			switch {
			case o.Kind == Put && was:
				p.Return = max(int64(at), p.Call)
			case o.Kind == Put && !anyValue, o.Kind == Delete && !nothing:
				continue
			}
			switch w := k.of[o]; {
			case was:
			case w.fate.Kind == Superseded, w.fate.Kind == Lost:
				continue
			case w.version.Index > 0:
				p.Call, p.Return = k.between(o, w.version.Index)
			}
			open++
			p.ClientId = -open // concurrent to whatever its process does next
		default:
			continue
		}
		ops = append(ops, p)
	}
	return ops
}

// between is when the write, committed at index, took effect at the
// earliest and at the latest: after the linearizable writes before it began, and
// before those who wrote or saw what stands behind it were answered.
func (k *key) between(w *Op, index uint64) (from, to int64) {
	from, to = int64(w.Invoke), math.MaxInt64
	for _, o := range k.ops {
		if o.Level != Linearizable || o.Outcome != OK || o.Version.Index == 0 {
			continue
		}
		switch {
		case o.write() && o.Version.Index < index:
			from = max(from, int64(o.Invoke))
		case o.Version.Index > index:
			to = min(to, int64(o.Return))
		}
	}
	return from, max(from, to)
}

// register is the model: the value of one key, nil for none. Inputs are *Op.
var register = porcupine.Model{
	Init: func() any { return nil },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(*Op)
		if o.Kind == Get {
			if o.Found {
				return state == any(o.Value), state
			}
			return state == nil, state
		}
		holds := true
		switch o.Condition {
		case IfAbsent:
			holds = state == nil
		case IfPresent:
			holds = state != nil
		case IfValue:
			holds = state == any(o.Expect)
		}
		switch {
		case o.Outcome == Mismatch:
			return !holds, state
		case !holds:
			return o.Outcome == Unknown, state // it failed, and nobody heard
		case o.Kind == Delete:
			return true, nil
		}
		return true, o.Value
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprint(input) },
}
