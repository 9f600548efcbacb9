package reports

import (
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

// modelWrite is one eventual write: where it is held, and where it is on its way to.
type modelWrite struct {
	acceptor   int
	base       uint64
	draft      bool // its acceptor counts it by itself
	held, sent []int
	decided    bool
}

// modelNode is one member's tentative log of one partition.
type modelNode struct{ heard, saved uint64 }

type model struct {
	index  uint64 // committed so far
	nodes  []modelNode
	writes []*modelWrite
}

// undecidedBase is what storage.TentativeLog promises.
func (m *model) undecidedBase(n int) uint64 {
	m.nodes[n].saved = m.nodes[n].heard
	lowest := m.nodes[n].saved
	for _, w := range m.writes {
		if w.draft && w.acceptor == n || !w.decided && slices.Contains(w.held, n) {
			lowest = min(lowest, w.base)
		}
	}
	return lowest
}

func (m *model) step(t *rapid.T) {
	n := rapid.IntRange(0, len(m.nodes)-1).Draw(t, "node")
	var w *modelWrite
	if len(m.writes) > 0 {
		w = m.writes[rapid.IntRange(0, len(m.writes)-1).Draw(t, "write")]
	}
	switch action := rapid.IntRange(0, 7).Draw(t, "action"); {
	case action == 0:
		m.index++
	case action == 1:
		m.nodes[n].heard = m.index
	case action == 2: // accepted, and perhaps not kept here but elsewhere
		w := &modelWrite{acceptor: n, base: m.nodes[n].heard, draft: true}
		for to := range m.nodes {
			if rapid.Bool().Draw(t, "to") {
				w.sent = append(w.sent, to)
			}
		}
		m.writes = append(m.writes, w)
		if rapid.Bool().Draw(t, "at once") {
			w.held, w.sent, w.draft = w.sent, nil, false
		}
	case w == nil:
	case action == 3 && w.draft && len(w.sent) > 0: // arrives, or is lost
		to := w.sent[0]
		w.sent = w.sent[1:]
		if rapid.IntRange(0, 3).Draw(t, "lost") > 0 && !slices.Contains(w.held, to) {
			w.held = append(w.held, to)
		}
	case action == 4 && w.draft && len(w.sent) == 0:
		w.draft = false
	case action == 5 && len(w.held) > 0 && !w.decided: // exchanged: whoever holds it passes it on
		if !slices.Contains(w.held, n) {
			w.held = append(w.held, n)
		}
	case action == 6 && len(w.held) > 0: // promoted, and applied or told wherever it was held
		w.decided = true
	case action == 7: // a crash: drafts are given up, and what was not durable is unheard of
		m.nodes[n].heard = m.nodes[n].saved
		for _, w := range m.writes {
			if w.draft && w.acceptor == n {
				w.draft, w.sent = false, nil
			}
			if !w.decided && slices.Contains(w.held, n) {
				m.nodes[n].heard = max(m.nodes[n].heard, w.base)
			}
		}
	}
}

func ringOf(names ...partition.NodeID) *control.State {
	s := &control.State{ClusterID: "c", Epoch: 1}
	for _, name := range names {
		s.Nodes = append(s.Nodes, control.Node{ID: name, State: control.Alive})
	}
	return s
}

// Whatever members accept, pass on and forget while a poll goes on, and for ever
// after: nothing undecided has a base below its floor.
func TestNothingUndecidedIsBelowAFloor(t *testing.T) {
	names := []partition.NodeID{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{nodes: make([]modelNode, rapid.IntRange(2, 3).Draw(t, "nodes"))}
		members := names[:len(m.nodes)]
		highest := uint64(0)
		steps := func(most int) {
			for range rapid.IntRange(0, most).Draw(t, "steps") {
				m.step(t)
				for i, w := range m.writes {
					if w.base < highest && !w.decided && (w.draft || len(w.held) > 0) {
						t.Fatalf("write %d %+v is below the floor %d", i, *w, highest)
					}
				}
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "polls") {
			poll := NewPoll(ringOf(members...), []partition.ID{0}, nil)
			poll.Reach(func(partition.NodeID) bool { return true })
			for again := true; again; again = poll.Next() {
				for _, n := range rapid.Permutation(indexes(len(m.nodes))).Draw(t, "order") {
					steps(8)
					poll.Take(members[n], Answer{Bases: []Base{{Partition: 0, Undecided: m.undecidedBase(n)}}})
				}
			}
			floor, _ := poll.Floor(0)
			highest = max(highest, floor)
			steps(10)
		}
	})
}

// The reason for the second round: b promises much, then takes a write with an
// old base from a, which then promises as much, since it does not hold the
// write itself.
func TestAWriteChangesHandsBetweenTwoAnswers(t *testing.T) {
	m := &model{index: 100, nodes: []modelNode{{heard: 50}, {heard: 100}}}
	poll := NewPoll(ringOf("a", "b"), []partition.ID{0}, nil)
	answer := func(n int) {
		poll.Take(poll.Members[n], Answer{Bases: []Base{{Partition: 0, Undecided: m.undecidedBase(n)}}})
	}
	answer(1)
	m.writes = append(m.writes, &modelWrite{acceptor: 0, base: 50, held: []int{1}})
	m.nodes[0].heard = 100
	answer(0)
	for poll.Next() {
		answer(0)
		answer(1)
	}
	if floor, by := poll.Floor(0); floor > 50 || !slices.Contains(by, "b") {
		t.Fatalf("floor %d, held back by %v, and b holds a write with base 50", floor, by)
	}
}

func indexes(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestPolls(t *testing.T) {
	ring := ringOf("a", "b", "c")
	ring.Epoch = 9
	ring.Nodes = append(ring.Nodes, control.Node{ID: "x", State: control.Left, RemovedEpoch: 7}, control.Node{ID: "y", State: control.Left, RemovedEpoch: 4})
	all := func(partition.NodeID) bool { return true }
	says := func(bases ...Base) Answer { return Answer{Bases: bases} }
	begin := func() *Poll {
		p := NewPoll(ring, []partition.ID{1, 2}, []partition.NodeID{"x", "y"})
		if p.Question.Epoch != 7 || !slices.Equal(p.Members, []partition.NodeID{"a", "b", "c"}) {
			t.Fatalf("%+v", p)
		}
		p.Reach(all)
		return p
	}
	floorIs := func(p *Poll, id partition.ID, want uint64, by ...partition.NodeID) {
		t.Helper()
		if floor, heldBackBy := p.Floor(id); floor != want || !slices.Equal(heldBackBy, by) {
			t.Errorf("partition %d: floor %d held back by %v, want %d by %v", id, floor, heldBackBy, want, by)
		}
	}

	p := begin()
	floorIs(p, 1, 0, "a", "b", "c") // nobody was asked
	p.Take("a", says(Base{1, 10, 0}, Base{2, 10, 0}))
	p.Take("b", says(Base{1, 20, 0}, Base{2, 20, 1}))
	p.Take("c", says(Base{1, 30, 0}))
	floorIs(p, 1, 0, "a", "b", "c") // once is not enough
	if p.Forfeitable(1, "x") {
		t.Error("forfeitable after one round")
	}
	if !p.Next() || fmt.Sprint(p.Question.Partitions) != "[1]" {
		t.Fatalf("the second round asks about %v", p.Question.Partitions)
	}
	p.Take("a", says(Base{1, 15, 0}))
	p.Take("b", says(Base{1, 12, 2}))
	p.Take("c", says(Base{1, 40, 0}))
	if p.Next() {
		t.Error("a third round")
	}
	floorIs(p, 1, 10, "a")
	floorIs(p, 2, 0, "c") // c had nothing to say
	for node, want := range map[partition.NodeID]bool{"x": true, "y": false, "z": false} {
		if got := p.Forfeitable(1, node); got != want {
			t.Errorf("%s is forfeitable: %v", node, got)
		}
		if p.Forfeitable(2, node) {
			t.Errorf("%s is forfeitable where c had nothing to say", node)
		}
	}

	p = begin()
	if p.Reach(func(n partition.NodeID) bool { return n != "b" }) {
		t.Error("a poll without b")
	}
	floorIs(p, 1, 0, "b")

	p = NewPoll(&control.State{}, []partition.ID{0}, nil) // no cluster
	if p.Next() {                                         // as if that had been the last
		t.Error("a round about no members")
	}
	if floor, _ := p.Floor(0); floor != 0 || p.Forfeitable(0, "x") {
		t.Error("a poll of nobody permits something")
	}
}
