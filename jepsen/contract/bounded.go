package contract

// CheckBounded holds each bounded read to its bound and to what its answer says:
// its state has all that was acknowledged by linearizable operations that long
// before it began. Linearizable reads are held to the same, with no age at all:
// CheckMixing looks at values, this at versions.
func CheckBounded(h *History) []Violation {
	const rule = "staleness"
	var found []Violation
	for _, k := range known(h) {
		for _, o := range k.ops {
			until, sure := o.covered()
			if !o.read() || !sure {
				continue
			}
			if o.Level == Bounded && (o.Staleness > o.MaxStaleness || o.Staleness < 0) {
				found = append(found, violation(rule, k, []*Op{o}, "it is %v old, and may be %v old", o.Staleness, o.MaxStaleness))
			}
			// The newest that it must have: written, or seen, before.
			var newest *Op
			var at uint64
			for _, p := range k.ops {
				w := k.involved(p)
				if p.Level != Linearizable || p.Outcome != OK || w == nil || p.Return >= until {
					continue
				}
				index := w.version.Index
				if p.Kind == Get && p.Version.Index > 0 {
					index = p.Version.Index
				}
				if index > at {
					newest, at = p, index
				}
			}
			if newest != nil && !k.mayHold(o, at) {
				found = append(found, violation(rule, k, []*Op{newest, o},
					"%s is older than %d, which was acknowledged %v before", quoted(o), at, o.Invoke-newest.Return))
			}
		}
	}
	return found
}

// mayHold: the answer may come from a state at index or above, in which the
// key's last change is at or above it.
func (k *key) mayHold(o *Op, index uint64) bool {
	if o.Version.Index > 0 {
		return o.Version.Index >= index
	}
	if w := k.seen(o); w != nil {
		return w.version.Index == 0 || w.version.Index >= index
	}
	if o.Found {
		return true
	}
	for _, d := range k.writes {
		if d.Kind == Delete && d.Invoke <= o.Return && (d.version.Index == 0 || d.version.Index >= index) {
			return true
		}
	}
	return false
}
