package check

import (
	"fmt"
	"strconv"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// The counter workload: positive numbers are added by conditional write.
var (
	counterBounds = Checker{
		Workload: "counter", Name: "bounds",
		What:  "a counter is never below the sum of what was acknowledged before, or above that of what was tried",
		Check: byCounter((*aCounter).bounds),
	}
	counterMonotonic = Checker{
		Workload: "counter", Name: "monotonic",
		What:  "a counter never goes back",
		Check: byCounter((*aCounter).monotonic),
	}
	counterFinal = Checker{
		Workload: "counter", Name: "final",
		What:  "in the end a counter is the sum of what was acknowledged, and of some of what has an unknown outcome",
		Check: byCounter((*aCounter).final),
	}
)

// aCounter is what a history tells about one key.
type aCounter struct {
	key string
	// states are answers that say what stood there at some moment of theirs, as
	// they began: what was read, and what was written with success.
	states []sum
	added  []addition
}

type sum struct {
	*history.Op
	value int
}

type addition struct {
	*history.Op
	by int
}

func byCounter(check func(*aCounter) Judgement) func(*View) Judgement {
	return func(v *View) Judgement {
		var j Judgement
		var unread []string
		for _, ops := range byKey(v.Ops) {
			c, malformed := counted(ops)
			if malformed != nil {
				j.Findings = append(j.Findings, *malformed)
				continue
			}
			of := check(c)
			j.Seen += of.Seen
			j.Findings = append(j.Findings, of.Findings...)
			unread = append(unread, of.Void...)
		}
		if len(unread) > 0 {
			j.Void = []string{fmt.Sprintf("%d counters were not read in the end, %s the first", len(unread), unread[0])}
		}
		return j
	}
}

func counted(ops []*history.Op) (*aCounter, *Finding) {
	c := &aCounter{key: ops[0].Key}
	for _, o := range ops {
		value := 0
		if o.Write() || o.Found {
			var err error
			if value, err = strconv.Atoi(o.Value); err != nil {
				return nil, &Finding{Key: c.key, Why: fmt.Sprintf("%q is no number", o.Value), Ops: show(o)}
			}
		}
		if o.Outcome == history.OK {
			c.states = append(c.states, sum{o, value})
		}
		if o.Write() {
			by, err := strconv.Atoi(o.Element)
			if err != nil {
				return nil, &Finding{Key: c.key, Why: fmt.Sprintf("%q adds nothing", o.Element), Ops: show(o)}
			}
			c.added = append(c.added, addition{o, by})
		}
	}
	return c, nil
}

// between is what a state may be.
func (c *aCounter) between(s sum) (least, most int) {
	for _, a := range c.added {
		switch {
		case a.Op == s.Op:
			least += a.by
			most += a.by
		case a.Outcome == history.OK && a.Return < s.Invoke:
			least += a.by
			most += a.by
		case a.Outcome != history.Fail && a.Invoke <= s.Return:
			most += a.by
		}
	}
	return least, most
}

func (c *aCounter) bounds() Judgement {
	return c.judge(c.states, func(s sum) (Finding, bool) {
		least, most := c.between(s)
		if s.value >= least && s.value <= most {
			return Finding{}, true
		}
		return Finding{Key: c.key, Why: fmt.Sprintf("it is %d, not between %d and %d", s.value, least, most), Ops: show(c.why(s)...)}, false
	})
}

// judge gives the first state that is wrong: from then on most are.
func (c *aCounter) judge(states []sum, check func(sum) (Finding, bool)) Judgement {
	j := Judgement{Seen: len(states)}
	for _, s := range states {
		if f, ok := check(s); !ok {
			j.Findings = append(j.Findings, f)
			break
		}
	}
	return j
}

// why picks the operations that explain to people what is wrong with a state: a
// higher one before it; or two writes on top of one value; or all that added.
func (c *aCounter) why(s sum) []*history.Op {
	for _, before := range c.states {
		if before.Return < s.Invoke && before.value > s.value {
			return []*history.Op{before.Op, s.Op}
		}
	}
	on := map[string]*history.Op{}
	for _, a := range c.added {
		if a.Outcome != history.OK {
			continue
		}
		base := a.Expect + " " + a.ExpectVersion
		if other := on[base]; other != nil {
			return []*history.Op{other, a.Op, s.Op}
		}
		on[base] = a.Op
	}
	ops := []*history.Op{s.Op}
	for _, a := range c.added {
		if a.Invoke <= s.Return {
			ops = append(ops, a.Op)
		}
	}
	return ops
}

func (c *aCounter) monotonic() Judgement {
	var last sum // the highest of those that ended before
	return c.judge(c.states, func(s sum) (Finding, bool) {
		last = sum{}
		for _, before := range c.states {
			if before.Return < s.Invoke && (last.Op == nil || before.value > last.value) {
				last = before
			}
		}
		if last.Op == nil || s.value >= last.value {
			return Finding{}, true
		}
		return Finding{Key: c.key, Why: fmt.Sprintf("it was %d, and then it is %d", last.value, s.value), Ops: show(last.Op, s.Op)}, false
	})
}

func (c *aCounter) final() Judgement {
	var finals []sum
	for _, s := range c.states {
		if s.Final {
			finals = append(finals, s)
		}
	}
	if len(finals) == 0 {
		return Judgement{Void: []string{c.key}}
	}
	var acknowledged, unknown int
	for _, a := range c.added {
		switch a.Outcome {
		case history.OK:
			acknowledged += a.by
		case history.Fail:
		default:
			unknown += a.by
		}
	}
	return c.judge(finals, func(s sum) (Finding, bool) {
		if s.value >= acknowledged && s.value <= acknowledged+unknown {
			return Finding{}, true
		}
		return Finding{
			Key: c.key, Ops: show(c.why(s)...),
			Why: fmt.Sprintf("in the end it is %d: %d was acknowledged, and of %d nobody heard", s.value, acknowledged, unknown),
		}, false
	})
}
