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
				if w.eventual() && w.Outcome == OK && w.version.Node == o.Node && w.before(o) && !k.maySee(w, o) {
					found = append(found, violation(rule, k, []*Op{w.Op, o}, "%s took %s and then shows %s", o.Node, quoted(w.Op), quoted(o)))
					break
				}
			}
		}
	}
	return found
}
