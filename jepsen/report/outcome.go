package report

import "github.com/capstan-kv/capstan/jepsen/history"

// class is what an operation's end means to its client.
type class int

const (
	answered class = iota // done, or its condition judged
	refused               // no effect, for sure
	unknown               // perhaps, or perhaps later
	classes
)

// names are those that the style sheet and the legend have.
var classNames = [classes]string{"answered", "refused", "unknown"}

func (c class) String() string { return classNames[c] }

// classOf: a condition that did not hold is an answer. One without an end is
// unknown.
func classOf(o *history.Op) class {
	switch {
	case o.Outcome == history.OK, o.Mismatch:
		return answered
	case o.Outcome == history.Fail:
		return refused
	}
	return unknown
}

// levels in the order of the page.
var levels = []history.Level{history.Linearizable, history.Bounded, history.Eventual}
