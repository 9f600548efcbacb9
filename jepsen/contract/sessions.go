package contract

// CheckSessions holds each session to its guarantees, key by key: what it has
// written or read it goes on to see, or what replaced that; and its writes come
// after what it has written or read before. A session's operations are in order
// where one had been answered before the other began.
func CheckSessions(h *History) []Violation {
	var found []Violation
	for _, k := range known(h) {
		bySession := map[string][]*Op{}
		var sessions []string
		for _, o := range k.ops {
			if o.Session == "" || o.Outcome == Failed || o.Outcome == Mismatch {
				continue
			}
			if bySession[o.Session] == nil {
				sessions = append(sessions, o.Session)
			}
			bySession[o.Session] = append(bySession[o.Session], o)
		}
		for _, s := range sessions {
			found = append(found, k.session(bySession[s])...)
		}
	}
	return found
}

// session judges one session's operations on one key.
func (k *key) session(ops []*Op) []Violation {
	var found []Violation
	for i, o := range ops {
		for j := i - 1; j >= 0; j-- {
			past := ops[j]
			v := k.involved(past)
			if v == nil || !past.before(o) {
				continue
			}
			var rule string
			switch {
			case o.read() && past.write():
				rule = "read your writes"
			case o.read():
				rule = "monotonic reads"
			case o.write() && past.write():
				rule = "monotonic writes"
			default:
				rule = "writes follow reads"
			}
			if o.read() && !k.maySee(v, o) || o.write() && !k.mayCome(v, k.of[o]) {
				shown := []*Op{past, o}
				if v.Op != past {
					shown = append(shown, v.Op)
				}
				found = append(found, violation(rule, k, shown, "session %s knows %s and then has %s", o.Session, quoted(v.Op), quoted(o)))
				break // one a time is enough
			}
		}
	}
	return found
}

// involved is the write that an operation did or saw.
func (k *key) involved(o *Op) *write {
	if o.write() {
		return k.of[o]
	}
	return k.seen(o)
}

// maySee: a read by somebody who knows of v may be answered like this.
func (k *key) maySee(v *write, o *Op) bool {
	if u := k.seen(o); u != nil {
		return k.mayShow(v, u)
	}
	if o.Found {
		return true // never written: not a matter of sessions
	}
	// Nothing: then a delete, this one or that.
	for _, d := range k.writes {
		if d.Kind == Delete && d.Invoke <= o.Return && k.mayShow(v, d) {
			return true
		}
	}
	return false
}

// mayShow: a state that holds or has taken up v may show u.
func (k *key) mayShow(v, u *write) bool {
	switch {
	case u == v, k.gone(v), k.buried(v, u):
		return true
	case v.version.Index > 0 && u.version.Index > 0:
		return u.version.Index >= v.version.Index
	case v.version.Index > 0: // u was tentative, or nobody saw it committed
		return k.mayWin(u, v)
	case u.version.Index > 0:
		// v has not won. Over u it would have, unless it is stale or lower.
		return !k.mustWin(v, u)
	}
	return k.mayWin(u, v)
}

// buried: a delete stands between v and u, or is v, and u had heard of it. Once its
// tombstone is gone nothing is left that u would have to be above: a clock that ran
// ahead no longer counts for the key.
func (k *key) buried(v, u *write) bool {
	for _, d := range k.writes {
		at := d.version.Index
		switch {
		case d.Kind != Delete || d == u || at == 0 || u.version.Index > 0 && u.version.Index <= at:
		case d != v && v.version.Index >= at, d != v && v.version.Index == 0 && k.mustWin(v, d):
		case u.linearizable() || u.Outcome != OK || u.Base >= at:
			return true
		}
	}
	return false
}

// mayWin: the eventual write u, not known to be committed, may win over v.
func (k *key) mayWin(u, v *write) bool {
	switch {
	case u.linearizable() || u.Outcome != OK:
		return true // its index, or its base, is not known
	case v.linearizable():
		return v.version.Index == 0 || u.Base >= v.version.Index
	}
	return u.version.beats(v.version) || k.overruled(v.Base, 0)
}

// mustWin: the eventual write v wins over what was committed as u.
func (k *key) mustWin(v, u *write) bool {
	switch {
	case v.linearizable() || v.Outcome != OK:
		return false
	case u.linearizable():
		return v.Base >= u.version.Index
	}
	return v.version.beats(u.version) && !k.overruled(v.Base, u.version.Index)
}

// mayCome: the write u may be ordered behind v, which its session knew of.
func (k *key) mayCome(v, u *write) bool {
	switch {
	case u == nil || u == v || u.Outcome != OK:
		return true
	case v.version.Index > 0 && u.version.Index > 0 && u.version.Index < v.version.Index:
		return false
	case u.linearizable():
		return true
	case v.linearizable():
		return v.version.Index == 0 || u.Base >= v.version.Index
	}
	return u.version.Timestamp > v.version.Timestamp && u.Base >= v.Base
}
