package nemesis

import (
	"cmp"
	"slices"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

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

func compare(a, b lab.Link) int {
	return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
}

// apart are the groups of nodes that still reach each other whole, both ways, and
// nobody of another group, smaller ones first; without nodes that reach all. None,
// if links make no such groups.
func apart(nodes []string, cut []lab.Link) (groups [][]string) {
	lost := map[lab.Link]bool{}
	for _, l := range cut {
		lost[l], lost[lab.Link{From: l.To, To: l.From}] = true, true
	}
	reaches := func(a, b string) bool { return !lost[lab.Link{From: a, To: b}] }
	var some []string // do not reach all
	for _, a := range nodes {
		if slices.ContainsFunc(nodes, func(b string) bool { return !reaches(a, b) }) {
			some = append(some, a)
		}
	}
	for _, a := range some {
		joined := false
		for i, group := range groups {
			if joined = reaches(a, group[0]); joined {
				groups[i] = append(group, a)
				break
			}
		}
		if !joined {
			groups = append(groups, []string{a})
		}
	}
	in := map[string]int{}
	for i, group := range groups {
		for _, a := range group {
			in[a] = i
		}
	}
	for _, a := range some {
		for _, b := range some {
			if reaches(a, b) != (in[a] == in[b]) {
				return nil
			}
		}
	}
	slices.SortStableFunc(groups, func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
	return groups
}
