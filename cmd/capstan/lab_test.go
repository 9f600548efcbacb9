package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

const labPartitions = 16

// fakeLab is nodes n1.. whose views of the cluster follow from their cuts, after
// they have been looked at a few times: elections take their time.
type fakeLab struct {
	nodes []*fake

	mu      sync.Mutex
	settle  int            // looks at each node before it knows of a cut
	looks   map[string]int // since the last change
	first   string         // leads while there is no cut
	then    string         // leads the majority side
	dead    string
	backlog func(node string, looks int) uint64
}

func newLab(t *testing.T, count int) *fakeLab {
	t.Helper()
	l := &fakeLab{looks: map[string]int{}, first: "n3", then: "n1", settle: 2}
	for i := range count {
		f := newFake(t)
		f.status = func() *capstanv1.GetStatusResponse { return l.view(fmt.Sprintf("n%d", i+1)) }
		l.nodes = append(l.nodes, f)
	}
	t.Setenv(endpointsVariable, l.nodes[0].url)
	return l
}

func idOf(name string) string {
	return map[string]string{"n1": "n1-k3f9", "n3": "n3-p7wd"}[name] + map[string]string{"n2": "n2-aaaa", "n4": "n4-bbbb"}[name]
}

// view is how a node sees the cluster. Three nodes hold replicas.
func (l *fakeLab) view(node string) *capstanv1.GetStatusResponse {
	at := l.at(node)
	at.mu.Lock()
	cut := slices.Clone(at.cut)
	at.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks[node]++
	late := l.looks[node] <= l.settle
	s := &capstanv1.GetStatusResponse{ClusterId: "c-7f3a", ServedBy: node, RingEpoch: 4, ReplicationFactor: 3}
	for i, f := range l.nodes {
		name := fmt.Sprintf("n%d", i+1)
		n := &capstanv1.Node{Name: name, Id: idOf(name), State: capstanv1.NodeState_NODE_STATE_ALIVE, ApiAddress: strings.TrimPrefix(f.url, "http://")}
		if name == l.dead || slices.Contains(cut, name) {
			n.State = capstanv1.NodeState_NODE_STATE_DEAD
		}
		if name == node {
			n.CutFrom = cut
		}
		s.Nodes = append(s.Nodes, n)
	}
	leader, term := l.first, uint64(3)
	unreached := len(cut)
	if l.dead != "" && !slices.Contains(cut, l.dead) {
		unreached++
	}
	switch {
	case len(cut) == 0 || late:
	case slices.Contains([]string{"n1", "n2", "n3"}, node) && unreached >= 2:
		leader = ""
	default:
		leader, term = l.then, 4
	}
	for id := range uint32(labPartitions) {
		part := &capstanv1.Partition{Id: id, Leader: leader, Term: term}
		for _, r := range []string{"n1", "n2", "n3"} {
			part.Replicas = append(part.Replicas, &capstanv1.Replica{Node: r, Voter: true})
		}
		if l.backlog != nil && id < 2 {
			part.TentativeBacklog = l.backlog(node, l.looks[node])
		}
		s.Partitions = append(s.Partitions, part)
	}
	return s
}

func (l *fakeLab) at(node string) *fake { return l.nodes[node[1]-'1'] }

// told lists whom each node was told not to talk to; "-" was told nothing.
func (l *fakeLab) told() string {
	var all []string
	for i := range l.nodes {
		name, said := fmt.Sprintf("n%d", i+1), "-"
		if m, ok := l.at(name).sent(&capstanv1.SetCutRequest{}).(*capstanv1.SetCutRequest); ok && m != nil {
			said = strings.Join(m.GetNodes(), " ")
		}
		all = append(all, name+": "+said)
	}
	return strings.Join(all, "; ")
}
