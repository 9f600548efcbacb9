package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

func nodes(count int) []string {
	var all []string
	for i := range count {
		all = append(all, fmt.Sprintf("n%d", i+1))
	}
	return all
}

func find(t *testing.T, name string) Kind {
	t.Helper()
	k, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// drawn is an event of a kind for so many nodes.
func drawn(k Kind, count int, seed uint64) Event {
	p := planner{Config: Config{Nodes: nodes(count), Partitions: 4, Fault: 5e9}, random: rand.New(rand.NewPCG(seed, 0))}
	return p.event(card{k}, 0, false)
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
		"isolate":         {1, 4, 4, 4, 4},
		"bridge":          {3, 3, 3, 3, 5},
		"majorities-ring": {3, 3, 3, 3, 3},
		"one-way":         {2, 2, 3, 3, 3},
		"flapping":        {2, 2, 3, 3, 3},
	} {
		k, victims := find(t, name), map[string]bool{}
		for seed := range uint64(30) {
			e := drawn(k, 5, seed)
			if got := sizes(reached(nodes(5), e.Links)); !slices.Equal(got, want) || e.Rule != (lab.Rule{Cut: true}) {
				t.Fatalf("%s leaves groups of %v, want %v: %v", name, got, want, e)
			}
			victims[fmt.Sprint(e.Links)] = true
		}
		if len(victims) < 3 {
			t.Errorf("%s: 30 seeds hit only %v", name, victims)
		}
	}
}

// A minority is one node or more, and never so many that the others have no
// majority.
func TestMinorities(t *testing.T) {
	for count := 3; count <= 9; count++ {
		seen := map[int]bool{}
		for seed := range uint64(50) {
			groups := apart(nodes(count), drawn(find(t, "cut-minority"), count, seed).Links)
			if len(groups) != 2 || len(groups[0])+len(groups[1]) != count || len(groups[1]) <= count/2 {
				t.Fatalf("of %d nodes: %v", count, groups)
			}
			seen[len(groups[0])] = true
			if killed := drawn(find(t, "kill-minority"), count, seed).Nodes; len(killed) != (count-1)/2 {
				t.Fatalf("of %d nodes are killed: %v", count, killed)
			}
			if paused := drawn(find(t, "pause-majority"), count, seed).Nodes; len(paused) != count/2+1 {
				t.Fatalf("of %d nodes are paused: %v", count, paused)
			}
		}
		if len(seen) != (count-1)/2 {
			t.Errorf("of %d nodes minorities are as large as %v", count, seen)
		}
	}
}

// Of a one-way cut the other way is good.
func TestOneWay(t *testing.T) {
	links := drawn(find(t, "one-way"), 5, 1).Links
	for _, l := range links {
		if slices.Contains(links, lab.Link{From: l.To, To: l.From}) {
			t.Errorf("both ways are cut: %v", links)
		}
	}
	if len(links) != 6 {
		t.Errorf("%v", links)
	}
}

func TestIsolatedFromClients(t *testing.T) {
	links := drawn(find(t, "isolate"), 3, 1).Links
	alone := apart(nodes(3), links)[0]
	for _, l := range between(alone, []string{lab.Clients}) {
		if !slices.Contains(links, l) {
			t.Errorf("%s is good: %v", l, links)
		}
	}
	if len(alone) != 1 || len(links) != 6 {
		t.Errorf("%v: %v", alone, links)
	}
}

func TestMajoritiesRing(t *testing.T) {
	for count := 4; count <= 9; count++ {
		all := nodes(count)
		seen := map[string]bool{}
		for _, r := range reached(all, ring(all)) {
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

func TestApart(t *testing.T) {
	all := nodes(5)
	for want, cut := range map[string][]lab.Link{
		"[]":                       nil,
		"[[n2] [n1 n3 n4 n5]]":     between(all[1:2], []string{"n1", "n3", "n4", "n5"}),
		"[[n1 n2] [n3 n4 n5]]":     oneWay(all[:2], all[2:]),
		"[[n1] [n2] [n3 n4 n5]]":   append(between(all[:2], all[2:]), between(all[:1], all[1:2])...),
		"[[n1 n2] [n4 n5]]":        between(all[:2], all[3:]), // n3 is the bridge
		"[[n1] [n2]]":              {{From: "n1", To: "n2"}},
		"[[n5] [n1 n2 n3 n4]]":     append(between(all[4:], all[:4]), between(all[4:], []string{lab.Clients})...),
		"[[n1] [n2] [n3] [n4 n5]]": append(append(between(all[:1], all[1:]), between(all[1:2], all[2:])...), between(all[2:3], all[3:])...),
	} {
		if got := fmt.Sprint(apart(all, cut)); got != want {
			t.Errorf("%s, want %s: %v", got, want, cut)
		}
	}
	if got := apart(all, ring(all)); got != nil {
		t.Errorf("a ring makes groups: %v", got)
	}
}
