package control

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/capstan-kv/capstan/partition"
)

// State is what the control group has decided. It is immutable: neither it
// nor anything it holds is to be written to.
type State struct {
	// ClusterID is empty until the cluster is founded.
	ClusterID string   `json:"cluster_id"`
	Settings  Settings `json:"settings"`
	// Epoch rises with every change, so that a client can tell a newer ring.
	Epoch uint64 `json:"epoch"`
	// Nodes is in order of their ids.
	Nodes []Node `json:"nodes"`
	// Partitions is indexed by partition id, and empty until they are placed.
	Partitions []Partition `json:"partitions"`
}

// Settings are given when the cluster is founded and hold for ever.
type Settings struct {
	Partitions        int `json:"partitions"`         // a power of two, 1 to 1024
	ReplicationFactor int `json:"replication_factor"` // 1 to 7
	// BootstrapExpect is how many nodes must be there before the partitions
	// are placed. It is kept so that a founder that restarts without the flag
	// does not place too early. 0: not recorded.
	BootstrapExpect int `json:"bootstrap_expect"`
	// CreatedUnixMs is when the cluster was founded, in milliseconds since
	// 1970 by the founder's clock. For people only.
	CreatedUnixMs int64 `json:"created_unix_ms"`
	// Secret is drawn at random by the founder, see [State.SessionKey]. A
	// cluster founded by an older program has none.
	Secret []byte `json:"secret,omitempty"`
}

// MaxReplicationFactor bounds the replicas of a partition: a quorum of seven
// outlives three failures, and every more replica costs an fsync a write.
const MaxReplicationFactor = 7

// NodeState is how the cluster counts on a node.
type NodeState string

const (
	Alive    NodeState = "alive"
	Dead     NodeState = "dead"     // gossip does not reach it, or its name went to another node
	Draining NodeState = "draining" // alive or not, it is to be emptied
	Left     NodeState = "left"     // removed for ever
)

// Node is a member of the cluster.
type Node struct {
	ID      partition.NodeID `json:"id"`
	Name    string           `json:"name"`
	Zone    string           `json:"zone"`
	API     string           `json:"api_address"`
	Peer    string           `json:"peer_address"`
	Gossip  string           `json:"gossip_address"`
	Version string           `json:"software_version"`
	// StartCounter is kept in the node's data directory and rises with each
	// registered start.
	StartCounter uint64 `json:"start_counter"`
	// Incarnation is drawn at random at each start and not 0.
	Incarnation uint64    `json:"incarnation"`
	State       NodeState `json:"state"`
	// RemovedEpoch is the epoch of the state in which the node had left; 0
	// while it has not. A node that knows a state of that epoch or a later one
	// takes nothing from it any more.
	RemovedEpoch uint64 `json:"removed_epoch,omitempty"`
	// Recorded says that the data directory wrote this start down before it was
	// registered, so that the next registration has to name it. It is false only
	// for a node whose last start was under an older program.
	Recorded bool `json:"recorded,omitempty"`
}

// Start is the start that the cluster has on record for the node.
func (n Node) Start() Start { return Start{n.StartCounter, n.Incarnation} }

// Start names one start of a node. The zero Start is none.
type Start struct {
	Number      uint64 `json:"start"`
	Incarnation uint64 `json:"incarnation"`
}

// Partition is where one partition lives.
type Partition struct {
	Replicas []Replica `json:"replicas"` // the preferred leader first
	// NextGeneration is that of the next replica to be added.
	NextGeneration uint32 `json:"next_generation"`
}

// Replica is one node's copy of a partition.
type Replica struct {
	Node       partition.NodeID `json:"node"`
	Generation uint32           `json:"generation"`
	Voter      bool             `json:"voter"`
}

// FirstGeneration is that of every replica placed when the cluster is young.
const FirstGeneration = 1

// Founded reports whether there is a cluster.
func (s *State) Founded() bool { return s.ClusterID != "" }

// Placed reports whether the partitions have replicas.
func (s *State) Placed() bool { return len(s.Partitions) > 0 }

// Node is the node with that id.
func (s *State) Node(id partition.NodeID) (Node, bool) {
	if i, ok := s.find(id); ok {
		return s.Nodes[i], true
	}
	return Node{}, false
}

func (s *State) find(id partition.NodeID) (int, bool) {
	return slices.BinarySearchFunc(s.Nodes, id, func(n Node, id partition.NodeID) int { return cmp.Compare(n.ID, id) })
}

