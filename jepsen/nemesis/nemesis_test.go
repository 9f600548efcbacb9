package nemesis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

func names(count int) []string {
	var nodes []string
	for i := range count {
		nodes = append(nodes, fmt.Sprintf("n%d", i+1))
	}
	return nodes
}

// reached are the nodes that each one reaches both ways, itself included.
func reached(nodes []string, cut []lab.Link) map[string][]string {
	is := map[lab.Link]bool{}
	for _, l := range cut {
		is[l] = true
	}
	all := map[string][]string{}
	for _, a := range nodes {
		for _, b := range nodes {
			if !is[lab.Link{From: a, To: b}] && !is[lab.Link{From: b, To: a}] {
				all[a] = append(all[a], b)
			}
		}
	}
	return all
}

// sizes tells how many nodes each node reaches, in order.
func sizes(all map[string][]string) (counts []int) {
	for _, r := range all {
		counts = append(counts, len(r))
	}
	slices.Sort(counts)
	return counts
}

func TestGrudges(t *testing.T) {
	for name, want := range map[string][]int{
		"cut-halves":      {2, 2, 3, 3, 3},
		"cut-one":         {1, 4, 4, 4, 4},
		"bridge":          {3, 3, 3, 3, 5},
		"majorities-ring": {3, 3, 3, 3, 3},
		"one-way":         {2, 2, 3, 3, 3},
	} {
		k, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		nodes, victims := names(5), map[string]bool{}
		for seed := range uint64(30) {
			links, rule := k.fault(nodes, rand.New(rand.NewPCG(seed, 0)))
			if got := sizes(reached(nodes, links)); !slices.Equal(got, want) || rule != (lab.Rule{Cut: true}) {
				t.Fatalf("%s leaves groups of %v, want %v: %v", name, got, want, links)
			}
			victims[fmt.Sprint(links)] = true
		}
		if len(victims) < 3 {
			t.Errorf("%s: 30 seeds hit only %v", name, victims)
		}
	}
}

// Of a one-way cut the other way is good.
func TestOneWay(t *testing.T) {
	k, _ := Find("one-way")
	links, _ := k.fault(names(5), rand.New(rand.NewPCG(1, 0)))
	for _, l := range links {
		if slices.Contains(links, lab.Link{From: l.To, To: l.From}) {
			t.Errorf("both ways are cut: %v", links)
		}
	}
	if len(links) != 6 {
		t.Errorf("%v", links)
	}
}

func TestMajoritiesRing(t *testing.T) {
	for count := 4; count <= 9; count++ {
		nodes := names(count)
		seen := map[string]bool{}
		for _, r := range reached(nodes, ring(nodes)) {
			if len(r) <= count/2 {
				t.Errorf("of %d nodes one reaches only %v", count, r)
			}
			seen[fmt.Sprint(r)] = true
		}
		if len(seen) != count {
			t.Errorf("of %d nodes two reach the same: %v", count, seen)
		}
	}
}

// Every kind makes a schedule that its own check takes, with as few nodes as it
// says, and not with fewer.
func TestPlan(t *testing.T) {
	for _, k := range Kinds() {
		c := Config{Seed: 5, Nodes: names(k.Least), Kinds: []string{k.Name}, Length: 60 * time.Second, Quiet: 2 * time.Second, Fault: 5 * time.Second}
		s, err := Plan(c)
		if err != nil || len(s) != 8 {
			t.Fatalf("%s: %d events, %v", k.Name, len(s), err)
		}
		if err := s.Check(c.Nodes); err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
		if last := s[len(s)-1]; last.At+last.For+c.Quiet > c.Length {
			t.Errorf("%s: the last one is %+v", k.Name, last)
		}
		c.Nodes = c.Nodes[1:]
		if _, err := Plan(c); err == nil {
			t.Errorf("%s is planned for %d nodes", k.Name, len(c.Nodes))
		}
	}
	good := Config{Nodes: names(3), Kinds: []string{"slow"}, Length: time.Minute, Quiet: time.Second, Fault: time.Second}
	for what, change := range map[string]func(*Config){
		"kind": func(c *Config) { c.Kinds = []string{"none"} }, "no kind": func(c *Config) { c.Kinds = nil },
		"quiet": func(c *Config) { c.Quiet = 0 }, "fault": func(c *Config) { c.Fault = -1 }, "many": func(c *Config) { c.Length = 1 << 62 },
	} {
		bad := good
		if change(&bad); true {
			if _, err := Plan(bad); err == nil {
				t.Errorf("planned: %s", what)
			}
		}
	}
}

// A schedule is the same for the same seed, and the same when it was printed and
// read.
func TestReplay(t *testing.T) {
	var kinds []string
	for _, k := range Kinds() {
		kinds = append(kinds, k.Name)
	}
	plan := func(seed uint64) (Schedule, string) {
		s, err := Plan(Config{Seed: seed, Nodes: names(5), Kinds: kinds, Length: 5 * time.Minute, Quiet: time.Second, Fault: 3 * time.Second})
		var text bytes.Buffer
		if err := errors.Join(err, s.Write(&text)); err != nil {
			t.Fatal(err)
		}
		return s, text.String()
	}
	s, text := plan(1)
	if _, again := plan(1); again != text {
		t.Error("one seed gives two schedules")
	}
	if _, other := plan(2); other == text {
		t.Error("two seeds give one schedule")
	}
	back, err := Read(strings.NewReader(text))
	if err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("read back: %v, %v", back, err)
	}
}

