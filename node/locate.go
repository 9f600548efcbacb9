package node

import (
	"context"
	"fmt"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
)

// LocateKey shows where a key lives and who would answer now, as this node
// sees it. It asks nobody.
func (c clusterService) LocateKey(_ context.Context, req *capstanv1.LocateKeyRequest) (*capstanv1.LocateKeyResponse, error) {
	n := c.node
	ring := n.ring()
	if !ring.Placed() {
		return nil, notInCluster()
	}
	p := partition.Of(req.GetKey(), len(ring.Partitions))
	alive := n.reachable()
	s := situation{self: n.config.Name, replicas: len(ring.Partitions[p].Replicas)}
	resp := &capstanv1.LocateKeyResponse{Hash: partition.Hash(req.GetKey()), Partition: uint32(p)}
	voters := 0
	for _, placed := range ring.Partitions[p].Replicas {
		name := nameOf(ring, placed.Node)
		resp.Replicas = append(resp.Replicas, name)
		if placed.Voter {
			voters++
		}
		if !alive[placed.Node] || placed.Node == n.id {
			continue // one of this node is counted below, if it is open
		}
		if placed.Voter {
			s.reachable++
		}
		if s.near == "" {
			s.near = name
		}
	}
	s.needed = voters/2 + 1
	s.refused = s.reachable < s.needed
	leader := n.router.hint(p)
	if here := n.replicas.replica(p); here != nil && !here.failed() {
		s.here = true
		leader = here.leader()
		s.reachable, s.needed = here.group.Reachable()
		s.refused = here.group.Refuses() != nil
	}
	if s.refused || !alive[leader] {
		leader = "" // it led when last heard of; Raft believes in it for a while longer
	}
	if leader != "" {
		s.leader = nameOf(ring, leader)
		resp.Leader = s.leader
	}
	resp.Routes = s.routes()
	return resp, nil
}

// situation is what decides where a node takes operations on one partition. Nodes
// are names.
type situation struct {
	self string
	// here: it has a replica that serves.
	here bool
	// refused: it would refuse linearizable operations at once.
	refused bool
	// leader is who leads as far as it knows, near another replica's node that
	// it reaches; empty if there is none.
	leader, near string
	// Of the replicas, so many voters are reached, and needed for a quorum.
	replicas, reachable, needed int
}

// routes is one for each consistency, the strictest first.
func (s situation) routes() []*capstanv1.Route {
	strict := &capstanv1.Route{Consistency: capstanv1.Consistency_CONSISTENCY_LINEARIZABLE}
	bounded := &capstanv1.Route{Consistency: capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS}
	loose := &capstanv1.Route{Consistency: capstanv1.Consistency_CONSISTENCY_EVENTUAL}

	away := s.leader // where a node without a replica goes, which may send it on once
	if away == "" {
		away = s.near
	}
	switch {
	case s.refused:
		strict.Refusal = fmt.Sprintf("%d of %d replicas needed", s.needed, s.replicas)
	case s.here && s.leader == "":
		strict.Refusal = "no leader is known"
	case s.here:
		strict.ReadsFrom, strict.WritesTo = s.self, s.leader
	default:
		strict.ReadsFrom, strict.WritesTo = away, away
	}
	switch {
	case strict.GetRefusal() != "":
		bounded.Refusal = "refused once the bound is used up: no leader to ask"
	default:
		bounded.ReadsFrom = strict.GetReadsFrom()
	}
	switch {
	case s.here || away == "":
		loose.ReadsFrom, loose.WritesTo = s.self, s.self // away == "": it keeps the write until it reaches a replica
	default:
		loose.ReadsFrom, loose.WritesTo = away, away
	}
	return []*capstanv1.Route{strict, bounded, loose}
}
