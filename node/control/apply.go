package control

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/capstan-kv/capstan/partition"
)

// Reason says why a command was refused.
type Reason string

const (
	Invalid         Reason = "invalid"          // it can never be right
	NotFounded      Reason = "not_founded"      // there is no cluster yet
	AlreadyFounded  Reason = "already_founded"  // there is one
	AlreadyPlaced   Reason = "already_placed"   // the partitions have their replicas
	NotPlaced       Reason = "not_placed"       // they have none yet
	ForeignCluster  Reason = "foreign_cluster"  // the data directory is of another cluster
	RestoredImage   Reason = "restored_image"   // the data directory is older than what this node was
	NodeLeft        Reason = "node_left"        // the node was removed for ever
	NameTaken       Reason = "name_taken"       // another node has the name
	UnknownNode     Reason = "unknown_node"     // no such node is registered
	Outdated        Reason = "outdated"         // it is about an earlier start of the node
	NodeInUse       Reason = "node_in_use"      // replicas rest on the node
	GenerationUsed  Reason = "generation_used"  // the replica generation is not the next one
	UnknownReplica  Reason = "unknown_replica"  // no such replica of that generation
	ReplicaExists   Reason = "replica_exists"   // the node holds a replica already
	LastVoter       Reason = "last_voter"       // nobody else votes
	BadStateChange  Reason = "bad_state_change" // there is no way between the two states
	NodeUnavailable Reason = "node_unavailable" // the node is to take nothing more
	NodeAlive       Reason = "node_alive"       // the node is counted on
	QuorumNeeded    Reason = "quorum_needed"    // a partition could never have a quorum again
)

// Rejection is a command refused: a definite answer, the state is unchanged.
type Rejection struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
}

func (r *Rejection) Error() string { return r.Message }

// Result is what became of a command. It is small and encodes as JSON, to be
// sent to whoever proposed.
type Result struct {
	// Changed is false where the state was already what the command asked.
	Changed bool `json:"changed"`
	// Rejection is nil if the command was accepted.
	Rejection *Rejection `json:"rejection,omitempty"`
}

// Err is the rejection as an error, or nil.
func (r Result) Err() error {
	if r.Rejection == nil {
		return nil
	}
	return r.Rejection
}

// Apply is the state after the command, and what became of it. s is not
// changed; if nothing changes, the same pointer comes back. Equal arguments
// give equal results.
func Apply(s *State, c Command) (*State, Result) {
	next, rejection := apply(s, c)
	if rejection != nil {
		return s, Result{Rejection: rejection}
	}
	if next == nil {
		return s, Result{}
	}
	next.Epoch = s.Epoch + 1
	return next, Result{Changed: true}
}

// apply returns no state if nothing changes.
func apply(s *State, c Command) (*State, *Rejection) {
	if err := c.check(); err != nil {
		return nil, reject(Invalid, "%v", err)
	}
	if c.Found != nil {
		return c.Found.apply(s)
	}
	if !s.Founded() {
		return nil, reject(NotFounded, "%s: no cluster is founded yet", c)
	}
	switch {
	case c.RegisterNode != nil:
		return c.RegisterNode.apply(s)
	case c.SetNodeState != nil:
		return c.SetNodeState.apply(s)
	case c.RemoveNode != nil:
		return c.RemoveNode.apply(s)
	case c.Place != nil:
		return c.Place.apply(s)
	}
	if !s.Placed() {
		return nil, reject(NotPlaced, "%s: the partitions are not placed yet", c)
	}
	switch {
	case c.AddReplica != nil:
		return c.AddReplica.apply(s)
	case c.PromoteReplica != nil:
		return c.PromoteReplica.apply(s)
	}
	return c.RemoveReplica.apply(s)
}

func reject(why Reason, format string, args ...any) *Rejection {
	return &Rejection{Reason: why, Message: fmt.Sprintf(format, args...)}
}

