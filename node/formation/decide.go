package formation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/partition"
)

// MaxExpect bounds the first nodes of a cluster: a promise request names them all.
const MaxExpect = 64

// Member is what gossip shows of a node.
type Member struct {
	ID   partition.NodeID
	Name string
	// Alive is false for a node that is failed; nodes that left are not shown.
	Alive bool
	// ClusterID is the cluster that the node belongs to, empty for none.
	ClusterID string
	// Expect is the node's own --bootstrap-expect.
	Expect int
}

// View is what Decide decides from.
type View struct {
	Self    Member
	Members []Member // may contain Self
	// Settled says that every join address has been tried at least once since the
	// start: before that, seeing no cluster says nothing.
	Settled bool
}

// Kind is what to do.
type Kind uint8

// What Decide can say.
const (
	Wait Kind = iota
	Join
	Seek
)

func (k Kind) String() string { return [...]string{"wait", "join", "seek"}[k] }

// Action is what to do next, as data.
type Action struct {
	Kind Kind
	// Reason says what is waited for.
	Reason string
	// ClusterID is the cluster to join, through any of Via (sorted).
	ClusterID string
	Via       []partition.NodeID
	// Set are the nodes whose promises to seek, sorted, this node first.
	Set []partition.NodeID
}

// Decide says what a node that belongs to no cluster is to do.
func Decide(v View) Action {
	if joined, ok := decideJoin(v); ok {
		return joined
	}
	switch {
	case v.Self.Expect == 0:
		return Action{Reason: "no member belongs to a cluster yet, and this node expects to join one"}
	case !v.Settled:
		return Action{Reason: "not every join address has been tried yet"}
	}
	for _, m := range v.Members {
		emptied := func(o Member) bool { return o.Name == m.Name && o.Alive && o.ClusterID == "" }
		if m.ClusterID != "" && !m.Alive && !emptied(v.Self) && !slices.ContainsFunc(v.Members, emptied) {
			return Action{Reason: fmt.Sprintf("%s belongs to cluster %s and does not answer", m.ID, m.ClusterID)}
		}
	}
	return decideSeek(v)
}

func decideJoin(v View) (Action, bool) {
	join := Action{Kind: Join}
	for _, m := range v.Members {
		switch {
		case !m.Alive || m.ClusterID == "" || m.ID == v.Self.ID:
		case join.ClusterID != "" && join.ClusterID != m.ClusterID:
			first, second := min(join.ClusterID, m.ClusterID), max(join.ClusterID, m.ClusterID)
			return Action{Reason: fmt.Sprintf("members of two clusters are reachable: %s and %s", first, second)}, true
		default:
			join.ClusterID = m.ClusterID
			join.Via = append(join.Via, m.ID)
		}
	}
	slices.Sort(join.Via)
	return join, join.ClusterID != ""
}

func decideSeek(v View) Action {
	candidates := map[partition.NodeID]string{v.Self.ID: v.Self.Name}
	var others []string
	for _, m := range v.Members {
		switch {
		case !m.Alive || m.ClusterID != "" || m.ID == v.Self.ID || m.Expect == 0:
		case m.Expect != v.Self.Expect:
			others = append(others, fmt.Sprintf("%s expects %d", m.ID, m.Expect))
		default:
			candidates[m.ID] = m.Name
		}
	}
	byName := map[string]int{}
	for _, name := range candidates {
		byName[name]++
	}
	var set []partition.NodeID
	for id, name := range candidates {
		if byName[name] == 1 {
			set = append(set, id)
			continue
		}
		others = append(others, fmt.Sprintf("%s shares its name with another", id))
	}
	slices.Sort(set)
	if len(set) < v.Self.Expect {
		reason := fmt.Sprintf("%d of %d expected nodes are here", len(set), v.Self.Expect)
		if len(others) > 0 {
			slices.Sort(others)
			reason += "; " + strings.Join(others, "; ")
		}
		return Action{Reason: reason}
	}
	set = set[:v.Self.Expect]
	if set[0] != v.Self.ID {
		return Action{Reason: fmt.Sprintf("%s is to found the cluster", set[0])}
	}
	return Action{Kind: Seek, Set: set}
}
