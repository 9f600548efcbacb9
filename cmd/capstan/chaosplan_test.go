package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// seen makes a view of one partition with voters n1, n2, n3: whom a node takes for
// its leader, in which term.
func seen(leader string, term uint64) *capstanv1.GetStatusResponse {
	part := &capstanv1.Partition{Id: 7, Leader: leader, Term: term}
	for _, r := range []string{"n1", "n2", "n3"} {
		part.Replicas = append(part.Replicas, &capstanv1.Replica{Node: r, Voter: true})
	}
	return &capstanv1.GetStatusResponse{Partitions: []*capstanv1.Partition{part}}
}

func TestSettling(t *testing.T) {
	plan, err := planCut([]string{"n1,n2", "n3"}, []string{"n1", "n2", "n3"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		seen    views
		because string // empty: settled
		leader  string
	}{
		"settled":                           {views{"n1": seen("n1", 4), "n2": seen("n1", 4), "n3": seen("", 4)}, "", "n1"},
		"a deposed leader":                  {views{"n1": seen("n1", 4), "n2": seen("n1", 4), "n3": seen("n3", 3)}, "n3 takes n3 for the leader", ""},
		"it follows one across the cut":     {views{"n1": seen("n1", 4), "n2": seen("n1", 4), "n3": seen("n1", 4)}, "n3 takes n1 for the leader", ""},
		"not elected yet":                   {views{"n1": seen("", 4), "n2": seen("", 4), "n3": seen("", 4)}, "n1 knows no leader", ""},
		"one has not heard yet":             {views{"n1": seen("n1", 4), "n2": seen("", 4), "n3": seen("", 4)}, "n2 knows no leader", ""},
		"another term":                      {views{"n1": seen("n1", 5), "n2": seen("n1", 4), "n3": seen("", 4)}, "n2 takes n1 for the leader", ""},
		"one that does not lead":            {views{"n1": seen("n2", 4), "n2": seen("n1", 4), "n3": seen("", 4)}, "n1 takes n2 for the leader", ""},
		"no quorum of those that answer":    {views{"n1": seen("n1", 4), "n3": seen("", 4)}, "n1 takes n1 for the leader", ""},
		"nobody leads, nobody could":        {views{"n1": seen("", 4), "n3": seen("", 4)}, "", ""},
		"the voter that could, is not told": {views{"n2": seen("n1", 4), "n3": seen("", 4)}, "n2 takes n1 for the leader", ""},
	} {
		open, leads := plan.settling(test.seen)
		because := ""
		if len(open) > 0 {
			because = open[0].Because
		}
		if because != test.because || leads[7] != test.leader {
			t.Errorf("%s: open %v, leads %v; want %q, %q", name, open, leads, test.because, test.leader)
		}
	}
}

// A partition whose leader can reach a quorum only through nodes in no group.
func TestSettlingAcrossABridge(t *testing.T) {
	plan, err := planCut([]string{"n1", "n3"}, []string{"n1", "n2", "n3"})
	if err != nil {
		t.Fatal(err)
	}
	if open, leads := plan.settling(views{"n1": seen("n2", 4), "n2": seen("n2", 4), "n3": seen("n2", 4)}); len(open) > 0 || leads[7] != "n2" {
		t.Errorf("all follow the bridge: open %v, leads %v", open, leads)
	}
	if open, _ := plan.settling(views{"n1": seen("n1", 4), "n2": seen("n1", 4), "n3": seen("", 4)}); len(open) != 1 || open[0].Because != "n3 knows no leader" {
		t.Errorf("n3 could follow n2: open %v", open)
	}
}

// A cut holds both ways, between groups and nowhere else.
func TestPlanCutIsSymmetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []string
		for i := range rapid.IntRange(2, 9).Draw(t, "nodes") {
			nodes = append(nodes, fmt.Sprintf("n%d", i+1))
		}
		group := make(map[string]int)
		names := make([][]string, 4)
		for _, n := range nodes {
			group[n] = rapid.IntRange(0, 4).Draw(t, n) // 4: in none
			if group[n] < 4 {
				names[group[n]] = append(names[group[n]], n)
			}
		}
		var args []string
		for _, g := range names {
			if len(g) > 0 {
				args = append(args, strings.Join(g, ","))
			}
		}
		if len(args) < 2 {
			t.Skip("fewer than two groups")
		}
		plan, err := planCut(args, nodes)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range nodes {
			for _, b := range nodes {
				want := group[a] == group[b] || group[a] == 4 || group[b] == 4
				if plan.talk(a, b) != want || plan.talk(b, a) != want {
					t.Fatalf("%v: %s and %s talk: %v, %v, want %v", args, a, b, plan.talk(a, b), plan.talk(b, a), want)
				}
			}
			if slices.Contains(plan.from[a], a) {
				t.Fatalf("%v: %s is cut off from itself", args, a)
			}
		}
	})
}