func (c *Found) apply(s *State) (*State, *Rejection) {
	if s.Founded() {
		return nil, reject(AlreadyFounded, "cluster %s is founded already", s.ClusterID)
	}
	if c.ClusterID == "" || len(c.ClusterID) > maxIDBytes || !utf8.ValidString(c.ClusterID) {
		return nil, reject(Invalid, "cluster id %q is not of 1 to %d bytes of UTF-8", c.ClusterID, maxIDBytes)
	}
	if err := c.Settings.check(); err != nil {
		return nil, reject(Invalid, "%v", err)
	}
	next := *s
	next.ClusterID, next.Settings = c.ClusterID, c.Settings
	return &next, nil
}

func (c *RegisterNode) apply(s *State) (*State, *Rejection) {
	n := c.Node
	if err := n.check(); err != nil {
		return nil, reject(Invalid, "%v", err)
	}
	if c.ClusterID != "" && c.ClusterID != s.ClusterID {
		return nil, reject(ForeignCluster, "the data directory of %s belongs to cluster %s, this is %s", n.ID, c.ClusterID, s.ClusterID)
	}
	n.State, n.RemovedEpoch, n.Recorded = Alive, 0, c.Previous != nil
	at, known := s.find(n.ID)
	if known {
		old := s.Nodes[at]
		switch {
		case old.State == Left:
			return nil, reject(NodeLeft, "node %s was removed from the cluster: start it with an empty data directory", n.ID)
		case old.Name != n.Name:
			return nil, reject(Invalid, "node %s is called %q, not %q", n.ID, old.Name, n.Name)
		case old.Start() == n.Start():
			// The same start once more: its sender did not hear the answer.
			// The state stays gossip's business from here on.
			return nil, nil
		}
		if rejection := c.follows(old); rejection != nil {
			return nil, rejection
		}
		if old.State == Draining {
			n.State = Draining
		}
	} else if rejection := c.begins(); rejection != nil {
		return nil, rejection
	}
	next := *s
	next.Nodes = slices.Clone(s.Nodes)
	for i, o := range next.Nodes {
		if o.ID == n.ID || o.Name != n.Name || o.State == Left || o.State == Dead {
			continue
		}
		if o.Peer != n.Peer {
			return nil, reject(NameTaken, "the name %q is held by %s at %s, which is %s: choose another one", n.Name, o.ID, o.Peer, o.State)
		}
		// Two processes cannot have one address: the old one is gone.
		next.Nodes[i].State = Dead
	}
	if known {
		next.Nodes[at] = n
	} else {
		next.Nodes = slices.Insert(next.Nodes, at, n)
	}
	return &next, nil
}

// follows refuses a start that is not the next one after what is on record: the
// data directory is then not the one that was registered last, but a copy from
// before. Counters alone could not tell: a copy that is started often passes any.
func (c *RegisterNode) follows(old Node) *Rejection {
	older := reject(RestoredImage, "node %s is registered with start %d, which its data directory does not know: the directory is an older copy",
		old.ID, old.StartCounter)
	switch {
	case c.Previous == nil || *c.Previous == (Start{}):
		if old.Recorded || c.Node.StartCounter <= old.StartCounter {
			return older
		}
	case *c.Previous != old.Start():
		return older
	case c.Node.StartCounter != old.StartCounter+1:
		return reject(Invalid, "node %s: start %d does not follow start %d", old.ID, c.Node.StartCounter, old.StartCounter)
	}
	return c.bounded()
}

// begins refuses a start of an unknown node whose data directory was registered
// before: the control group has lost that.
func (c *RegisterNode) begins() *Rejection {
	if c.Previous != nil && *c.Previous != (Start{}) {
		return reject(UnknownNode, "the data directory of %s was registered with start %d, and the cluster has no record of the node",
			c.Node.ID, c.Previous.Number)
	}
	return c.bounded()
}

