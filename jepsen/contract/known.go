package contract

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// write is a write with all that the whole history tells about it.
type write struct {
	*Op
	// version as answers gave it; its index is that of its commitment, 0 if it is
	// not known to be committed.
	version Version
	// seenAt is the index at which a read found it committed, 0 if none did.
	seenAt uint64
	fate   Fate
}

// linearizable write known to be applied: one at or before index may be why an
// eventual write lost.
func (w *write) linearizable() bool { return w.Level == Linearizable }

// key is what is known about one key.
type key struct {
	name   string
	ops    []*Op    // as they began
	writes []*write // that took effect or may have, as they began
	of     map[*Op]*write
	values map[string]*write
	// doubts: a linearizable write of unknown outcome was never seen. It may stand
	// at any index.
	doubts bool
	// removed nodes: what they brought later may be below the floor.
	removed []string
}

// known sorts a history by key, in the order of names.
func known(h *History) []*key {
	byName := map[string]*key{}
	var keys []*key
	for i := range h.Ops {
		o := &h.Ops[i]
		k := byName[o.Key]
		if k == nil {
			k = &key{name: o.Key, of: map[*Op]*write{}, values: map[string]*write{}}
			byName[o.Key] = k
			keys = append(keys, k)
		}
		k.ops = append(k.ops, o)
	}
	slices.SortFunc(keys, func(a, b *key) int { return cmp.Compare(a.name, b.name) })
	for _, k := range keys {
		slices.SortStableFunc(k.ops, func(a, b *Op) int { return cmp.Compare(a.Invoke, b.Invoke) })
		k.learn(h.End)
	}
	return keys
}

func (k *key) learn(end *End) {
	if end != nil {
		k.removed = end.Removed
	}
	for _, o := range k.ops {
		if !o.mayApply() {
			continue
		}
		w := &write{Op: o, version: o.Version}
		k.writes = append(k.writes, w)
		k.of[o] = w
		if o.Kind == Put {
			k.values[o.Value] = w
		}
		if o.eventual() {
			w.version.Index = 0 // as it was when it was accepted
			if end != nil {
				w.fate = end.Fates[o.Receipt]
			}
			if w.fate.Kind == Committed {
				w.version = w.fate.Version
			}
		}
	}
	for _, o := range k.ops {
		w := k.seen(o)
		if w == nil || o.Version == (Version{}) {
			continue
		}
		if w.version == (Version{}) {
			w.version = o.Version
		}
		if !o.Tentative && o.Version.Index > 0 {
			w.seenAt = o.Version.Index
			w.version.Index = cmp.Or(w.version.Index, o.Version.Index)
		}
	}
	for _, w := range k.writes {
		k.doubts = k.doubts || w.linearizable() && w.version.Index == 0
	}
}

// seen is the write that a read saw: for a value it is the one that wrote it,
// for nothing the delete whose version the answer gives, if it does.
func (k *key) seen(o *Op) *write {
	switch {
	case !o.read():
		return nil
	case o.Found:
		return k.values[o.Value]
	case o.Version == (Version{}):
		return nil
	}
	for _, w := range k.writes {
		if w.Kind == Delete && w.Op.Version.Timestamp == o.Version.Timestamp && w.Op.Version.Node == o.Version.Node {
			return w
		}
	}
	return nil
}

// gone: the eventual write went with a node that was removed.
func (k *key) gone(w *write) bool {
	return w.fate.Kind == Lost || w.fate.Kind == Superseded && slices.Contains(k.removed, w.version.Node)
}

// overruled: a linearizable write stands, or may stand, above base and at or
// below index (no bound if it is 0).
func (k *key) overruled(base, index uint64) bool {
	for _, w := range k.writes {
		if !w.linearizable() {
			continue
		}
		if i := w.version.Index; i == 0 || i > base && (index == 0 || i <= index) {
			return true
		}
	}
	return false
}

func violation(rule string, k *key, ops []*Op, why string, args ...any) Violation {
	v := Violation{Rule: rule, Key: k.name, Why: fmt.Sprintf(why, args...)}
	for _, o := range ops {
		v.Ops = append(v.Ops, *o)
	}
	slices.SortStableFunc(v.Ops, func(a, b Op) int { return cmp.Compare(a.Invoke, b.Invoke) })
	return v
}

// covered is the moment up to which a read is sure to see what was
// acknowledged; false for an eventual one, which is sure of nothing.
func (o *Op) covered() (time.Duration, bool) {
	switch o.Level {
	case Linearizable:
		return o.Invoke, true
	case Bounded:
		return o.Invoke - min(o.Staleness, o.MaxStaleness), true
	}
	return 0, false
}

func quoted(o *Op) string {
	if o.Kind == Put || o.Found {
		return o.Value
	}
	return strings.ToLower([...]string{"nothing", "", "the delete"}[o.Kind])
}
