package contract

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// CheckMixing holds a history to rule 29 of the contract. It decides for each key whether the linearizable operations, and the
// eventual writes as operations that take effect at most once at any one moment
// after they began, are linearizable. patience bounds it for each key; a key
// for which it runs out gives a Violation that is Undecided.
func CheckMixing(h *History, patience time.Duration) []Violation {
	const rule = "mixing"
	var found []Violation
	for _, k := range known(h) {
		ops := k.operations()
		switch k.legal(ops, patience) {
		case porcupine.Ok:
		case porcupine.Illegal:
			var shown []*Op
			for _, o := range ops {
				shown = append(shown, o.Input.(step).Op)
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

// operations are those that CheckMixing orders. A write that may take effect at
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
//
// A condition that did not hold has seen what stands there, if the answer names a
// version whose write is known: it is as good as a read of that value.
func (k *key) operations() []porcupine.Operation {
	s := k.whatWasSeen()
	var ops []porcupine.Operation
	open := 0
	for _, o := range k.ops {
		it := step{Op: o}
		p := porcupine.Operation{ClientId: o.Process, Call: int64(o.Invoke), Return: int64(o.Return)}
		switch {
		case o.Level == Linearizable && o.Outcome == Mismatch:
			it.stood = k.stood(o)
		case o.Level == Linearizable && (o.read() || o.write() && o.Outcome == OK):
		case o.mayApply():
			p.Return = math.MaxInt64
			at, was := s.values[o.Value]
			switch {
			case o.Kind == Put && was:
				p.Return = max(int64(at), p.Call)
			case o.Kind == Put && !s.some, o.Kind == Delete && !s.nothing:
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
		p.Input = it
		ops = append(ops, p)
	}
	return ops
}

// step is an operation as the model takes it.
type step struct {
	*Op
	// stood is the write whose value a condition met that did not hold; nil if that
	// is not known.
	stood *write
}

// sight is what linearizable operations have seen of a key.
type sight struct {
	// values, and when the first who saw one was answered.
	values map[string]time.Duration
	// some: one that saw some value, nobody knows which. nothing: one saw none.
	some, nothing bool
}

func (s *sight) value(value string, at time.Duration) {
	if first, ok := s.values[value]; !ok || at < first {
		s.values[value] = at
	}
}

func (k *key) whatWasSeen() *sight {
	s := &sight{values: map[string]time.Duration{}}
	var unanswered []*Op
	for _, o := range k.ops {
		if o.Level != Linearizable {
			continue
		}
		switch {
		case o.read() && o.Found:
			s.value(o.Value, o.Return)
		case o.read():
			s.nothing = true
		case o.Condition == Always || o.Outcome == Failed:
		case o.Outcome == Mismatch:
			s.mismatch(o, k.stood(o))
		case o.Outcome == Unknown:
			unanswered = append(unanswered, o)
		default:
			s.condition(o, o.Return)
		}
	}
	// A conditional write that was seen has seen something itself, and so on.
	for more := true; more; {
		more = false
		unanswered = slices.DeleteFunc(unanswered, func(o *Op) bool {
			at, was := s.values[o.Value]
			switch {
			case o.Kind == Put && !was && !s.some:
				return false // it is left out so far
			case !was:
				at = math.MaxInt64
			}
			s.condition(o, at)
			more = true
			return true
		})
	}
	return s
}

// mismatch: a condition did not hold, since this stood there, if that is known.
func (s *sight) mismatch(o *Op, stood *write) {
	switch {
	case stood != nil:
		s.value(stood.Value, o.Return)
	case o.Absent:
		s.nothing = true
	case o.Version != (Version{}):
		s.some = true
	default:
		s.some, s.nothing = true, true
	}
}

// condition held before at.
func (s *sight) condition(o *Op, at time.Duration) {
	switch o.Condition {
	case IfAbsent:
		s.nothing = true
	case IfPresent:
		s.some = true
	case IfValue:
		s.value(o.Expect, at)
	}
}

// stood is the write whose value stood there when a condition did not hold; nil
// if that is not known.
func (k *key) stood(o *Op) *write {
	if o.Version == (Version{}) {
		return nil
	}
	for _, w := range k.writes {
		if w.Kind == Put && w.version.Timestamp == o.Version.Timestamp && w.version.Node == o.Version.Node {
			return w
		}
	}
	return nil
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

// register is the model: the value of one key, nil for none. Inputs are steps.
var register = porcupine.Model{
	Init: func() any { return nil },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(step)
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
			return !holds && (!o.Absent || state == nil) && (o.stood == nil || state == any(o.stood.Value)), state
		case !holds:
			return o.Outcome == Unknown, state // it failed, and nobody heard
		case o.Kind == Delete:
			return true, nil
		}
		return true, o.Value
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprint(input.(step).Op) },
}
