package check

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// A model of a cluster under the contract: one log, nodes that have applied some
// of it and hold tentative writes, a cut that comes and goes. The real generators
// play to it. Run well it makes histories that no checker may find fault with; with
// a fault planted, histories in which one does.

type modelWrite struct {
	*history.Op
	index     int
	timestamp int
	node      string
	fate      string
	winner    modelState
}

func (w *modelWrite) version(index int) string {
	return strconv.Itoa(index) + "-" + strconv.Itoa(w.timestamp) + "-" + w.node
}

func (w *modelWrite) beats(o *modelWrite) bool {
	return w.timestamp > o.timestamp || w.timestamp == o.timestamp && w.node > o.node
}

type modelState struct {
	w       *modelWrite // nil: nothing was ever written
	index   int
	lastLin int
	lin     *modelWrite // the linearizable write of index lastLin
}

// linearizable is the state right after the last linearizable write.
func (s modelState) linearizable() modelState { return modelState{s.lin, s.lastLin, s.lastLin, s.lin} }

func (s modelState) there() bool { return s.w != nil && s.w.Func == history.Put }

// modelEntry of the log. after is the key's state from then on.
type modelEntry struct {
	w     *modelWrite
	key   string
	after modelState
	at    time.Duration
}

type modelNode struct {
	name    string
	away    bool // on the smaller side of a cut
	applied int
	states  map[string]modelState
	held    []*modelWrite
	clock   int
	skew    int
}

// modelCall is an operation under way.
type modelCall struct {
	slot    int
	op      *history.Op
	node    *modelNode
	decided bool
	answer  history.Op
	silent  bool // its answer gets lost
}

type model struct {
	*rand.Rand
	fault  string
	now    time.Duration
	log    []modelEntry
	leader map[string]modelState
	nodes  []*modelNode
	all    []*modelWrite
	h      *history.History

	sessions map[string]*modelSession
}

// seldom is by chance, for faults that would be too easy to find.
func (m *model) seldom() bool { return m.IntN(4) == 0 }

func runModel(w workload.Workload, seed uint64, fault string, steps int) *history.History {
	m := &model{
		Rand: rand.New(rand.NewPCG(seed, 1)), fault: fault, leader: map[string]modelState{},
		h: &history.History{Run: history.Run{Format: history.Format, Workloads: []string{w.Name}}, End: &history.End{Settled: true, Asked: true}},
	}
	for i := range 5 {
		name := fmt.Sprint("n", i)
		m.h.Run.Nodes = append(m.h.Run.Nodes, name)
		m.nodes = append(m.nodes, &modelNode{name: name, states: map[string]modelState{}, skew: m.IntN(3) * 40})
	}
	slots := 10
	g := w.New(workload.Config{Seed: seed, Nodes: m.h.Run.Nodes, Processes: slots, OpsPerKey: 60, ElectionTimeout: 100 * time.Millisecond})
	process := make([]int, slots)
	busy := make([]*modelCall, slots)
	for i := range process {
		process[i] = i
	}
	for range steps {
		m.now += time.Millisecond
		n := m.nodes[m.IntN(len(m.nodes))]
		switch m.IntN(14) {
		case 0:
			if m.IntN(20) == 0 {
				cut := m.IntN(2) == 0
				for i, n := range m.nodes {
					n.away = cut && i < 2
				}
			}
		case 1, 2: // somebody hands in
			if !n.away && len(n.held) > 0 {
				m.promote(n, n.held[m.IntN(len(n.held))])
			}
		case 3: // anti-entropy
			if o := m.nodes[m.IntN(len(m.nodes))]; o.away == n.away {
				for _, w := range o.held {
					m.hold(n, w)
				}
			}
		case 4, 5:
			if !n.away {
				m.apply(n, n.applied+m.IntN(len(m.log)-n.applied+1))
			}
		default:
			slot := m.IntN(slots)
			c := busy[slot]
			switch {
			case c == nil:
				o, ok := g.Next(slot)
				if ok {
					busy[slot] = m.invoke(o, slot, process[slot])
				}
			case !c.decided:
				m.decide(c)
			default:
				m.answer(c)
				if c.op.Outcome == history.Info {
					process[slot] += slots
				}
				g.Done(slot, *c.op)
				busy[slot] = nil
			}
		}
	}
	m.settle()
	for i, o := range g.Final() {
		m.now += time.Millisecond
		o.Final = true
		c := m.invoke(o, slices.Index(m.h.Run.Nodes, o.Node), 1_000_000+i)
		m.now += time.Millisecond
		m.decide(c)
		m.now += time.Millisecond
		m.answer(c)
	}
	m.ask()
	m.h.Length = m.now
	return m.h
}

