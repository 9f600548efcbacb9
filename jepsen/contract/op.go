package contract

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Level is the consistency that an operation asked for.
type Level uint8

// The levels.
const (
	Linearizable Level = iota
	Bounded
	Eventual
)

// Kind is what an operation does.
type Kind uint8

// The kinds.
const (
	Get Kind = iota
	Put
	Delete
)

// Outcome is how an operation ended.
type Outcome uint8

// The outcomes.
const (
	// OK was answered.
	OK Outcome = iota
	// Failed was refused: it never took effect and never will.
	Failed
	// Unknown may have taken effect, or may yet.
	Unknown
	// Mismatch is a write whose condition did not hold.
	Mismatch
)

// Condition of a linearizable write.
type Condition uint8

// The conditions.
const (
	Always Condition = iota
	IfAbsent
	IfPresent
	// IfValue: the key holds Op.Expect. For a condition on a version, which the
	// client had read with that value.
	IfValue
)

// Version names one write of one key as answers do.
type Version struct {
	Index     uint64 // in the partition's log; 0 while tentative
	Timestamp uint64
	Node      string
}

func (v Version) String() string { return fmt.Sprintf("%d-%d-%s", v.Index, v.Timestamp, v.Node) }

// beats orders eventual writes.
func (v Version) beats(w Version) bool {
	return cmp.Or(cmp.Compare(v.Timestamp, w.Timestamp), cmp.Compare(v.Node, w.Node)) > 0
}

// Op is one operation of one client. Times are on one clock for the whole
// history, from any point.
type Op struct {
	// Process does one operation after the other. One whose operation stays
	// unanswered goes on under a new number.
	Process int
	// Node that was asked, by the id that versions have; may be empty.
	Node  string
	Level Level
	Kind  Kind
	Key   string
	// Value written, or read. No two writes of a history write the same.
	Value string
	// Found: a Get found a value.
	Found bool
	// Condition of a write, and the value it expects.
	Condition Condition
	Expect    string
	// Version in the answer: of what was read, or written; of what stands there, if
	// a condition did not hold. It may be zero for a Get that found nothing, or if
	// the answer does not say.
	Version Version
	// Absent: a condition did not hold, and the answer says that nothing stood there.
	Absent bool
	// Tentative: what was read was not committed.
	Tentative bool
	// Base is what the node that took an eventual write had heard of, as the
	// answer says.
	Base uint64
	// Receipt of an eventual write; known for some of unknown outcome too.
	Receipt string
	// MaxStaleness that a bounded Get allows, and Staleness that its answer says.
	MaxStaleness, Staleness time.Duration
	// Session the operation belongs to: it sent what the session's operations
	// that had ended before had been given. Empty: none.
	Session        string
	Outcome        Outcome
	Invoke, Return time.Duration // Return means nothing if the outcome is Unknown
}

func (o *Op) write() bool    { return o.Kind != Get }
func (o *Op) read() bool     { return o.Kind == Get && o.Outcome == OK }
func (o *Op) eventual() bool { return o.Level == Eventual }

// before: o had been answered when p began.
func (o *Op) before(p *Op) bool { return o.Outcome != Unknown && o.Return < p.Invoke }

// mayApply: the write has taken effect or may yet.
func (o *Op) mayApply() bool { return o.write() && (o.Outcome == OK || o.Outcome == Unknown) }

func (o Op) String() string {
	var b strings.Builder
	until := fmt.Sprint(o.Return)
	if o.Outcome == Unknown {
		until = "?"
	}
	fmt.Fprintf(&b, "[%v, %s] process %d", o.Invoke, until, o.Process)
	if o.Node != "" {
		fmt.Fprintf(&b, " at %s", o.Node)
	}
	fmt.Fprintf(&b, ": %s %s %s", [...]string{"linearizable", "bounded", "eventual"}[o.Level], [...]string{"get", "put", "delete"}[o.Kind], o.Key)
	switch {
	case o.Kind == Put:
		fmt.Fprintf(&b, "=%s", o.Value)
	case o.Kind == Get && o.Found:
		fmt.Fprintf(&b, " -> %s", o.Value)
	case o.read():
		b.WriteString(" -> nothing")
	}
	if o.Version != (Version{}) {
		fmt.Fprintf(&b, " version %v", o.Version)
	}
	if o.write() && o.eventual() {
		fmt.Fprintf(&b, " base %d", o.Base)
	}
	if o.Kind == Get && o.Level == Bounded {
		fmt.Fprintf(&b, " staleness %v of %v", o.Staleness, o.MaxStaleness)
	}
	if o.Tentative {
		b.WriteString(" tentative")
	}
	if o.Session != "" {
		fmt.Fprintf(&b, " session %s", o.Session)
	}
	if o.Outcome != OK {
		fmt.Fprintf(&b, " (%s)", [...]string{"ok", "failed", "unknown", "condition failed"}[o.Outcome])
	}
	return b.String()
}

// FateKind is what became of an eventual write.
type FateKind uint8

// The kinds of fates.
const (
	Pending    FateKind = 1
	Committed  FateKind = 2
	Superseded FateKind = 3
	Expired    FateKind = 4
	Lost       FateKind = 5
)

func (k FateKind) String() string {
	if int(k) >= 6 || k == 0 {
		return fmt.Sprintf("fate %d", uint8(k))
	}
	return [...]string{"", "pending", "committed", "superseded", "expired", "lost"}[k]
}

// Fate of an eventual write. Version is its own if it is committed, and that of
// the write it lost to if it is superseded (zero if that is not known).
type Fate struct {
	Kind    FateKind
	Version Version
}

// Conflict is one entry of the lists of conflicts.
type Conflict struct {
	Key, Value string
	Delete     bool
	Losing     Version
	Winning    Version
	// StaleBase: it had not heard of a linearizable write. Else it was older.
	StaleBase bool
}

// End is what the cluster says when all is healed and nothing is under way: no
// write is tentative any more.
type End struct {
	// Fates by receipt.
	Fates map[string]Fate
	// Conflicts of all partitions. Dropped: the lists have been full, so that
	// some were dropped.
	Conflicts []Conflict
	Dropped   bool
	// Removed nodes whose tentative writes were declared lost.
	Removed []string
	// Joined are the nodes that became members after the first operation. A floor may
	// have been above what they had heard of.
	Joined []string
}

// History is all that clients did, in any order, and how it ended.
type History struct {
	Ops []Op
	// End is nil if nobody looked.
	End *End
}

// Violation is one way in which a history breaks the contract.
type Violation struct {
	// Rule is what is broken, in a word or two: "precedence".
	Rule string
	Key  string
	// Why, in a sentence.
	Why string
	// Ops that show it, in order of their beginning.
	Ops []Op
	// Undecided: the checker ran out of time. That is not green.
	Undecided bool
}

func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: key %s: %s", v.Rule, v.Key, v.Why)
	for _, o := range v.Ops {
		fmt.Fprintf(&b, "\n  %v", o)
	}
	return b.String()
}

// Check runs all checkers. patience is what CheckMixing may take, on the real clock,
// for one key.
func Check(h *History, patience time.Duration) []Violation {
	var all []Violation
	all = append(all, CheckAnswers(h)...)
	all = append(all, CheckMixing(h, patience)...)
	all = append(all, CheckPrecedence(h)...)
	all = append(all, CheckSuperseded(h)...)
	all = append(all, CheckSessions(h)...)
	all = append(all, CheckNodes(h)...)
	all = append(all, CheckBounded(h)...)
	all = append(all, CheckFates(h)...)
	return all
}
