package contract

import (
	"cmp"
	"slices"
)

// CheckFates accounts for every eventual write at the end: committed, or
// superseded and on the list of conflicts, or lost with a node that was removed.
// So is a committed one that was replaced by one that had not heard of it: it is
// on that list. Nothing is that was not written. Without an [End] there is nothing to check.
func CheckFates(h *History) []Violation {
	if h.End == nil {
		return nil
	}
	var found []Violation
	for _, k := range known(h) {
		for _, w := range k.writes {
			if w.eventual() {
				found = append(found, k.account(w, h.End)...)
			}
		}
		found = append(found, k.unwritten(h.End.Conflicts)...)
		if !h.End.Dropped {
			found = append(found, k.replaced(h.End)...)
		}
	}
	return found
}

const ruleFates = "fates"

func (k *key) account(w *write, end *End) []Violation {
	one := func(why string, args ...any) []Violation {
		return []Violation{violation(ruleFates, k, []*Op{w.Op}, why, args...)}
	}
	if w.Receipt == "" {
		if w.Outcome == OK {
			return one("it was acknowledged without a receipt")
		}
		return nil // nobody can ask
	}
	switch w.fate.Kind {
	case Committed:
		if w.fate.Version.Index == 0 {
			return one("it is committed at no index")
		}
		if v := w.Op.Version; v != (Version{}) && (v.Timestamp != w.fate.Version.Timestamp || v.Node != w.fate.Version.Node) {
			return one("it was acknowledged as %v and committed as %v", v, w.fate.Version)
		}
	case Superseded:
		if !end.Dropped && !listed(end, w) {
			return one("it is superseded, and on no list of conflicts")
		}
	case Lost:
		if len(end.Removed) == 0 {
			return one("it is lost, and no node was removed")
		}
		if v := w.Op.Version; v != (Version{}) && !slices.Contains(end.Removed, v.Node) {
			return one("it is lost, and %s, which took it, was not removed", v.Node)
		}
	case Expired:
		// decided; the record of fates is bounded
	case Pending:
		return one("it is still pending")
	default:
		if w.Outcome == OK {
			return one("nothing is known of it")
		}
	}
	return nil
}

// unwritten finds conflicts of values that nobody wrote, or that were refused: such a
// write has taken part in something.
func (k *key) unwritten(list []Conflict) []Violation {
	var found []Violation
	for _, c := range list {
		if c.Key != k.name || c.Delete || k.values[c.Value] != nil {
			continue
		}
		var refused []*Op
		for _, o := range k.ops {
			if o.Kind == Put && o.Value == c.Value {
				refused = append(refused, o)
			}
		}
		why := "%s was never written, and is on the list of conflicts"
		if len(refused) > 0 {
			why = "%s was refused, and is on the list of conflicts"
		}
		found = append(found, violation(ruleFates, k, refused, why, c.Value))
	}
	return found
}

// listed: the write is on the list. The version of one whose answer was not
// heard is not known.
func listed(end *End, w *write) bool {
	return slices.ContainsFunc(end.Conflicts, func(c Conflict) bool {
		return c.Key == w.Key && c.Value == w.Value && c.Delete == (w.Kind == Delete) &&
			(w.version == (Version{}) || c.Losing.Timestamp == w.version.Timestamp && c.Losing.Node == w.version.Node)
	})
}

// replaced finds committed eventual values that gave way, unlisted, to eventual
// ones whose nodes had not heard of them. It looks at neighbours in the log, so it
// needs to know the whole log of the key.
func (k *key) replaced(end *End) []Violation {
	var log []*write
	for _, w := range k.writes {
		switch {
		case w.version.Index > 0:
			log = append(log, w)
		case w.eventual() && (w.fate.Kind == Superseded || w.fate.Kind == Lost):
		default:
			return nil // it may stand anywhere in the log
		}
	}
	// Of those in one entry the higher comes later, as the lower does not win.
	mixed := map[uint64]bool{} // entries of which that can not be said
	for _, w := range log {
		mixed[w.version.Index] = mixed[w.version.Index] || !w.eventual()
	}
	slices.SortStableFunc(log, func(a, b *write) int {
		return cmp.Or(cmp.Compare(a.version.Index, b.version.Index), cmp.Compare(a.version.Timestamp, b.version.Timestamp),
			cmp.Compare(a.version.Node, b.version.Node))
	})
	var found []Violation
	for i := 1; i < len(log); i++ {
		a, b := log[i-1], log[i]
		switch {
		case mixed[a.version.Index] || mixed[b.version.Index] || a.version.Index == b.version.Index:
		case b.Outcome != OK || b.Base >= a.version.Index || a.version.Node == b.version.Node:
			// It had heard of it, or its own node held it.
		case !listed(end, a):
			found = append(found, violation(ruleFates, k, []*Op{a.Op, b.Op},
				"%s, committed at %d, gave way to %s, which had heard of %d only, and is on no list of conflicts",
				quoted(a.Op), a.version.Index, quoted(b.Op), b.Base))
		}
	}
	return found
}
