package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// modelSession is what a session's token says.
type modelSession struct {
	index   int // applied, at least
	writes  []*modelWrite
	highest int // timestamp
}

func (m *model) session(name string) *modelSession {
	if m.sessions == nil {
		m.sessions = map[string]*modelSession{}
	}
	if m.sessions[name] == nil {
		m.sessions[name] = &modelSession{}
	}
	return m.sessions[name]
}

// ready has a node come up to what the operation's session knows. False: it can not.
func (m *model) ready(n *modelNode, o *history.Op) bool {
	if o.Session == "" || m.fault == "session-ignored" && m.seldom() {
		return true
	}
	s := m.session(o.Session)
	if o.Level != history.Eventual {
		// Its tentative writes are promoted first.
		for _, w := range s.writes {
			if w.index == 0 {
				i := slices.IndexFunc(m.nodes, func(h *modelNode) bool { return !h.away && slices.Contains(h.held, w) })
				if i < 0 {
					return false
				}
				m.promote(m.nodes[i], w)
			}
		}
		m.apply(n, len(m.log))
		return true
	}
	if o.Write() {
		return true // its base and its timestamp see to it
	}
	need := s.index
	for _, w := range s.writes {
		need = max(need, w.index)
	}
	if need > n.applied {
		if n.away {
			return false
		}
		m.apply(n, need)
	}
	for _, w := range s.writes {
		if w.index > 0 || slices.Contains(n.held, w) {
			continue
		}
		if !slices.ContainsFunc(m.nodes, func(h *modelNode) bool { return h.away == n.away && slices.Contains(h.held, w) }) {
			return false
		}
		m.hold(n, w)
	}
	return true
}

// told has the session know what the operation was answered.
func (m *model) told(o *history.Op, n *modelNode) {
	if o.Session == "" || o.Outcome != history.OK {
		return
	}
	s := m.session(o.Session)
	for _, w := range m.all {
		if o.Version != "" && (o.Version == w.version(w.index) || o.Version == w.version(0)) {
			s.highest = max(s.highest, w.timestamp)
			if w.Level == history.Eventual && !slices.Contains(s.writes, w) {
				s.writes = append(s.writes, w)
				s.index = max(s.index, int(w.Base))
			}
			s.index = max(s.index, w.index)
		}
	}
	switch {
	case o.Write() && o.Level == history.Eventual:
	case o.Level == history.Linearizable:
		s.index = max(s.index, len(m.log))
	default:
		s.index = max(s.index, n.applied)
	}
}

// scan of the whole partition that the model is.
func (m *model) scan(o *history.Op, states map[string]modelState, mixed map[string]modelState) {
	keys := map[string]bool{}
	for key := range m.leader {
		keys[key] = strings.HasPrefix(key, o.Key)
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		s := states[key]
		if mixed != nil && m.seldom() {
			s = mixed[key]
		}
		if keys[key] && s.there() {
			o.Entries = append(o.Entries, history.Entry{Key: key, Value: s.w.Value, Version: s.w.version(s.index)})
		}
	}
	if m.fault == "phantom-key" && m.seldom() {
		o.Entries = append(o.Entries, history.Entry{Key: o.Key + "z", Value: fmt.Sprint("z", o.ID)})
	}
}
