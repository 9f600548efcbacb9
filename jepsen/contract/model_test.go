package contract

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A model of one key under the contract: a log, nodes that have applied some of
// it and hold tentative writes, sessions that go from node to node. Run well it
// makes histories that no checker may find fault with; with a fault planted,
// histories in which some checker finds it. It is written from the contract's
// words alone, as the checkers are.

type modelWrite struct {
	*Op
	fate Fate
}

type modelState struct {
	w       *modelWrite // nil: nothing was ever written
	index   uint64
	lastLin uint64
	lin     *modelWrite // the linearizable write of index lastLin
}

type modelNode struct {
	name    string
	applied int
	held    []*modelWrite // tentative
	skew    uint64
}

type modelSession struct {
	name    string
	index   int
	dots    []*modelWrite
	highest uint64
	ended   time.Duration
}

type model struct {
	*rand.Rand
	fault    string
	now      time.Duration
	log      []*modelWrite   // entry i has index i+1
	states   []modelState    // states[i]: i entries are applied
	grew     []time.Duration // when entry i came
	nodes    []*modelNode
	sessions []*modelSession
	all      []*modelWrite
	ops      []*Op
	end      End
}

func runModel(seed uint64, fault string) *History {
	m := &model{Rand: rand.New(rand.NewPCG(seed, 1)), fault: fault, states: make([]modelState, 1), end: End{Fates: map[string]Fate{}}}
	for i := range 3 {
		m.nodes = append(m.nodes, &modelNode{name: fmt.Sprint("n", i), skew: m.Uint64N(3) * 40})
	}
	for i := range 3 {
		m.sessions = append(m.sessions, &modelSession{name: fmt.Sprint("s", i)})
	}
	for range 10 + m.IntN(50) {
		m.now += 10
		n := m.nodes[m.IntN(3)]
		switch m.IntN(6) {
		case 0: // somebody hands in
			if len(n.held) > 0 {
				w := n.held[m.IntN(len(n.held))]
				m.promote(w)
				if m.fault == "forget-early" {
					n.held = slices.DeleteFunc(n.held, func(h *modelWrite) bool { return h == w })
				}
			}
		case 1: // anti-entropy
			for _, w := range m.nodes[m.IntN(3)].held {
				m.hold(n, w)
			}
		case 2:
			m.apply(n, n.applied+m.IntN(len(m.log)-n.applied+1))
		default:
			m.client(n)
		}
	}
	for _, w := range m.all {
		if w.eventual() && !(m.fault == "drop-hint" && w.fate.Kind == 0 && m.IntN(2) == 0) {
			m.promote(w)
			m.end.Fates[w.Receipt] = w.fate
		}
	}
	m.now += 100
	m.read(m.nodes[0], &modelSession{}, Linearizable)
	h := &History{End: &m.end}
	for _, o := range m.ops {
		h.Ops = append(h.Ops, *o)
	}
	return h
}

// append adds an entry and judges it.
func (m *model) append(w *modelWrite) uint64 {
	m.log, m.grew = append(m.log, w), append(m.grew, m.now)
	index := uint64(len(m.log))
	old := m.states[index-1]
	next := old
	switch lost := m.loses(old, w); {
	case !w.eventual():
		next = modelState{w, index, index, w}
	case w.fate.Kind == Superseded:
	case lost && old.w != w:
		stale := w.Base < old.lastLin || m.fault == "base-forgotten" && old.lastLin > 0
		w.fate = Fate{Superseded, m.version(old.w, old.index)}
		if stale {
			w.fate.Version = m.version(old.lin, old.lastLin)
		}
		m.list(w, w.fate.Version, stale)
		if m.fault == "wrong-winner" {
			w.fate.Version.Index++
		}
	default:
		w.fate = Fate{Committed, m.version(w, index)}
		next = modelState{w, index, old.lastLin, old.lin}
		if old.w != nil && old.w != w && old.w.eventual() && w.Base < old.index && w.Version.Node != old.w.Version.Node {
			m.list(old.w, m.version(w, index), false)
		}
	}
	m.states = append(m.states, next)
	return index
}

