package contract

// CheckAnswers holds each answer against the writes: what is read was written,
// by a write that had begun and was not refused; tentative answers are eventual
// ones; a write has one version, and is committed at one index, once.
func CheckAnswers(h *History) []Violation {
	const rule = "answers"
	var found []Violation
	for _, k := range known(h) {
		refused := map[string]*Op{}
		for _, o := range k.ops {
			if o.Kind == Put && !o.mayApply() {
				refused[o.Value] = o
			}
		}
		first := map[*write]*Op{} // read that saw it committed
		for _, o := range k.ops {
			if !o.read() {
				continue
			}
			if o.Tentative && !o.eventual() {
				found = append(found, violation(rule, k, []*Op{o}, "an answer of committed state is tentative"))
			}
			w := k.seen(o)
			switch {
			case w == nil && !o.Found:
				continue
			case w == nil && refused[o.Value] != nil:
				found = append(found, violation(rule, k, []*Op{refused[o.Value], o}, "%s was refused, and read", o.Value))
				continue
			case w == nil:
				found = append(found, violation(rule, k, []*Op{o}, "%s was never written", o.Value))
				continue
			case o.Return < w.Invoke:
				found = append(found, violation(rule, k, []*Op{w.Op, o}, "%s was read before it was written", quoted(o)))
			}
			v := o.Version
			if v == (Version{}) {
				continue
			}
			if v.Timestamp != w.version.Timestamp || v.Node != w.version.Node {
				found = append(found, violation(rule, k, []*Op{w.Op, o}, "%s has two versions, %v and %v", quoted(o), w.version, v))
			}
			if o.Tentative != (v.Index == 0) {
				found = append(found, violation(rule, k, []*Op{o}, "tentative is index 0, and nothing else is"))
				continue
			}
			if v.Index == 0 {
				continue
			}
			if v.Index != w.version.Index {
				ops := []*Op{w.Op, o}
				if first[w] != nil {
					ops = append(ops, first[w])
				}
				found = append(found, violation(rule, k, ops, "%s was committed twice, at %d and %d", quoted(o), w.version.Index, v.Index))
			}
			if w.fate.Kind == Superseded || w.fate.Kind == Lost {
				found = append(found, violation(rule, k, []*Op{w.Op, o}, "%s is %v, and was read as committed", quoted(o), w.fate.Kind))
			}
			if first[w] == nil {
				first[w] = o
			}
		}
	}
	return found
}