// settle heals, promotes and applies all.
func (m *model) settle() {
	for _, n := range m.nodes {
		n.away = false
	}
	for _, w := range m.all {
		holds := func(n *modelNode) bool { return slices.Contains(n.held, w) }
		if w.Level == history.Eventual && slices.ContainsFunc(m.nodes, holds) {
			m.promote(m.nodes[slices.IndexFunc(m.nodes, holds)], w)
		}
	}
	for _, n := range m.nodes {
		m.apply(n, len(m.log))
	}
}

// ask writes down what became of eventual writes.
func (m *model) ask() {
	for _, w := range m.all {
		if w.Level != history.Eventual {
			continue
		}
		f := history.Fate{Op: w.ID, Receipt: w.Receipt, Fate: w.fate}
		switch w.fate {
		case "":
			f.Fate = "pending"
		case "committed":
			f.Version = w.version(w.index)
		case "superseded":
			f.Version = w.winner.w.version(w.winner.index)
		}
		if w.Op.Receipt != "" {
			m.h.Fates = append(m.h.Fates, f)
		}
	}
}

func (m *model) invoke(o history.Op, slot, process int) *modelCall {
	if o.Node == "" {
		o.Node = m.h.Run.Nodes[slot%len(m.nodes)]
	}
	n := m.nodes[slices.Index(m.h.Run.Nodes, o.Node)]
	o.ID, o.Process, o.Workload, o.NodeID, o.Invoke = len(m.h.Ops), process, m.h.Run.Workloads[0], n.name, m.now
	m.h.Ops = append(m.h.Ops, o)
	began := o
	c := &modelCall{slot: slot, op: &began, node: n, answer: o}
	c.silent = !o.Final && m.IntN(30) == 0
	return c
}

// decide is the moment at which the operation takes effect, or is refused.
func (m *model) decide(c *modelCall) {
	c.decided = true
	o, n := &c.answer, c.node
	if o.Level != history.Eventual && n.away && !(o.Level == history.Bounded && m.fault == "too-stale") {
		o.Outcome = history.Fail
		return
	}
	if !m.ready(n, o) {
		o.Outcome = history.Fail
		return
	}
	o.Outcome = history.OK
	defer func() {
		if !c.silent {
			m.told(o, n)
		}
	}()
	switch {
	case o.Func == history.Scan:
		switch {
		case o.Level == history.Bounded:
			m.catchUp(n, o)
			m.scan(o, n.states, nil)
		case m.fault == "torn-scan":
			m.scan(o, m.leader, n.states)
		default:
			m.scan(o, m.leader, nil)
		}
	case o.Write() && o.Level == history.Eventual:
		m.accept(c)
	case o.Write():
		m.write(c)
	case o.Level == history.Eventual:
		m.show(o, m.local(n, o.Key))
	case o.Level == history.Bounded:
		m.catchUp(n, o)
		m.show(o, n.states[o.Key])
	case m.fault == "stale-read" && m.seldom():
		m.show(o, n.states[o.Key])
	default:
		m.show(o, m.leader[o.Key])
	}
}

// catchUp has a node apply what the bound of a read does not allow to be missing.
func (m *model) catchUp(n *modelNode, o *history.Op) {
	for n.applied < len(m.log) && m.now-m.log[n.applied].at+1 > o.MaxStaleness && m.fault != "too-stale" {
		m.apply(n, n.applied+1)
	}
	if o.StalenessKnown = true; n.applied < len(m.log) {
		o.Staleness = min(m.now-m.log[n.applied].at+1, o.MaxStaleness)
	}
}

func (m *model) show(o *history.Op, s modelState) {
	if s.there() {
		o.Found, o.Value, o.Version, o.Tentative = true, s.w.Value, s.w.version(s.index), s.index == 0
	}
}

func (m *model) answer(c *modelCall) {
	o := c.answer
	if c.silent && (o.Outcome == history.OK || o.Mismatch) {
		began := *c.op
		began.Outcome = history.Info
		if o.Write() && o.Level == history.Eventual && m.IntN(2) == 0 {
			began.Receipt = o.Receipt
		}
		o = began
	}
	o.Invoke, o.Return = c.op.Invoke, m.now
	*c.op = o
	m.h.Ops[o.ID] = o
}

