package knowledge

import "fmt"

// Entry names a log entry. The zero Entry is none.
type Entry struct{ Term, Index uint64 }

func (e Entry) String() string {
	if e == (Entry{}) {
		return "no entry"
	}
	return fmt.Sprintf("entry %d of term %d", e.Index, e.Term)
}

// Claim is what a replica's disk held when the replica was opened.
type Claim struct {
	Term uint64 // current term
	End  Entry  // last entry of the log, or of the stored snapshot if that is of a higher term
	// VoteTerm is the last term in which it voted, and Voted says that it was for
	// the replica of the node to which it says so.
	VoteTerm uint64
	Voted    bool
}

// Shown is what a replica has shown to this node, in all its openings. The zero
// Shown is nothing.
type Shown struct {
	Term uint64 // the highest term
	// In term Acked, the last one in which it acknowledged entries, the log reached
	// at least End.
	Acked uint64
	End   Entry
	Voted uint64 // the last term in which it voted for this node's replica
}

// Add is what s and t have shown together.
func (s Shown) Add(t Shown) Shown {
	if t.Acked > s.Acked || t.Acked == s.Acked && t.End.Index > s.End.Index {
		s.Acked, s.End = t.Acked, t.End
	}
	s.Term, s.Voted = max(s.Term, t.Term), max(s.Voted, t.Voted)
	return s
}

// Loss is what a replica has shown and its claim lacks. It is an error's text for
// the operator of that replica's node.
type Loss struct {
	Opening uint64 // whose claim it is
	Shown   Shown
	Claim   Claim
}

// Lacks says what c lacks of s; nil if s may have been shown before c was written.
func (s Shown) Lacks(c Claim) *Loss {
	switch {
	case c.Term < s.Term:
	case c.Term == s.Acked && (c.End.Index < s.End.Index || c.End.Term < s.End.Term):
	case s.Voted > 0 && c.Term == s.Voted && !(c.VoteTerm == s.Voted && c.Voted):
	default:
		return nil
	}
	return &Loss{Shown: s, Claim: c}
}

func (l *Loss) Error() string {
	s, c := l.Shown, l.Claim
	switch {
	case c.Term < s.Term:
		return fmt.Sprintf("it was in term %d, and its disk says term %d", s.Term, c.Term)
	case c.Term == s.Acked && (c.End.Index < s.End.Index || c.End.Term < s.End.Term):
		return fmt.Sprintf("in term %d it had %v on its disk, and its log ends at %v", s.Acked, s.End, c.End)
	}
	return fmt.Sprintf("in term %d it voted for another than its disk says", s.Voted)
}
