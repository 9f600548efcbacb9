package contract

// CheckNodes holds each node to what it took itself: an eventual read that it
// answers, or passes on, sees the eventual writes that it has acknowledged, or
// what replaced them, whether the reader's session knows of them or not. That
// fails if a node forgets a write before it has applied the promotion, or loses
// one in a restart.
func CheckNodes(h *History) []Violation {
	const rule = "a node's own writes"
	var found []Violation
	for _, k := range known(h) {
		for _, o := range k.ops {
			if !o.read() || !o.eventual() || o.Node == "" {
				continue
			}
			for _, w := range k.writes {
				if w.eventual() && w.Outcome == OK && w.version.Node == o.Node && w.before(o) && !k.maySee(w, o) && !k.mayHide(o, w) {
					found = append(found, violation(rule, k, []*Op{w.Op, o}, "%s took %s and then shows %s", o.Node, quoted(w.Op), quoted(o)))
					break
				}
			}
		}
	}
	return found
}

// mayHide: the answer may come from a state older than the commitment of w, and
// what that state held goes before w while w is tentative: w's node need not
// hold the state whose index it has heard of.
func (k *key) mayHide(o *Op, w *write) bool {
	hides := func(u *write) bool {
		return u.version.Index > 0 && u.version.Index < w.version.Index && !k.mustWin(w, u)
	}
	if u := k.seen(o); u != nil {
		return hides(u)
	}
	for _, d := range k.writes {
		if !o.Found && d.Kind == Delete && d.Invoke <= o.Return && hides(d) {
			return true
		}
	}
	return false
}
