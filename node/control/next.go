package control

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/capstan-kv/capstan/partition"
)

// MaxControlVoters bounds who votes in the control group: five outlive two
// failures, and every more voter makes each decision slower.
const MaxControlVoters = 5

// MaxTransfersPerRound bounds the leaders that move at a time: each transfer
// holds its partition's writes up for a moment.
const MaxTransfersPerRound = 4

// Observed is what the leader of the control group sees.
type Observed struct {
	State *State
	// Alive names the members that gossip reaches, the leader itself included.
	Alive map[partition.NodeID]bool
	// Servers is the control group's Raft configuration.
	Servers []Server
	// Leaders is who leads each partition, as far as known: "" if not.
	Leaders []partition.NodeID
	// Lost names the nodes whose replica of a partition is out of service although
	// they are alive: they cannot lead it.
	Lost map[partition.ID][]partition.NodeID
	// BootstrapExpect is this node's own setting; it counts only where
	// [Settings] has none. 0: never place.
	BootstrapExpect int
}

// Server is a member of the control group's Raft configuration.
type Server struct {
	Node  partition.NodeID
	Voter bool
	// Lagging marks a server that has not caught up, or does not answer. It gets no
	// vote, and while a voter lags nobody does: see [Next].
	Lagging bool
}

// Step is something for the driver to do. It is one of [Propose],
// [AddControlNonvoter], [AddControlVoter], [RemoveControlServer] and
// [TransferLeader]. Each is safe on its own, in any order and repeated, and
// any may fail: the next round decides anew.
type Step interface {
	fmt.Stringer
	step()
}

// Propose is a command for the control group.
type Propose struct{ Command Command }

// AddControlNonvoter lets a node follow the control group.
type AddControlNonvoter struct{ Node partition.NodeID }

// AddControlVoter gives a node that follows the control group a vote in it.
type AddControlVoter struct{ Node partition.NodeID }

// RemoveControlServer takes a node out of the control group: one that left, or
// whose name has gone to another node since its data is lost.
type RemoveControlServer struct{ Node partition.NodeID }

// TransferLeader moves the leadership of a partition.
type TransferLeader struct{ partition.Transfer }

func (Propose) step()             {}
func (AddControlNonvoter) step()  {}
func (AddControlVoter) step()     {}
func (RemoveControlServer) step() {}
func (TransferLeader) step()      {}

func (p Propose) String() string { return p.Command.String() }
func (a AddControlNonvoter) String() string {
	return fmt.Sprintf("control group: add nonvoter %s", a.Node)
}
func (a AddControlVoter) String() string {
	return fmt.Sprintf("control group: make %s a voter", a.Node)
}
func (r RemoveControlServer) String() string { return fmt.Sprintf("control group: remove %s", r.Node) }

// Next is the steps to take now, none if all is as it should be: gossip's view
// of the nodes is written down, at most one change of the control group's
// membership, the placement once enough nodes are there, and some transfers of
// leadership. Gossip's view alone changes no membership.
//
// A vote is given only while every voter has caught up. Otherwise the group might need
// the vote of one that does not know the new voters yet, and whose log is too short to
// lead.
func Next(o Observed) []Step {
	if !o.State.Founded() {
		return nil
	}
	steps := marks(o)
	settled := len(steps) == 0
	if step := membership(o); step != nil {
		steps = append(steps, step)
	}
	if !settled {
		return steps // what rests on the nodes' states waits until they are right
	}
	if !o.State.Placed() {
		if step := placement(o); step != nil {
			steps = append(steps, step)
		}
	}
	return append(steps, transfers(o)...)
}

// willing reports whether the node is there and is to be counted on.
func (o Observed) willing(n Node) bool { return n.State == Alive && o.Alive[n.ID] }

func marks(o Observed) (steps []Step) {
	for _, n := range o.State.Nodes {
		to := n.State
		switch {
		case n.State == Alive && !o.Alive[n.ID]:
			to = Dead
		case n.State == Dead && o.Alive[n.ID] && !o.State.superseded(n) && !o.rival(n):
			to = Alive
		}
		if to != n.State {
			steps = append(steps, Propose{Command{SetNodeState: &SetNodeState{Node: n.ID, State: to, Incarnation: n.Incarnation}}})
		}
	}
	return steps
}

