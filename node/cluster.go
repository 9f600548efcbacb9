package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/capstan-kv/capstan/api"
	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// clusterService answers api.Cluster.
type clusterService struct{ node *Node }

// GetStatus shows the ring as this node has it, and what the nodes that answer
// in time say of their replicas.
func (c clusterService) GetStatus(ctx context.Context, _ *capstanv1.GetStatusRequest) (*capstanv1.GetStatusResponse, error) {
	n := c.node
	ring := n.ring()
	alive := n.reachable()
	var ask []partition.NodeID
	for _, known := range ring.Nodes {
		if alive[known.ID] {
			ask = append(ask, known.ID)
		}
	}
	statuses := askStatus(ctx, n.askStatus, ask)
	resp := &capstanv1.GetStatusResponse{
		ClusterId: ring.ClusterID, ServedBy: n.config.Name, RingEpoch: ring.Epoch,
		ReplicationFactor: uint32(ring.Settings.ReplicationFactor),
	}
	for _, known := range ring.Nodes {
		resp.Nodes = append(resp.Nodes, &capstanv1.Node{
			Name: known.Name, Id: string(known.ID), Zone: known.Zone, State: nodeState(known, alive[known.ID]),
			ApiAddress: known.API, PeerAddress: known.Peer, GossipAddress: known.Gossip, SoftwareVersion: known.Version,
			CutFrom: namesOf(ring, statuses[known.ID].CutFrom), HoldsBack: holdsBack(statuses, known.ID),
		})
	}
	slices.SortFunc(resp.Nodes, byNameThenID)
	lead, undecided, compared := leaders(statuses), backlog(statuses), lastComparisons(statuses)
	for p, part := range ring.Partitions {
		id := partition.ID(p)
		out := &capstanv1.Partition{Id: uint32(p), Term: lead[id].term, CommitIndex: lead[id].commit, TentativeBacklog: undecided[id]}
		if leader := lead[id].node; leader != "" {
			out.Leader = nameOf(ring, leader)
		}
		if found, ok := compared[id]; ok {
			out.Comparison = comparisonMessage(ring, found)
		}
		for _, placed := range part.Replicas {
			out.Replicas = append(out.Replicas, &capstanv1.Replica{
				Node: nameOf(ring, placed.Node), Voter: placed.Voter, AppliedIndex: statuses[placed.Node].applied(id),
				Outage: outageMessage(statuses[placed.Node].outage(id)),
			})
		}
		resp.Partitions = append(resp.Partitions, out)
	}
	return resp, nil
}

func outageMessage(why *outage) *capstanv1.Outage {
	if why == nil {
		return nil
	}
	return &capstanv1.Outage{Quarantined: why.Quarantined, Reason: why.Reason, Since: timestamppb.New(why.Since), Remedy: why.remedy()}
}

func comparisonMessage(ring *control.State, found comparison) *capstanv1.Comparison {
	out := &capstanv1.Comparison{Partition: uint32(found.Partition), Result: capstanv1.ComparisonResult(found.Result), Index: found.Index, Time: timestamppb.New(found.Time)}
	for i, a := range found.Answers {
		digest := &capstanv1.ReplicaDigest{Node: nameOf(ring, found.Replicas[i]), Refusal: a.Refusal}
		if a.State == digestDone {
			digest.Digest, digest.Records, digest.Bytes = a.Digest.Sum[:], a.Digest.Records, a.Digest.Bytes
		}
		out.Replicas = append(out.Replicas, digest)
	}
	return out
}

// CompareReplicas compares the replicas of a partition, as far as that is done in
// time.
func (c clusterService) CompareReplicas(ctx context.Context, req *capstanv1.CompareReplicasRequest) (*capstanv1.CompareReplicasResponse, error) {
	n := c.node
	ring := n.ring()
	if !ring.Placed() {
		return nil, notInCluster()
	}
	if int(req.GetPartition()) >= len(ring.Partitions) {
		return nil, noPartition(req.GetPartition(), len(ring.Partitions))
	}
	p := partition.ID(req.GetPartition())
	var id storage.CheckID
	if len(req.GetId()) > 0 {
		if copy(id[:], req.GetId()) != len(req.GetId()) || len(req.GetId()) != len(id) {
			return nil, badOption("an id of %d bytes is none of a comparison", len(req.GetId()))
		}
	} else {
		var err error
		if id, err = n.comparer.begin(ctx, p); err != nil {
			return nil, err
		}
	}
	soon, cancel := inTimeToAnswer(ctx)
	defer cancel()
	found := n.comparer.await(soon, p, id)
	return &capstanv1.CompareReplicasResponse{Id: id[:], Comparison: comparisonMessage(ring, found)}, nil
}

func noPartition(asked uint32, count int) *replication.Error {
	return badOption("there is no partition %d: they are numbered 0 to %d", asked, count-1)
}

