package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Kind is one way to disturb a network.
type Kind struct {
	Name  string
	What  string // in one line
	Least int    // nodes that it needs

	rule  lab.Rule
	links func(nodes []string) []lab.Link // of shuffled nodes
}

// Kinds are all there are, by name.
func Kinds() []Kind {
	cut := lab.Rule{Cut: true}
	return []Kind{
		{"bridge", "cut in halves, but for one node that both still reach", 3, cut, bridge},
		{"cut-halves", "a minority cut off from a majority", 2, cut, func(nodes []string) []lab.Link { return between(nodes[:len(nodes)/2], nodes[len(nodes)/2:]) }},
		{"cut-one", "one node cut off from all others", 2, cut, func(nodes []string) []lab.Link { return between(nodes[:1], nodes[1:]) }},
		{"duplicate", "half of all frames arrive twice, out of order", 2, lab.Rule{Duplicate: 0.5, Jitter: 20 * time.Millisecond}, all},
		{"lossy", "a fifth of all frames are lost", 2, lab.Rule{Loss: 0.2}, all},
		{"majorities-ring", "each node reaches a majority, and no two the same", 4, cut, ring},
		{"one-way", "a minority hears nothing of a majority, which hears it", 2, cut, func(nodes []string) []lab.Link { return oneWay(nodes[len(nodes)/2:], nodes[:len(nodes)/2]) }},
		{"slow", "all links take 50 to 150 ms", 2, lab.Rule{Delay: 50 * time.Millisecond, Jitter: 100 * time.Millisecond}, all},
	}
}

// Find is the kind of a name.
func Find(name string) (Kind, error) {
	kinds := Kinds()
	if i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name }); i >= 0 {
		return kinds[i], nil
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("no nemesis %q: there are %q", name, names)
}

// fault draws who is hit. Links are in order, so that equal ones print equal.
func (k Kind) fault(nodes []string, random *rand.Rand) ([]lab.Link, lab.Rule) {
	nodes = slices.Clone(nodes)
	random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	links := k.links(nodes)
	slices.SortFunc(links, compare)
	return links, k.rule
}

func oneWay(from, to []string) (links []lab.Link) {
	for _, a := range from {
		for _, b := range to {
			links = append(links, lab.Link{From: a, To: b})
		}
	}
	return links
}

func between(some, others []string) []lab.Link {
	return append(oneWay(some, others), oneWay(others, some)...)
}

func bridge(nodes []string) []lab.Link {
	sides := nodes[1:] // the first is the bridge
	return between(sides[:len(sides)/2], sides[len(sides)/2:])
}

// ring leaves each node those next to it, so many on each side that with itself
// they are a majority.
func ring(nodes []string) (links []lab.Link) {
	count := len(nodes)
	reach := (count/2 + 1) / 2
	for i, a := range nodes {
		for j, b := range nodes {
			if away := (j - i + count) % count; min(away, count-away) > reach {
				links = append(links, lab.Link{From: a, To: b})
			}
		}
	}
	return links
}

func all(nodes []string) (links []lab.Link) {
	for i, a := range nodes {
		links = append(links, between([]string{a}, nodes[i+1:])...)
	}
	return links
}
