package nemesis

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Config is what a schedule is planned for.
type Config struct {
	Seed       uint64
	Nodes      []string
	Partitions int
	// Kinds are names of kinds and groups. Each comes before any comes again, in an
	// order by chance, if there is time.
	Kinds []string
	// Lab and FaultBuild say what can be done: see Available.
	Lab        lab.Kind
	FaultBuild bool
	Length     time.Duration // of the run; all is good again before its end
	Quiet      time.Duration // before each fault, and after the last one; above 0
	Fault      time.Duration // how long one lasts; above 0
	// Overlap is the chance, 0 to 1, that while a fault lasts another one begins. It
	// is over with it, or before.
	Overlap float64
}

// Plan draws a schedule. The same Config gives the same.
func Plan(c Config) (Schedule, error) {
	if err := Available(c.Kinds, c.Lab, c.FaultBuild); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	cards, err := deal(c.Kinds, c.Lab, c.FaultBuild)
	if err != nil {
		return nil, err
	}
	var last []card // what comes at most once comes last
	cards = slices.DeleteFunc(cards, func(some card) bool {
		if some[0].once {
			last = []card{some}
		}
		return some[0].once
	})
	if cards, err = c.fitting(cards); err != nil {
		return nil, err
	}
	if last, err = c.fitting(last); err != nil {
		return nil, err
	}
	p := planner{Config: c, random: rand.New(rand.NewPCG(c.Seed, 0)), cards: cards}
	var s Schedule
	step := c.Quiet + c.Fault
	for at := c.Quiet; at+step <= c.Length; at += step {
		one := p.turn
		if len(last) > 0 && at+2*step > c.Length {
			one = func() card { return last[0] }
		}
		some := p.faults(one(), at)
		if long(some) && at+2*step <= c.Length-time.Duration(len(last))*step {
			some[0].For += step
			at += step
		}
		s = append(s, some...)
	}
	slices.SortStableFunc(s, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return s, nil
}

func (c Config) check() error {
	switch {
	case c.Quiet <= 0 || c.Fault <= 0 || !(c.Overlap >= 0 && c.Overlap <= 1):
		return fmt.Errorf("quiet %s, faults of %s, overlap %v: the first two are above 0, the last is 0 to 1", c.Quiet, c.Fault, c.Overlap)
	case c.Length < 2*c.Quiet+c.Fault || c.Quiet > c.Length || c.Fault > c.Length:
		return fmt.Errorf("a run of %s has no room for a fault of %s with %s of quiet before and after it", c.Length, c.Fault, c.Quiet)
	case c.Length/(c.Quiet+c.Fault) > MaxEvents/2: // two at once
		return fmt.Errorf("a run of %s has more than %d faults of %s", c.Length, MaxEvents/2, c.Fault)
	}
	return nil
}

// fitting are the kinds that there are nodes and partitions for. Of a card, one is
// enough.
func (c Config) fitting(cards []card) ([]card, error) {
	var fit []card
	for _, some := range cards {
		var failed error
		some = slices.DeleteFunc(slices.Clone(some), func(k Kind) bool {
			if len(c.Nodes) >= k.Least && c.Partitions > 0 {
				return false
			}
			failed = fmt.Errorf("nemesis %s needs %d nodes, not %d, and a partition, of %d", k.Name, k.Least, len(c.Nodes), c.Partitions)
			return true
		})
		if len(some) == 0 {
			return nil, failed
		}
		fit = append(fit, some)
	}
	return fit, nil
}

type planner struct {
	Config
	random *rand.Rand
	cards  []card
	deck   []card // what is left of them
}

// faults are what a card stands for, and another one now and then that overlaps it.
// None, if there is no card.
func (p *planner) faults(one card, at time.Duration) []Event {
	if one == nil {
		return nil
	}
	first := p.event(one, at, false)
	if len(p.cards) < 2 || one[0].once || p.random.Float64() >= p.Overlap {
		return []Event{first}
	}
	other := p.turn()
	second := p.event(other, at, true)
	if hides(first, second) || hides(second, first) || stills(first, second) || long([]Event{second}) {
		p.deck = append([]card{other}, p.deck...) // its turn comes
		return []Event{first}
	}
	return []Event{first, second}
}

// hides reports whether nobody can find the leader that b is to hit, because of a.
func hides(a, b Event) bool {
	k, _ := Find(a.Kind)
	return k.most && b.Leader != nil
}

// starting is how soon after a fault nodes that were down can be counted on again.
const starting = 2 * time.Second

// stills reports whether b, which begins later, has nobody to hit because of a: its
// nodes are gone or stand as long as it lasts, or end themselves for what a does to
// their disks. Who stands can be killed all the same, or stopped once more.
func stills(a, b Event) bool {
	first, _ := Find(a.Kind)
	second, _ := Find(b.Kind)
	gone := first.act == kill || a.Bend.DiskFull || a.Bend.SyncError
	stands := first.act == pause
	if !(gone && second.act != shape || stands && second.act == bend) || len(b.Nodes) == 0 || b.end() >= a.end()+starting {
		return false
	}
	return !slices.ContainsFunc(b.Nodes, func(n string) bool { return !slices.Contains(a.Nodes, n) })
}

// long reports whether the first of some faults is to last for two: nodes that end in
// order and start one after the other take their time.
func long(some []Event) bool {
	if len(some) == 0 {
		return false
	}
	k, _ := Find(some[0].Kind)
	return k.act == restart
}

// turn is the next card; nil if there are none.
func (p *planner) turn() card {
	if len(p.deck) == 0 {
		p.deck = slices.Clone(p.cards)
		p.random.Shuffle(len(p.deck), func(i, j int) { p.deck[i], p.deck[j] = p.deck[j], p.deck[i] })
	}
	if len(p.deck) == 0 {
		return nil
	}
	one := p.deck[0]
	p.deck = p.deck[1:]
	return one
}

// event draws who is hit, by one of the kinds. Links and nodes are in order where
// that means nothing, so that equal ones print equal.
func (p *planner) event(one card, at time.Duration, overlaps bool) Event {
	k := one[p.random.IntN(len(one))]
	d := &dice{Rand: p.random, nodes: slices.Clone(p.Nodes), partitions: p.Partitions}
	d.Shuffle(len(d.nodes), func(i, j int) { d.nodes[i], d.nodes[j] = d.nodes[j], d.nodes[i] })
	e := k.draw(d)
	slices.SortFunc(e.Links, compare)
	if e.Nodes = slices.Clone(e.Nodes); k.act != restart {
		slices.Sort(e.Nodes)
	}
	longest := p.Fault
	e.At, e.Kind = at, k.Name
	if overlaps {
		late := time.Duration(p.random.Int64N(int64(longest)/2 + 1))
		e.At, longest = at+late, longest-late
		longest -= time.Duration(p.random.Int64N(int64(longest)/2 + 1))
	}
	if e.For == 0 || e.For > longest {
		e.For = longest
	}
	return e
}