func byNameThenID(a, b *capstanv1.Node) int {
	if a.GetName() != b.GetName() {
		return compare(a.GetName(), b.GetName())
	}
	return compare(a.GetId(), b.GetId())
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// nodeState is the control group's word; where that says alive, gossip at this
// node has the last word, since the control group may not have heard yet.
func nodeState(known control.Node, alive bool) capstanv1.NodeState {
	switch known.State {
	case control.Draining:
		return capstanv1.NodeState_NODE_STATE_DRAINING
	case control.Left:
		return capstanv1.NodeState_NODE_STATE_LEFT
	case control.Dead:
		return capstanv1.NodeState_NODE_STATE_DEAD
	}
	if !alive {
		return capstanv1.NodeState_NODE_STATE_DEAD
	}
	return capstanv1.NodeState_NODE_STATE_ALIVE
}

// TransferLeadership has the leader of a partition hand over.
func (c clusterService) TransferLeadership(ctx context.Context, req *capstanv1.TransferLeadershipRequest) (*capstanv1.TransferLeadershipResponse, error) {
	n := c.node
	ring := n.ring()
	if !ring.Placed() {
		return nil, notInCluster()
	}
	if int(req.GetPartition()) >= len(ring.Partitions) {
		return nil, noPartition(req.GetPartition(), len(ring.Partitions))
	}
	p := partition.ID(req.GetPartition())
	var to partition.NodeID
	if req.GetTo() != "" {
		node, ok := ring.Holder(req.GetTo())
		if !ok {
			return nil, badOption("there is no node %q", req.GetTo())
		}
		if placed, ok := ring.Replica(p, node.ID); !ok || !placed.Voter {
			return nil, badOption("%s holds no voting replica of partition %d", req.GetTo(), p)
		}
		to = node.ID
	}
	leader, err := route(ctx, n.router, p, transferCall(p, to))
	if err != nil {
		return nil, err
	}
	return &capstanv1.TransferLeadershipResponse{Leader: nameOf(ring, leader)}, nil
}

// transferLeader carries out the driver's wish.
func (n *Node) transferLeader(ctx context.Context, t partition.Transfer) error {
	_, err := route(ctx, n.router, t.Partition, transferCall(t.Partition, t.To))
	return err
}

// DrainNode comes with the moving of replicas.
func (clusterService) DrainNode(context.Context, *capstanv1.DrainNodeRequest) (*capstanv1.DrainNodeResponse, error) {
	return nil, api.ErrUnimplemented("draining a node")
}

func badOption(format string, args ...any) *replication.Error {
	return &replication.Error{Reason: replication.BadOption, Outcome: replication.NotApplied, Message: fmt.Sprintf(format, args...)}
}

// apiAddress is where clients reach a node.
func (n *Node) apiAddress(id partition.NodeID) string {
	known, _ := n.ring().Node(id)
	return known.API
}

// transferOrder asks a leader to hand over; To may be empty.
type transferOrder struct {
	Partition partition.ID
	To        partition.NodeID `json:",omitempty"`
}

// transferCall hands leadership of p to a node, or to the most advanced
// replica. It may be tried again: handing over twice does no harm.
func transferCall(p partition.ID, to partition.NodeID) call[partition.NodeID] {
	return call[partition.NodeID]{
		write: true, order: true,
		here: func(ctx context.Context, here *replica) (partition.NodeID, error) {
			return here.transfer(ctx, to)
		},
		frame: func() ([]byte, error) {
			order, err := json.Marshal(transferOrder{Partition: p, To: to})
			return append([]byte{byte(hopTransfer)}, order...), err
		},
		decode: func(_ partition.NodeID, answer []byte) (partition.NodeID, error) {
			return partition.NodeID(answer), nil
		},
	}
}

// transfer hands leadership away, and says who leads afterwards as far as is
// known.
func (h *replica) transfer(ctx context.Context, to partition.NodeID) (partition.NodeID, error) {
	if err := h.group.TransferLeadership(ctx, to); err != nil {
		return "", err
	}
	if to != "" {
		return to, nil
	}
	return h.leader(), nil
}

func (s *hopServer) transfer(ctx context.Context, body []byte) ([]byte, error) {
	var order transferOrder
	if err := json.Unmarshal(body, &order); err != nil {
		return nil, badHop(err)
	}
	here, err := s.replica(order.Partition)
	if err != nil {
		return nil, err
	}
	leader, err := here.transfer(ctx, order.To)
	return []byte(leader), err
}

// handleStatus tells another node of this node's replicas.
func (n *Node) handleStatus(context.Context, partition.NodeID, []byte) ([]byte, error) {
	return encodeStatus(n.ownStatus()), nil
}

func (n *Node) ownStatus() nodeStatus {
	status := nodeStatus{Node: n.id, CutFrom: n.cutFrom(), HeldBack: n.heldBack(), Lost: n.replicas.allLost(), Compared: n.comparer.latest()}
	select {
	case <-n.controlUp:
		status.ControlApplied = n.control.group.Status().Applied
	default:
	}
	for _, here := range n.replicas.all() {
		s := here.group.Status()
		status.Groups = append(status.Groups, groupStatus{
			Partition: here.partition, Leads: here.group.Leads(), Leader: s.Leader.Node,
			Term: s.Term, Commit: s.Commit, Applied: s.Applied,
		})
	}
	for p, held := range n.exchange.Backlog() {
		if held.Count > 0 {
			status.Tentative = append(status.Tentative, tentativeStatus{p, held.Count})
		}
	}
	return status
}

func (n *Node) askStatus(ctx context.Context, node partition.NodeID) (nodeStatus, error) {
	if node == n.id {
		return n.ownStatus(), nil
	}
	answer, err := n.transport.Call(ctx, node, kindStatus, nil)
	if err != nil {
		return nodeStatus{}, err
	}
	status, err := decodeStatus(answer)
	if err == nil && status.Node != node {
		err = errors.New("status of another node")
	}
	return status, err
}