func (c *RegisterNode) bounded() *Rejection {
	if (c.Previous == nil || *c.Previous == (Start{})) && c.Node.StartCounter > maxFirstStart {
		return reject(Invalid, "node %s: start %d is beyond %d", c.Node.ID, c.Node.StartCounter, uint64(maxFirstStart))
	}
	return nil
}

func (c *SetNodeState) apply(s *State) (*State, *Rejection) {
	at, ok := s.find(c.Node)
	if !ok {
		return nil, reject(UnknownNode, "there is no node %s", c.Node)
	}
	n := s.Nodes[at]
	if c.Incarnation != 0 && c.Incarnation != n.Incarnation {
		return nil, reject(Outdated, "node %s has started again since", c.Node)
	}
	if c.State == n.State {
		return nil, nil
	}
	allowed := map[NodeState][]NodeState{
		Alive:    {Dead, Draining},
		Dead:     {Alive, Draining, Left},
		Draining: {Alive, Left},
	}
	if !slices.Contains(allowed[n.State], c.State) {
		return nil, reject(BadStateChange, "node %s is %s and cannot become %s", c.Node, n.State, c.State)
	}
	if c.State != Left && s.superseded(n) {
		return nil, reject(NameTaken, "the name %q of node %s is another node's now", n.Name, n.ID)
	}
	if c.State == Left {
		for p := range s.Partitions {
			if _, holds := s.Replica(partition.ID(p), c.Node); holds {
				return nil, reject(NodeInUse, "node %s still holds a replica of partition %d", c.Node, p)
			}
		}
	}
	next := *s
	next.Nodes = slices.Clone(s.Nodes)
	next.Nodes[at].State = c.State
	if c.State == Left {
		next.Nodes[at].RemovedEpoch = s.Epoch + 1
	}
	return &next, nil
}

func (c *RemoveNode) apply(s *State) (*State, *Rejection) {
	at, ok := s.find(c.Node)
	if !ok {
		return nil, reject(UnknownNode, "there is no node %s", c.Node)
	}
	n := s.Nodes[at]
	switch {
	case n.State == Left:
		return nil, nil
	case c.Incarnation != 0 && c.Incarnation != n.Incarnation:
		return nil, reject(Outdated, "node %s has started again since", c.Node)
	case n.State == Alive:
		return nil, reject(NodeAlive, "node %s is alive: stop it, or drain it, before it is removed", c.Node)
	}
	if rejection := s.quorumsWithout(c.Node); rejection != nil {
		return nil, rejection
	}
	next := *s
	next.Nodes = slices.Clone(s.Nodes)
	next.Nodes[at].State, next.Nodes[at].RemovedEpoch = Left, s.Epoch+1
	return &next, nil
}

// quorumsWithout refuses what could not be mended: a node that is removed never
// votes again, and without a quorum its place can not be given to another.
func (s *State) quorumsWithout(id partition.NodeID) *Rejection {
	for p, part := range s.Partitions {
		if r, holds := s.Replica(partition.ID(p), id); !holds || !r.Voter {
			continue
		}
		voters, stay := 0, 0
		for _, r := range part.Replicas {
			if !r.Voter {
				continue
			}
			voters++
			if n, _ := s.Node(r.Node); r.Node != id && n.State != Left {
				stay++
			}
		}
		if needed := voters/2 + 1; stay < needed {
			return reject(QuorumNeeded, "without %s, partition %d would have %d of its %d voters left for ever, and needs %d", id, p, stay, voters, needed)
		}
	}
	return nil
}

