package contract

import "slices"

// CheckSuperseded asks of every write that lost whether the contract lets it lose, to
// the winner that its receipt and the list of conflicts name.
//
// An eventual write loses for one of three reasons only. Its node had not heard of the
// key's last linearizable write, so that write's index is above its base. Or a higher
// eventual write stood there. Or its base is below the partition's floor, which happens
// to writes of nodes that were removed or joined late: no floor is raised above an
// undecided write of a member. Without an [End] there is nothing to check.
func CheckSuperseded(h *History) []Violation {
	if h.End == nil {
		return nil
	}
	var found []Violation
	for _, k := range known(h) {
		for _, c := range h.End.Conflicts {
			if c.Key == k.name {
				found = append(found, k.justified(c, h.End)...)
			}
		}
		for _, w := range k.writes {
			if w.eventual() && w.fate.Kind == Superseded {
				found = append(found, k.sameWinner(w, h.End)...)
			}
		}
	}
	return found
}

const ruleSuperseded = "superseded"

// justified judges one listed conflict.
func (k *key) justified(c Conflict, end *End) []Violation {
	w := k.named(c.Losing)
	if w == nil || (w.Kind == Delete) != c.Delete {
		return nil // of a write whose answer was not heard, or of none: see CheckFates
	}
	winner := k.named(c.Winning)
	one := func(why string, args ...any) []Violation {
		ops := []*Op{w.Op}
		if winner != nil && winner != w {
			ops = append(ops, winner.Op)
		}
		return []Violation{violation(ruleSuperseded, k, ops, why, args...)}
	}
	heard := w.Outcome == OK // only then is its base known
	switch {
	case w.linearizable():
		return one("a linearizable write is said to have lost to %v", c.Winning)
	case c.Winning == (Version{}):
		if !c.StaleBase {
			return one("%s is said to be older than nothing", quoted(w.Op))
		}
		if !slices.Contains(end.Removed, w.version.Node) && !slices.Contains(end.Joined, w.version.Node) {
			return one("%s is said to be below the floor, and %s was a member from the start to the end", quoted(w.Op), w.version.Node)
		}
		return nil
	case winner == nil && !k.anonymous():
		return one("%s is said to have lost to %v, which nobody wrote", quoted(w.Op), c.Winning)
	case c.StaleBase && heard && c.Winning.Index <= w.Base:
		return one("%s is said not to have heard of %v, and its base is %d", quoted(w.Op), c.Winning, w.Base)
	case c.StaleBase && winner != nil && winner.eventual():
		return one("%s is said not to have heard of a linearizable write, and %v is an eventual one", quoted(w.Op), c.Winning)
	case c.StaleBase:
		return nil
	case !c.Winning.beats(c.Losing):
		return one("%s is said to be older than %v", quoted(w.Op), c.Winning)
	case winner != nil && winner.linearizable():
		return one("%s is said to be older than %v, which is linearizable: no clock decides between them", quoted(w.Op), c.Winning)
	case w.fate.Kind == Committed && winner != nil && winner.Outcome == OK && winner.Base >= w.version.Index:
		return one("%s, committed at %d, is listed as a conflict with %s, which had heard of %d",
			quoted(w.Op), w.version.Index, quoted(winner.Op), winner.Base)
	}
	return nil
}

// sameWinner compares the winner that a receipt tells with the one on the list.
func (k *key) sameWinner(w *write, end *End) []Violation {
	told := w.fate.Version
	one := func(why string, args ...any) []Violation {
		return []Violation{violation(ruleSuperseded, k, []*Op{w.Op}, why, args...)}
	}
	if w.version != (Version{}) {
		for _, c := range end.Conflicts {
			if c.Key == k.name && c.Losing.Timestamp == w.version.Timestamp && c.Losing.Node == w.version.Node {
				if c.Winning != told {
					return one("its receipt says that %s lost to %v, the list says %v", quoted(w.Op), told, c.Winning)
				}
				return nil
			}
		}
	}
	// Not on the list: CheckFates accounts for that. The winner must have existed.
	if told != (Version{}) && k.named(told) == nil && !k.anonymous() {
		return one("its receipt says that %s lost to %v, which nobody wrote", quoted(w.Op), told)
	}
	return nil
}

// named is the write that a version names, whatever its index, or nil.
func (k *key) named(v Version) *write {
	if v == (Version{}) {
		return nil
	}
	for _, w := range k.writes {
		if w.version.Timestamp == v.Timestamp && w.version.Node == v.Node {
			return w
		}
	}
	return nil
}

// anonymous reports whether the version of some write of the key is not known, so that
// any version may be its.
func (k *key) anonymous() bool {
	return slices.ContainsFunc(k.writes, func(w *write) bool { return w.version.Timestamp == 0 })
}
