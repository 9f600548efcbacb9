package main

import (
	"fmt"
	"slices"
	"strings"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// cutPlan is who is to be cut off from whom. It is pure: it asks nobody.
type cutPlan struct {
	groups [][]string          // names, as they were given
	from   map[string][]string // by name: whom a node is not to talk to
}

// planCut reads groups of names, comma-separated.
func planCut(args, nodes []string) (cutPlan, error) {
	plan := cutPlan{from: make(map[string][]string)}
	seen := make(map[string]bool)
	for _, arg := range args {
		var group []string
		for name := range strings.SplitSeq(arg, ",") {
			name = strings.TrimSpace(name)
			switch {
			case !slices.Contains(nodes, name):
				e := usageErrorf("the cluster has no node %q", name)
				if near := closest(name, nodes); near != "" {
					return plan, e.hint(near)
				}
				return plan, e.hint(strings.Join(nodes, ", "))
			case seen[name]:
				return plan, usageErrorf("%s is named twice", name)
			}
			seen[name] = true
			group = append(group, name)
		}
		plan.groups = append(plan.groups, group)
	}
	if len(plan.groups) == 1 {
		var rest []string
		for _, name := range nodes {
			if !seen[name] {
				rest = append(rest, name)
			}
		}
		if len(rest) == 0 {
			return plan, usageErrorf("that is every node: there is nothing to cut it off from").hint("capstan chaos cut " + strings.Join(nodes, " "))
		}
		plan.groups = append(plan.groups, rest)
	}
	for i, mine := range plan.groups {
		for j, theirs := range plan.groups {
			if i == j {
				continue
			}
			for _, name := range mine {
				plan.from[name] = append(plan.from[name], theirs...)
			}
		}
	}
	return plan, nil
}

// talk reports whether two nodes can.
func (c cutPlan) talk(a, b string) bool { return !slices.Contains(c.from[a], b) }

// views is how each node that answers sees the cluster, by its name.
type views map[string]*capstanv1.GetStatusResponse

// backlog is how many tentative writes each node holds, without those that hold
// none.
func (v views) backlog() []nodeBacklog {
	left := []nodeBacklog{}
	for _, node := range v.nodes() {
		sum := uint64(0)
		for _, part := range v[node].GetPartitions() {
			sum += part.GetTentativeBacklog()
		}
		if sum > 0 {
			left = append(left, nodeBacklog{Node: node, Writes: sum})
		}
	}
	return left
}

func (v views) nodes() []string {
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// openPartition is one that has not settled yet.
type openPartition struct {
	Partition uint32 `json:"partition"`
	Because   string `json:"because"`
}

// leading is what a node says of itself: the partitions that it leads, and in
// which term.
func (v views) leading(node string) map[uint32]uint64 {
	s := v[node]
	names := namesOf(s)
	led := make(map[uint32]uint64)
	for _, part := range s.GetPartitions() {
		if names.name(part.GetLeader()) == node {
			led[part.GetId()] = part.GetTerm()
		}
	}
	return led
}

// settling lists the partitions that have not settled, with one reason each,
// and who leads the others. A partition has settled when each replica that answers knows a
// leader that it can talk to, that leads by its own account in the same term, and that
// can talk to a quorum; or none, where no replica that it can talk to, itself
// included, could be such a leader.
func (c cutPlan) settling(v views) (open []openPartition, leads map[uint32]string) {
	leads = make(map[uint32]string)
	led := make(map[string]map[uint32]uint64)
	for node := range v {
		led[node] = v.leading(node)
	}
	because := make(map[uint32]string)
	for _, node := range v.nodes() {
		names := namesOf(v[node])
		for _, part := range v[node].GetPartitions() {
			id := part.GetId()
			voters, here := replicasOf(part, names, node)
			if !here || because[id] != "" {
				continue
			}
			leader := names.name(part.GetLeader())
			if leader == "" {
				if slices.ContainsFunc(voters, func(l string) bool { return c.talk(node, l) && c.canLead(v, l, voters) }) {
					because[id] = node + " knows no leader"
				}
				continue
			}
			term := led[leader][id] // 0: it does not lead
			if !c.talk(node, leader) || !c.canLead(v, leader, voters) || term != part.GetTerm() {
				because[id] = fmt.Sprintf("%s takes %s for the leader", node, leader)
				continue
			}
			leads[id] = leader
		}
	}
	for id, why := range because {
		delete(leads, id)
		open = append(open, openPartition{Partition: id, Because: why})
	}
	slices.SortFunc(open, func(a, b openPartition) int { return int(a.Partition) - int(b.Partition) })
	return open, leads
}

// canLead reports whether a node can reach a quorum of voters, of those that
// answer.
func (c cutPlan) canLead(v views, node string, voters []string) bool {
	reached := 0
	for _, voter := range voters {
		if v[voter] != nil && c.talk(node, voter) {
			reached++
		}
	}
	return v[node] != nil && slices.Contains(voters, node) && reached > len(voters)/2
}

// replicasOf lists the voters of a partition, and says whether node holds a
// replica.
func replicasOf(part *capstanv1.Partition, names nodeNames, node string) (voters []string, here bool) {
	for _, r := range part.GetReplicas() {
		name := names.name(r.GetNode())
		here = here || name == node
		if r.GetVoter() {
			voters = append(voters, name)
		}
	}
	return voters, here
}

// tally counts the partitions that each group leads.
func (c cutPlan) tally(leads map[uint32]string) []int {
	led := make([]int, len(c.groups))
	for _, leader := range leads {
		for i, group := range c.groups {
			if slices.Contains(group, leader) {
				led[i]++
			}
		}
	}
	return led
}