func (c *Place) apply(s *State) (*State, *Rejection) {
	if s.Placed() {
		return nil, reject(AlreadyPlaced, "the partitions are placed already")
	}
	if len(c.Assignment) != s.Settings.Partitions {
		return nil, reject(Invalid, "a placement of %d partitions, the cluster has %d", len(c.Assignment), s.Settings.Partitions)
	}
	next := *s
	next.Partitions = make([]Partition, len(c.Assignment))
	for p, set := range c.Assignment {
		if len(set) == 0 || len(set) > s.Settings.ReplicationFactor {
			return nil, reject(Invalid, "partition %d: %d replicas, 1 to %d are possible", p, len(set), s.Settings.ReplicationFactor)
		}
		part := Partition{NextGeneration: FirstGeneration + 1}
		for i, id := range set {
			if slices.Contains(set[:i], id) {
				return nil, reject(Invalid, "partition %d: two replicas on %s", p, id)
			}
			if rejection := s.takes(id); rejection != nil {
				return nil, rejection
			}
			part.Replicas = append(part.Replicas, Replica{Node: id, Generation: FirstGeneration, Voter: true})
		}
		next.Partitions[p] = part
	}
	return &next, nil
}

// takes says why a node may not be given a replica.
func (s *State) takes(id partition.NodeID) *Rejection {
	n, ok := s.Node(id)
	switch {
	case !ok:
		return reject(UnknownNode, "there is no node %s", id)
	case n.State == Left || n.State == Draining || s.superseded(n):
		return reject(NodeUnavailable, "node %s is %s and takes no replica", id, n.State)
	}
	return nil
}

func (c *AddReplica) apply(s *State) (*State, *Rejection) {
	if int(c.Partition) >= len(s.Partitions) {
		return nil, reject(Invalid, "there are %d partitions, no %d", len(s.Partitions), c.Partition)
	}
	part := s.Partitions[c.Partition]
	if r, ok := s.Replica(c.Partition, c.Node); ok {
		return nil, reject(ReplicaExists, "node %s holds generation %d of partition %d already", c.Node, r.Generation, c.Partition)
	}
	if rejection := s.takes(c.Node); rejection != nil {
		return nil, rejection
	}
	if c.Generation != part.NextGeneration {
		return nil, reject(GenerationUsed, "partition %d: generation %d is not the next one, which is %d", c.Partition, c.Generation, part.NextGeneration)
	}
	return s.withPartition(c.Partition, Partition{
		Replicas:       append(slices.Clone(part.Replicas), Replica{Node: c.Node, Generation: c.Generation}),
		NextGeneration: part.NextGeneration + 1,
	}), nil
}

func (c *PromoteReplica) apply(s *State) (*State, *Rejection) {
	i, rejection := s.replicaAt(c.Partition, c.Node, c.Generation)
	if rejection != nil {
		return nil, rejection
	}
	part := s.Partitions[c.Partition]
	if part.Replicas[i].Voter {
		return nil, nil
	}
	part.Replicas = slices.Clone(part.Replicas)
	part.Replicas[i].Voter = true
	return s.withPartition(c.Partition, part), nil
}

func (c *RemoveReplica) apply(s *State) (*State, *Rejection) {
	i, rejection := s.replicaAt(c.Partition, c.Node, c.Generation)
	if rejection != nil {
		return nil, rejection
	}
	part := s.Partitions[c.Partition]
	part.Replicas = slices.Delete(slices.Clone(part.Replicas), i, i+1)
	if !slices.ContainsFunc(part.Replicas, func(r Replica) bool { return r.Voter }) {
		return nil, reject(LastVoter, "partition %d: nobody but %s votes", c.Partition, c.Node)
	}
	return s.withPartition(c.Partition, part), nil
}

func (s *State) replicaAt(p partition.ID, node partition.NodeID, generation uint32) (int, *Rejection) {
	if int(p) < len(s.Partitions) {
		for i, r := range s.Partitions[p].Replicas {
			if r.Node == node && r.Generation == generation {
				return i, nil
			}
		}
	}
	return 0, reject(UnknownReplica, "partition %d has no replica %s/%d", p, node, generation)
}

// withPartition is s with one partition replaced.
func (s *State) withPartition(p partition.ID, part Partition) *State {
	next := *s
	next.Partitions = slices.Clone(s.Partitions)
	next.Partitions[p] = part
	return &next
}