func (m *model) list(w *modelWrite, winner Version, stale bool) {
	if m.fault != "unlisted" {
		m.end.Conflicts = append(m.end.Conflicts, Conflict{
			Key: "k", Value: w.Value, Delete: w.Kind == Delete, StaleBase: stale,
			Losing: w.Version, Winning: winner,
		})
	}
}

// loses: the eventual write w does not win over s.
func (m *model) loses(s modelState, w *modelWrite) bool {
	if s.w == nil {
		return false
	}
	last := s.lastLin
	switch m.fault {
	case "base-forgotten":
		return last > 0 || s.w.eventual() && !w.Version.beats(s.w.Version)
	case "skip-base":
		last = 0
	case "incumbent-base":
		if s.w.eventual() {
			last = 0
		}
	}
	switch {
	case w.Base < last:
		return true
	case !s.w.eventual():
		return false
	case m.fault == "older-wins":
		return w.Version.beats(s.w.Version)
	}
	return !w.Version.beats(s.w.Version)
}

func (m *model) version(w *modelWrite, index uint64) Version {
	if w == nil {
		return Version{}
	}
	return Version{index, w.Version.Timestamp, w.Version.Node}
}

func (m *model) promote(w *modelWrite) {
	if !slices.Contains(m.log, w) || m.fault == "promote-twice" && m.IntN(2) == 0 {
		m.append(w)
	}
}

func (m *model) hold(n *modelNode, w *modelWrite) {
	if !slices.Contains(n.held, w) && !slices.Contains(m.log[:n.applied], w) {
		n.held = append(n.held, w)
	}
}

func (m *model) apply(n *modelNode, to int) {
	n.applied = max(n.applied, to)
	n.held = slices.DeleteFunc(n.held, func(w *modelWrite) bool { return slices.Contains(m.log[:n.applied], w) })
}

// local is what an eventual read at n sees.
func (m *model) local(n *modelNode) modelState {
	s := m.states[n.applied]
	for _, w := range n.held {
		if !m.loses(s, w) {
			s = modelState{w, 0, s.lastLin, s.lin}
		}
	}
	return s
}

func (m *model) client(n *modelNode) {
	s := m.sessions[m.IntN(len(m.sessions))]
	if s.ended >= m.now {
		return
	}
	switch m.IntN(7) {
	case 0:
		m.write(n, s, Linearizable)
	case 1, 2:
		m.write(n, s, Eventual)
	case 3:
		m.read(n, s, Linearizable)
	case 4:
		m.read(n, s, Bounded)
	default:
		m.read(n, s, Eventual)
	}
}

func (m *model) op(n *modelNode, s *modelSession, level Level, kind Kind) *Op {
	o := &Op{Process: len(m.ops), Node: n.name, Level: level, Kind: kind, Key: "k", Session: s.name}
	o.Invoke = max(m.now-time.Duration(m.IntN(40)), s.ended+1)
	o.Return = m.now + time.Duration(m.IntN(40))
	s.ended = o.Return
	m.ops = append(m.ops, o)
	return o
}

// settle promotes what the session needs decided.
func (m *model) settle(s *modelSession) {
	for _, w := range s.dots {
		m.promote(w)
		if m.fault != "session-early" {
			s.index = max(s.index, slices.Index(m.log, w)+1)
		}
	}
	s.dots = nil
}

