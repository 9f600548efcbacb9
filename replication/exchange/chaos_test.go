package exchange

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// seeds is how many worlds a test plays; CAPSTAN_SEEDS asks for more.
func seeds(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("CAPSTAN_SEEDS")); err == nil {
		return n
	}
	if testing.Short() {
		return min(usual, 5)
	}
	return usual
}

// storm plays random cuts, one-way ones too, power cuts and restarts, leaders
// that change, replicas that do not apply, answers that are lost, messages that
// come late, twice and out of order, while all nodes take writes.
type storm struct {
	*world
	rng  *rand.Rand
	acks []acknowledged
	done chan acknowledged
	busy int
	seen map[copyAt]bool
}

// copyAt is a write that a node held at some time.
type copyAt struct {
	node      partition.NodeID
	partition partition.ID
	dot       storage.Dot
}

type acknowledged struct {
	Accepted
	partition partition.ID
}

// Whatever happens: an acknowledged write is held until it is decided, and what
// a node holds it forgets only when its state, or the state it reads from, has
// the fate. After all is healed nothing is left undecided, no acknowledged
// write has vanished, and replicas are equal byte for byte.
func TestStorms(t *testing.T) {
	for seed := range seeds(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, options{
				nodes: 5, seed: uint64(seed),
				partitions: [][]partition.NodeID{{"n1", "n2", "n3"}, {"n3", "n4", "n5"}},
			}, func(t *testing.T, w *world) {
				s := &storm{world: w, rng: rand.New(rand.NewPCG(uint64(seed), 2)), done: make(chan acknowledged, 120*5), seen: map[copyAt]bool{}}
				w.net.set(func(n *network) {
					n.twice = 0.1 * float64(s.rng.IntN(3))
					n.slow = time.Duration(1+s.rng.IntN(80)) * time.Millisecond
				})
				for range 120 {
					s.step()
					s.wait(time.Duration(s.rng.IntN(300)) * time.Millisecond)
					s.check()
				}
				s.calm()
			})
		})
	}
}

// wait takes in what was acknowledged meanwhile.
func (s *storm) wait(d time.Duration) {
	timer := time.After(d)
	for {
		select {
		case a := <-s.done:
			s.busy--
			if !a.Dot.IsZero() {
				s.acks = append(s.acks, a)
			}
		case <-timer:
			return
		}
	}
}

func (s *storm) step() {
	up := s.up()
	n := up[s.rng.IntN(len(up))]
	g := s.groups[s.rng.IntN(len(s.groups))]
	switch s.rng.IntN(24) {
	case 0, 1:
		var sides [2][]partition.NodeID
		for _, id := range s.ids() {
			i := s.rng.IntN(2)
			sides[i] = append(sides[i], id)
		}
		s.net.cut(sides[0], sides[1])
	case 2:
		s.net.cutOneWay(n.id, up[s.rng.IntN(len(up))].id)
	case 3, 4:
		s.net.heal()
	case 5, 6:
		s.restart(n)
	case 7:
		g.transfer(g.replicas[s.rng.IntN(len(g.replicas))])
	case 8, 9:
		if r := n.replicas[g.partition]; r != nil {
			r.freeze(s.rng.IntN(2) == 0)
		}
	case 10:
		kind := uint8(40 + s.rng.IntN(4))
		s.net.set(func(n *network) { n.loseAnswers[kind] = !n.loseAnswers[kind] })
	case 11:
		g.mu.Lock()
		g.unknown = s.rng.IntN(3)
		g.mu.Unlock()
	case 12:
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, _ = s.tryPut(ctx, g.partition, s.key(), "linearizable") // as it comes
	default:
		for range 1 + s.rng.IntN(5) {
			s.accept(n, g.partition)
		}
	}
}

func (s *storm) key() string { return fmt.Sprint("k", s.rng.IntN(6)) }

// accept has a node take a write, beside what goes on.
func (s *storm) accept(n *node, p partition.ID) {
	w := Write{Partition: p, Key: []byte(s.key()), Acks: 1 + s.rng.IntN(3), Delete: s.rng.IntN(5) == 0}
	if !w.Delete {
		w.Value = fmt.Appendf(nil, "%s %d", n.id, s.rng.IntN(1000))
	}
	x := n.x // what a restart puts in its place is another
	s.busy++
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		a, err := x.Accept(ctx, w)
		if err != nil || !s.net.runs(n.end) {
			a = Accepted{} // nobody was told
		}
		s.done <- acknowledged{a, p}
	}()
}

// check holds what must hold at any time.
func (s *storm) check() {
	for _, a := range s.acks {
		holders := 0
		decided := func() bool { return s.groups[a.partition].hasPromoted(a.Dot) } // things go on meanwhile
		for _, n := range s.up() {
			r := n.replicas[a.partition]
			at := copyAt{n.id, a.partition, a.Dot}
			switch {
			case n.tentative(a.partition).Holds(a.Dot):
				holders++
				s.seen[at] = true
			case r != nil && r.PromotedHas(a.Dot):
			case r != nil && s.seen[at]:
				s.t.Errorf("%s held %v, and has neither the write nor its fate, state at %d", n.id, a.Dot, applied(r))
			case r == nil && s.seen[at] && !decided():
				s.t.Errorf("%s has lost the hint %v", n.id, a.Dot)
			}
		}
		if holders < len(a.Held) && !decided() {
			s.t.Errorf("%v is held by %d nodes, was acknowledged by %v", a.Dot, holders, a.Held)
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *storm) calm() {
	s.net.heal()
	s.net.set(func(n *network) { clear(n.loseAnswers) })
	for _, n := range s.up() {
		for _, r := range n.replicas {
			r.freeze(false)
		}
	}
	for s.busy > 0 {
		s.wait(100 * time.Millisecond)
	}
	s.check()
	s.quiet(30 * time.Second)
	s.caughtUp()
	for _, a := range s.acks {
		f := s.fate(a.partition, a.Dot)
		if f.Kind != storage.FateCommitted && f.Kind != storage.FateSuperseded {
			s.t.Errorf("acknowledged write %v: %v", a.Dot, f.Kind)
		}
	}
	if len(s.acks) < 20 {
		s.t.Errorf("only %d writes were acknowledged", len(s.acks))
	}
}

func applied(r *replica) uint64 {
	index, _ := r.Applied()
	return index
}