func (m *model) write(c *modelCall) {
	o, n := &c.answer, c.node
	s := m.leader[o.Key]
	if m.fault == "old-condition" && m.seldom() {
		s = n.states[o.Key]
	}
	holds := true
	switch o.Condition {
	case history.IfAbsent:
		holds = !s.there()
	case history.IfPresent:
		holds = s.there()
	case history.IfVersion:
		holds = s.there() && s.w.version(s.index) == o.ExpectVersion
	}
	if m.fault == "no-condition" && m.seldom() {
		holds = true
	}
	if !holds {
		if o.Outcome, o.Mismatch = history.Fail, true; m.IntN(8) > 0 {
			if o.Reason = "CONDITION_FAILED"; s.there() {
				o.Version = s.w.version(s.index)
			}
		}
		return
	}
	w := &modelWrite{Op: c.op, timestamp: m.tick(n, 0), node: n.name}
	if m.fault == "lost-write" && m.seldom() && m.IntN(5) == 0 {
		o.Version = w.version(len(m.log) + 1)
		return
	}
	m.all = append(m.all, w)
	w.index = m.append(w)
	o.Version = w.version(w.index)
	switch {
	case m.fault == "refused-and-done" && m.seldom():
		o.Outcome, o.Version = history.Fail, ""
	case m.fault == "retried" && o.Condition != history.Always && m.seldom():
		o.Outcome, o.Mismatch = history.Fail, true
	}
}

func (m *model) tick(n *modelNode, above int) int {
	n.clock = max(n.clock+1, int(m.now/time.Millisecond)+n.skew, above+1)
	return n.clock
}

// accept takes an eventual write.
func (m *model) accept(c *modelCall) {
	o, n := &c.answer, c.node
	holders := []*modelNode{n}
	for _, other := range m.nodes {
		if other != n && other.away == n.away && len(holders) < o.Acks {
			holders = append(holders, other)
		}
	}
	if len(holders) < o.Acks {
		o.Outcome = history.Fail
		return
	}
	base, above := n.applied, 0
	for _, h := range n.held {
		base = max(base, int(h.Base))
		if h.Key == o.Key {
			above = max(above, h.timestamp)
		}
	}
	if s := n.states[o.Key]; s.w != nil {
		above = max(above, s.w.timestamp)
	}
	if o.Session != "" && m.fault != "session-ignored" {
		base, above = max(base, m.session(o.Session).index), max(above, m.session(o.Session).highest)
	}
	o.Receipt, o.Base = fmt.Sprint("r", o.ID), uint64(base)
	w := &modelWrite{Op: &c.answer, timestamp: m.tick(n, above), node: n.name}
	o.Version = w.version(0)
	m.all = append(m.all, w)
	if m.fault == "lost-hint" && m.seldom() && n.away {
		return
	}
	for _, h := range holders {
		m.hold(h, w)
	}
}

func (m *model) hold(n *modelNode, w *modelWrite) {
	if !slices.Contains(n.held, w) && !(w.index > 0 && w.index <= n.applied) {
		n.held = append(n.held, w)
	}
}

func (m *model) promote(n *modelNode, w *modelWrite) {
	if w.index == 0 || m.fault == "promoted-twice" && m.seldom() {
		w.index = m.append(w)
	}
	if m.fault == "forgotten-early" {
		n.held = slices.DeleteFunc(n.held, func(h *modelWrite) bool { return h == w })
	}
}

// append adds an entry and judges it.
func (m *model) append(w *modelWrite) int {
	index := len(m.log) + 1
	old := m.leader[w.Key]
	next := old
	switch lost := m.loses(old, w); {
	case w.Level != history.Eventual:
		next = modelState{w, index, index, w}
	case w.fate == "superseded":
	case lost && old.w != w:
		w.fate, w.winner = "superseded", old
		cause := "older"
		if int(w.Base) < old.lastLin || m.fault == "base-forgotten" && old.lastLin > 0 {
			cause, w.winner = "stale-base", old.linearizable()
		}
		m.list(w, w.winner, cause)
	default:
		w.fate = "committed"
		next = modelState{w, index, old.lastLin, old.lin}
		if old.w != nil && old.w != w && old.w.Level == history.Eventual && int(w.Base) < old.index && w.node != old.w.node {
			m.list(old.w, next, "older")
		}
	}
	m.log = append(m.log, modelEntry{w, w.Key, next, m.now})
	m.leader[w.Key] = next
	return index
}

func (m *model) list(w *modelWrite, by modelState, cause string) {
	if m.fault == "unlisted" {
		return
	}
	m.h.Conflicts = append(m.h.Conflicts, history.Conflict{
		Key: w.Key, Value: w.Value, Delete: w.Func == history.Delete, Losing: w.version(0), Winning: by.w.version(by.index), Cause: cause,
	})
}