func TestCheck(t *testing.T) {
	good := func() Schedule {
		return Schedule{
			{At: 1, For: 1, Rule: lab.Rule{Cut: true}, Links: []lab.Link{{From: "n1", To: "n2"}}},
			{At: 2, For: 1, Rule: lab.Rule{Cut: true}, Links: []lab.Link{{From: "n1", To: "n2"}}},
		}
	}
	if err := good().Check(names(2)); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(Schedule){
		"overlap": func(s Schedule) { s[0].For = 2 }, "length": func(s Schedule) { s[1].For = 0 }, "early": func(s Schedule) { s[0].At = -1 },
		"overflow": func(s Schedule) { s[1].For = 1<<63 - 1 }, "rule": func(s Schedule) { s[0].Rule.Loss = 2 }, "links": func(s Schedule) { s[0].Links = nil },
		"self": func(s Schedule) { s[0].Links[0].To = "n1" }, "node": func(s Schedule) { s[0].Links[0].To = "n3" },
	} {
		bad := good()
		change(bad)
		if bad.Check(names(2)) == nil {
			t.Errorf("taken: %s", what)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"at":1,"for":2,"kind":"cut-one","rule":{"cut":true},"links":[{"from":"n1","to":"n2"}]}`)
	f.Add(`{"at":1} {"loss":`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read(strings.NewReader(text))
		if err != nil || s.Check(names(3)) != nil {
			return
		}
		var printed bytes.Buffer
		if err := s.Write(&printed); err != nil {
			t.Fatal(err)
		}
		if back, err := Read(&printed); err != nil || !reflect.DeepEqual(back, s) {
			t.Fatalf("%v, then %v: %v", s, back, err)
		}
	})
}

var _ Network = lab.Lab(nil)

// network notes what it is told, and has ten frames pass whenever it is asked for
// figures.
type network struct {
	began  time.Time
	told   []string
	rules  map[lab.Link]lab.Rule
	seen   lab.Traffic
	broken error
}

func (n *network) Shape(l lab.Link, r lab.Rule) error {
	n.rules[l] = r
	n.told = append(n.told, fmt.Sprintf("%s %s cut=%t", time.Since(n.began), l, r.Cut))
	return n.broken
}

func (n *network) Traffic(l lab.Link) (lab.Traffic, error) {
	n.seen.Sent += 10
	if n.rules[l].Cut {
		n.seen.Cut += 10
	}
	return n.seen, nil
}

func newNetwork() *network { return &network{began: time.Now(), rules: map[lab.Link]lab.Rule{}} }

var oneCut = Schedule{
	{At: time.Second, For: 2 * time.Second, Kind: "cut-one", Rule: lab.Rule{Cut: true}, Links: []lab.Link{{From: "n1", To: "n2"}}},
	{At: 5 * time.Second, For: time.Second, Kind: "slow", Rule: lab.Rule{Delay: 1}, Links: []lab.Link{{From: "n2", To: "n1"}}},
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		effects, err := Run(t.Context(), n, oneCut)
		if err != nil || len(effects) != 2 {
			t.Fatalf("%v, %v", effects, err)
		}
		if want := []string{"1s n1->n2 cut=true", "3s n1->n2 cut=false", "5s n2->n1 cut=false", "6s n2->n1 cut=false"}; !slices.Equal(n.told, want) {
			t.Errorf("told %q, want %q", n.told, want)
		}
		if e := effects[0]; e.Cut != 10 || e.Sent != 10 || !e.Felt() || e.Ended.Sub(e.Began) != 2*time.Second {
			t.Errorf("%+v", e)
		}
		if e := effects[1]; e.Cut != 0 || !e.Felt() {
			t.Errorf("%+v", e)
		}
		if (Effect{Event: oneCut[0], Sent: 5}).Felt() || (Effect{Event: oneCut[1]}).Felt() {
			t.Error("a fault that did nothing was felt")
		}
	})
}

// However a run ends, its links are good again.
func TestRunHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		n := newNetwork()
		effects, err := Run(ctx, n, oneCut)
		if !errors.Is(err, context.DeadlineExceeded) || len(effects) != 1 || effects[0].Ended.Sub(effects[0].Began) != 500*time.Millisecond {
			t.Errorf("%+v, %v", effects, err)
		}
		broken := newNetwork()
		broken.broken = errors.New("broken")
		if _, err := Run(t.Context(), broken, oneCut); !errors.Is(err, broken.broken) || time.Since(broken.began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(broken.began))
		}
		for _, n := range []*network{n, broken} {
			for l, r := range n.rules {
				if r != (lab.Rule{}) {
					t.Errorf("%s is left with %+v", l, r)
				}
			}
		}
	})
}