// Holder is the node that a name means: the one that is alive or draining, else
// a dead one, else one that left. Among several of a kind it is the one with
// the lowest id.
func (s *State) Holder(name string) (Node, bool) {
	var best Node
	rank := map[NodeState]int{Alive: 3, Draining: 3, Dead: 2, Left: 1}
	for _, n := range s.Nodes {
		if n.Name == name && rank[n.State] > rank[best.State] {
			best = n
		}
	}
	return best, best.ID != ""
}

// Members are the nodes that have not left, whatever their state, in order of
// their ids. A member that is down may come back with all that it held.
func (s *State) Members() []partition.NodeID {
	var ids []partition.NodeID
	for _, n := range s.Nodes {
		if n.State != Left {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// Removed are the nodes that have left for ever, in order of their ids, with
// the epochs in which they had.
func (s *State) Removed() []Removed {
	var left []Removed
	for _, n := range s.Nodes {
		if n.State == Left {
			left = append(left, Removed{Node: n.ID, Epoch: n.RemovedEpoch})
		}
	}
	return left
}

// Removed is a node that left, and the first epoch in which it had.
type Removed struct {
	Node  partition.NodeID
	Epoch uint64
}

// Replica is the node's copy of a partition, if it has one.
func (s *State) Replica(p partition.ID, node partition.NodeID) (Replica, bool) {
	if int(p) < len(s.Partitions) {
		for _, r := range s.Partitions[p].Replicas {
			if r.Node == node {
				return r, true
			}
		}
	}
	return Replica{}, false
}

// Voters is the voting replicas of every partition.
func (s *State) Voters() partition.Assignment {
	a := make(partition.Assignment, len(s.Partitions))
	for p := range s.Partitions {
		for _, r := range s.Partitions[p].Replicas {
			if r.Voter {
				a[p] = append(a[p], r.Node)
			}
		}
	}
	return a
}

// superseded reports whether another node holds n's name now.
func (s *State) superseded(n Node) bool {
	if n.State == Alive || n.State == Draining {
		return false
	}
	return slices.ContainsFunc(s.Nodes, func(o Node) bool {
		return o.ID != n.ID && o.Name == n.Name && (o.State == Alive || o.State == Draining)
	})
}

// check says which invariant s breaks.
func (s *State) check() error {
	if !s.Founded() {
		if s.Epoch != 0 || len(s.Nodes) > 0 || len(s.Partitions) > 0 || !s.Settings.empty() {
			return fmt.Errorf("a state without a cluster id is not empty")
		}
		return nil
	}
	if err := s.Settings.check(); err != nil {
		return err
	}
	holders := map[string]partition.NodeID{}
	for i, n := range s.Nodes {
		if err := n.check(); err != nil {
			return err
		}
		if n.RemovedEpoch > s.Epoch || n.RemovedEpoch != 0 && n.State != Left {
			return fmt.Errorf("node %s is %s, and removed in epoch %d of %d", n.ID, n.State, n.RemovedEpoch, s.Epoch)
		}
		if i > 0 && s.Nodes[i-1].ID >= n.ID {
			return fmt.Errorf("nodes are out of order at %q", n.ID)
		}
		switch n.State {
		case Alive, Draining:
			if other, ok := holders[n.Name]; ok {
				return fmt.Errorf("the name %q is held by %s and %s", n.Name, other, n.ID)
			}
			holders[n.Name] = n.ID
		case Dead, Left:
		default:
			return fmt.Errorf("node %s: unknown state %q", n.ID, n.State)
		}
	}
	if s.Placed() && len(s.Partitions) != s.Settings.Partitions {
		return fmt.Errorf("%d partitions are placed, the cluster has %d", len(s.Partitions), s.Settings.Partitions)
	}
	for p, part := range s.Partitions {
		if err := s.checkReplicas(part); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return nil
}

func (s *State) checkReplicas(part Partition) error {
	voters := 0
	nodes, generations := map[partition.NodeID]bool{}, map[Replica]bool{}
	for _, r := range part.Replicas {
		_, ok := s.Node(r.Node) // one that was removed keeps its place until it is replaced
		switch {
		case !ok:
			return fmt.Errorf("a replica on %q, which is no node", r.Node)
		case nodes[r.Node]:
			return fmt.Errorf("two replicas on %s", r.Node)
		case r.Generation < FirstGeneration || r.Generation >= part.NextGeneration:
			return fmt.Errorf("generation %d was never given out", r.Generation)
		case r.Generation > FirstGeneration && generations[Replica{Generation: r.Generation}]:
			return fmt.Errorf("generation %d was given out twice", r.Generation)
		}
		nodes[r.Node], generations[Replica{Generation: r.Generation}] = true, true
		if r.Voter {
			voters++
		}
	}
	if voters == 0 {
		return fmt.Errorf("no replica votes")
	}
	return nil
}