// loses: the eventual write w does not win over s.
func (m *model) loses(s modelState, w *modelWrite) bool {
	switch {
	case s.w == nil, m.fault == "tombstone-dropped" && s.w.Func == history.Delete:
		return false
	case m.fault == "base-forgotten" && s.lastLin > 0:
		return true
	case int(w.Base) < s.lastLin && m.fault != "base-ignored":
		return true
	case s.w.Level != history.Eventual:
		return false
	case m.fault == "older-wins":
		return w.beats(s.w)
	}
	return !w.beats(s.w)
}

func (m *model) apply(n *modelNode, to int) {
	for ; n.applied < to; n.applied++ {
		if e := m.log[n.applied]; m.fault != "diverged" || m.IntN(20) > 0 {
			n.states[e.key] = e.after
		}
	}
	n.held = slices.DeleteFunc(n.held, func(w *modelWrite) bool { return w.index > 0 && w.index <= n.applied })
}

func (m *model) local(n *modelNode, key string) modelState {
	s := n.states[key]
	for _, w := range n.held {
		if w.Key == key && !m.loses(s, w) {
			s = modelState{w, 0, s.lastLin, s.lin}
		}
	}
	return s
}

// modelled are the workloads that the model can play, and how many steps it takes.
var modelled = []string{"register", "set", "counter", "mixed", "eventual", "session", "staleness", "delete", "scan"}

const (
	modelRuns  = 5
	modelSteps = 6000
)

func TestGoodModelIsGood(t *testing.T) {
	for _, name := range modelled {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, err := workload.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			ops, seen := 0, map[string]int{}
			for seed := range uint64(modelRuns) {
				h := runModel(w, seed, "", modelSteps)
				ops += len(h.Ops)
				r := Check(h, Options{})
				if r.Verdict != Holds {
					t.Fatalf("seed %d: %s %v", seed, r.Sentence, r.Findings)
				}
				for _, c := range r.Workloads[0].Checkers {
					seen[c.Name] += c.Seen
				}
			}
			t.Logf("%d operations, judged %v", ops, seen)
			for _, c := range Checkers(name) {
				if seen[c.Name] == 0 {
					t.Errorf("%s had nothing to judge", c.Name)
				}
			}
		})
	}
}

func TestFaultsOfTheModelAreFound(t *testing.T) {
	for fault, by := range map[string]string{ // workloads, and what finds it there
		"stale-read":        "register linearizable, register versions, delete linearizable, set stale, counter bounds, counter monotonic, mixed mixing, mixed versions",
		"old-condition":     "register linearizable, set lost, set forked, counter bounds, counter final, mixed mixing",
		"no-condition":      "register linearizable, set lost, counter bounds, mixed mixing",
		"lost-write":        "register linearizable, set lost, counter bounds, counter final, mixed mixing",
		"refused-and-done":  "register answers, set phantom, counter bounds, counter final, mixed answers",
		"retried":           "register linearizable, set phantom, counter bounds",
		"base-ignored":      "mixed precedence",
		"older-wins":        "mixed precedence, eventual order",
		"promoted-twice":    "session answers, delete answers, mixed answers, eventual answers",
		"forgotten-early":   "session own writes, mixed own writes, eventual own writes",
		"lost-hint":         "mixed fates, eventual fates, session fates, delete fates",
		"unlisted":          "mixed fates, eventual fates",
		"base-forgotten":    "mixed superseded, delete superseded, session superseded",
		"diverged":          "mixed converged, eventual converged",
		"too-stale":         "mixed versions, staleness bound, staleness age, scan one moment",
		"session-ignored":   "session read your writes, session monotonic reads, session monotonic writes, session writes follow reads",
		"tombstone-dropped": "delete no resurrection, delete overwrites",
		"torn-scan":         "scan one moment",
		"phantom-key":       "scan answers",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			wanted := map[string]map[string]int{}
			for one := range strings.SplitSeq(by, ", ") {
				name, checker, _ := strings.Cut(one, " ")
				if wanted[name] == nil {
					wanted[name] = map[string]int{}
				}
				wanted[name][checker] = 0
			}
			for _, name := range slices.Sorted(maps.Keys(wanted)) {
				w, err := workload.Find(name)
				if err != nil {
					t.Fatal(err)
				}
				found := map[string]int{}
				for seed := range uint64(modelRuns) {
					for _, f := range Check(runModel(w, seed, fault, modelSteps), Options{}).Findings {
						found[f.Checker]++
						if f.Undecided {
							t.Errorf("%s: %v", name, f)
						}
					}
				}
				t.Logf("%s: %v", name, found)
				for checker := range wanted[name] {
					if found[checker] == 0 {
						t.Errorf("%s: not found by %s", name, checker)
					}
				}
			}
		})
	}
}