func (m *model) write(n *modelNode, s *modelSession, level Level) {
	kind := Put
	if m.IntN(6) == 0 {
		kind = Delete
	}
	w := &modelWrite{Op: m.op(n, s, level, kind)}
	if kind == Put {
		w.Value = fmt.Sprint("v", len(m.all))
	}
	m.all = append(m.all, w)
	timestamp := uint64(m.now) + n.skew
	w.Version = Version{0, timestamp, n.name}
	if level == Linearizable {
		m.settle(s)
		w.Version.Index = m.append(w)
		s.index = max(s.index, int(w.Version.Index))
		if m.fault != "token-without-timestamp" {
			s.highest = max(s.highest, timestamp)
		}
		return
	}
	w.Receipt = fmt.Sprint("r", len(m.all))
	base := n.applied
	for _, h := range n.held {
		base = max(base, int(h.Base))
	}
	if m.fault != "token-without-base" {
		base = max(base, s.index)
	}
	w.Base = uint64(base)
	if held := m.local(n).w; held != nil {
		timestamp = max(timestamp, held.Version.Timestamp+1)
	}
	for _, h := range n.held {
		timestamp = max(timestamp, h.Version.Timestamp+1)
	}
	w.Version.Timestamp = max(timestamp, s.highest+1)
	m.hold(n, w)
	m.saw(s, w, 0)
}

// saw puts what the session wrote or read into its token.
func (m *model) saw(s *modelSession, w *modelWrite, index uint64) {
	s.index = max(s.index, int(index))
	if w == nil {
		return
	}
	if m.fault != "token-without-timestamp" {
		s.highest = max(s.highest, w.Version.Timestamp)
	}
	if index == 0 && w.eventual() {
		s.dots = append(s.dots, w)
		s.index = max(s.index, int(w.Base))
	}
}

func (m *model) read(n *modelNode, s *modelSession, level Level) {
	o := m.op(n, s, level, Get)
	var at modelState
	switch level {
	case Linearizable:
		m.settle(s)
		at = m.states[len(m.log)]
	case Bounded:
		m.settle(s)
		m.apply(n, s.index)
		// All that came later is missing; it knows so since the moment before.
		o.MaxStaleness = time.Duration(m.IntN(200))
		for n.applied < len(m.log) && m.now-m.grew[n.applied]+1 > o.MaxStaleness && m.fault != "too-stale" {
			m.apply(n, n.applied+1)
		}
		if n.applied < len(m.log) {
			o.Staleness = min(m.now-m.grew[n.applied]+1, o.MaxStaleness)
		}
		at = m.states[n.applied]
	case Eventual:
		if m.fault != "session-early" {
			m.apply(n, s.index)
			for _, w := range s.dots {
				m.hold(n, w)
			}
		}
		at = m.local(n)
		o.Tentative = at.w != nil && at.index == 0
	}
	index := at.index
	if at.w == nil || at.w.Kind == Delete {
		if index > 0 || at.w == nil {
			index = uint64(n.applied)
		}
		o.Tentative = false
	} else {
		o.Found, o.Value, o.Version = true, at.w.Value, m.version(at.w, at.index)
	}
	m.saw(s, at.w, index)
}

const modelRuns = 1000

func TestGoodModelIsGood(t *testing.T) {
	ops := 0
	for seed := range uint64(modelRuns) {
		h := runModel(seed, "")
		ops += len(h.Ops)
		if got := Check(h, time.Minute); len(got) > 0 {
			t.Fatalf("seed %d: %v", seed, got)
		}
	}
	t.Logf("%d operations", ops)
}

func TestFaultsOfTheModelAreFound(t *testing.T) {
	for _, fault := range []string{
		"skip-base", "incumbent-base", "older-wins", "promote-twice", "forget-early", "drop-hint", "unlisted",
		"session-early", "token-without-base", "token-without-timestamp", "too-stale",
		"base-forgotten", "wrong-winner",
	} {
		t.Run(fault, func(t *testing.T) {
			found, bad := map[string]int{}, 0
			for seed := range uint64(modelRuns) {
				got := Check(runModel(seed, fault), time.Minute)
				for _, v := range got {
					found[v.Rule]++
				}
				if len(got) > 0 {
					bad++
				}
			}
			t.Logf("%d of %d: %v", bad, modelRuns, found)
			if bad == 0 {
				t.Error("not found")
			}
		})
	}
}
