package contract

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// legal decides whether some order of the operations explains the answers. It asks
// first whether the order does that the versions tell: then there is no need to
// search. Where many operations wait for each other, a search does not end. If
// that order does not, any other may.
func (k *key) legal(ops []porcupine.Operation, patience time.Duration) porcupine.CheckResult {
	if told, ok := k.asTold(ops); ok && porcupine.CheckOperationsTimeout(register, told, patience) == porcupine.Ok {
		return porcupine.Ok
	}
	return porcupine.CheckOperationsTimeout(register, ops, patience)
}

// place is where an operation stands by its version.
type place struct {
	of        int // among the operations
	op        *Op
	kind      Kind
	at        Version
	call, end int64
}

// asTold puts each operation at one moment of its own, in the order of the log, as
// early as it can have been. A write whose place is not told, and which may take
// effect at any time, may as well come after all: it is left out, unless it may be
// the one that a condition met. Others whose place is not told stay as they were. An
// order of these is one of the operations. False: there are no such moments.
func (k *key) asTold(ops []porcupine.Operation) ([]porcupine.Operation, bool) {
	var log, nothing, met, open []place
	told := make([]porcupine.Operation, 0, len(ops))
	for i, p := range ops {
		it := p.Input.(step)
		at := place{of: i, op: it.Op, at: it.Version, call: p.Call, end: p.Return}
		if it.mayApply() {
			at.kind, at.at = it.Kind, k.of[it.Op].version
		}
		switch {
		case at.at.Index > 0:
			log = append(log, at)
			if it.Outcome == Mismatch && it.stood == nil {
				met = append(met, at)
			}
		case it.read() && !it.Found || it.Absent:
			nothing = append(nothing, at)
		case it.mayApply() && p.Return == math.MaxInt64:
			open = append(open, at)
		default:
			told = append(told, p)
		}
	}
	slices.SortStableFunc(log, inLog)
	log = identify(log, met, open)
	var placed []place
	for _, p := range nothing {
		if from, ok := gap(log, p); ok {
			p.at = from
			placed = append(placed, p)
		} else {
			told = append(told, ops[p.of])
		}
	}
	log = append(log, placed...)
	slices.SortStableFunc(log, inLog)
	last := int64(-1)
	for _, p := range log {
		last = max(last+1, p.call)
		if last > p.end {
			return nil, false
		}
		o := ops[p.of]
		o.Call, o.Return, o.ClientId = last, last, -len(ops)-p.of-1
		told = append(told, o)
	}
	return told, true
}

// identify puts open writes where conditions met versions of which nobody knows the
// write: one each, the first that may have been there.
func identify(log, met, open []place) []place {
	slices.SortStableFunc(met, inLog)
	for i, m := range met {
		if i > 0 && m.at == met[i-1].at {
			continue
		}
		before := "" // what stood there before
		for _, p := range log {
			if p.kind == Put && inLog(p, m) < 0 {
				before = p.op.Value
			}
		}
		at := slices.IndexFunc(open, func(p place) bool {
			return p.kind == Put && p.call <= m.end && (p.op.Condition == Always || p.op.Condition == IfValue && p.op.Expect == before)
		})
		if at < 0 {
			continue
		}
		p := open[at]
		p.at = m.at
		open = slices.Delete(open, at, at+1)
		log = append(log, p)
		slices.SortStableFunc(log, inLog)
	}
	return log
}

// inLog: an entry may have several writes, of growing timestamps. A write comes
// before those who saw it.
func inLog(a, b place) int {
	seer := func(p place) int {
		if p.kind == Get {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.at.Index, b.at.Index), cmp.Compare(a.at.Timestamp, b.at.Timestamp), cmp.Compare(seer(a), seer(b)), cmp.Compare(a.call, b.call))
}

// gap is the version from which on there was nothing, for one that saw that: the
// first that was not over by the time it began. None is before all writes.
func gap(log []place, p place) (from Version, ok bool) {
	past := 0 // of log
	for i, o := range log {
		if o.end < p.call {
			past = i + 1
		}
	}
	open := true // there is nothing, since from
	for i, o := range log {
		switch {
		case o.kind == Get:
		case open && i >= past:
			return from, true
		default:
			from, open = o.at, o.kind == Delete
		}
	}
	return from, open
}