// rival reports whether a dead node of the same name with a lower id is also
// reached: only one of them can be marked alive.
func (o Observed) rival(n Node) bool {
	return slices.ContainsFunc(o.State.Nodes, func(other Node) bool {
		return other.ID < n.ID && other.Name == n.Name && other.State == Dead && o.Alive[other.ID]
	})
}

// membership is the next change of the control group's configuration. First
// those go that can never come back, then everybody follows, then there are
// voters: an odd number, since an even one costs more and outlives no more.
func membership(o Observed) Step {
	servers := map[partition.NodeID]Server{}
	voters, lagging := 0, false
	zones := map[string]int{} // voters by zone
	for _, s := range o.Servers {
		servers[s.Node] = s
		if s.Voter {
			n, _ := o.State.Node(s.Node)
			zones[n.Zone]++
			voters++
			lagging = lagging || s.Lagging
		}
	}
	for _, s := range o.Servers {
		n, ok := o.State.Node(s.Node)
		if ok && (n.State == Left || o.State.superseded(n)) && (!s.Voter || voters > 1) {
			return RemoveControlServer{s.Node}
		}
	}
	var candidates []Node
	for _, n := range o.State.Nodes {
		s, follows := servers[n.ID]
		switch {
		case !follows && o.Alive[n.ID] && (n.State == Alive || n.State == Draining):
			return AddControlNonvoter{n.ID}
		case follows && !s.Voter && !s.Lagging && o.willing(n):
			candidates = append(candidates, n)
		}
	}
	want := min(MaxControlVoters, voters+len(candidates))
	want -= 1 - want%2
	if len(candidates) == 0 || voters >= want || lagging {
		return nil
	}
	best := slices.MinFunc(candidates, func(a, b Node) int {
		return cmp.Or(cmp.Compare(zones[a.Zone], zones[b.Zone]), cmp.Compare(a.ID, b.ID))
	})
	return AddControlVoter{best.ID}
}

// VotePending reports whether a node that is up only has to catch up for a vote to be
// given in the control group, to itself or to another. Until it has one, the group outlives less than it
// should: a cluster that has just been founded not even its founder's disk.
func (o Observed) VotePending() bool {
	voters, behind, lacking, ready := 0, false, false, false
	for _, s := range o.Servers {
		n, ok := o.State.Node(s.Node)
		switch {
		case s.Voter:
			voters++
			behind = behind || s.Lagging && o.Alive[s.Node]
		case ok && o.willing(n):
			lacking, ready = lacking || s.Lagging, ready || !s.Lagging
		}
	}
	return (lacking || ready && behind) && voters < MaxControlVoters
}

func placement(o Observed) Step {
	expect := cmp.Or(o.State.Settings.BootstrapExpect, o.BootstrapExpect)
	var nodes []partition.Node
	for _, n := range o.State.Nodes {
		if o.willing(n) {
			nodes = append(nodes, partition.Node{ID: n.ID, Zone: n.Zone})
		}
	}
	if expect < 1 || len(nodes) < expect {
		return nil
	}
	return Propose{Command{Place: &Place{Assignment: partition.Place(partition.PlaceInput{
		Partitions:        o.State.Settings.Partitions,
		ReplicationFactor: o.State.Settings.ReplicationFactor,
		Nodes:             nodes,
	})}}}
}

func transfers(o Observed) (steps []Step) {
	willing := map[partition.NodeID]bool{}
	for _, n := range o.State.Nodes {
		if o.willing(n) {
			willing[n.ID] = true
		}
	}
	leaders := make([]partition.NodeID, len(o.State.Partitions))
	for p := range min(len(leaders), len(o.Leaders)) {
		if o.Alive[o.Leaders[p]] { // nobody can hand over for a dead one
			leaders[p] = o.Leaders[p]
		}
	}
	voters := o.State.Voters()
	for p, lost := range o.Lost {
		if int(p) < len(voters) {
			voters[p] = slices.DeleteFunc(voters[p], func(n partition.NodeID) bool { return slices.Contains(lost, n) })
		}
	}
	for _, t := range partition.PlanLeaders(leaders, voters, willing) {
		if len(steps) == MaxTransfersPerRound {
			break
		}
		steps = append(steps, TransferLeader{t})
	}
	return steps
}
