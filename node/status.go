package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// statusWait bounds how long a status waits for the other nodes: somebody who
// asks for it during an outage should not have to wait for the outage.
const statusWait = 750 * time.Millisecond

// groupStatus is what a node knows of one of its replicas.
type groupStatus struct {
	Partition partition.ID
	Leads     bool
	Leader    partition.NodeID `json:",omitempty"`
	Term      uint64
	Commit    uint64
	Applied   uint64
}

// nodeStatus is what one node knows of itself.
type nodeStatus struct {
	Node           partition.NodeID
	ControlApplied uint64
	Groups         []groupStatus
	CutFrom        []partition.NodeID `json:",omitempty"` // see chaosService
	Tentative      []tentativeStatus  `json:",omitempty"`
	// Lost are its replicas that are out of service.
	Lost []outage `json:",omitempty"`
	// Compared are the last comparisons of replicas that it has made.
	Compared []comparison `json:",omitempty"`
	// HeldBack is how many partitions that the node leads keep tombstones because
	// of which nodes.
	HeldBack map[partition.NodeID]int `json:",omitempty"`
}

// tentativeStatus is how many undecided eventual writes of a partition a node
// holds.
type tentativeStatus struct {
	Partition partition.ID
	Count     int
}

// backlog is how many copies of undecided eventual writes of each partition
// the nodes hold.
func backlog(statuses map[partition.NodeID]nodeStatus) map[partition.ID]uint64 {
	out := map[partition.ID]uint64{}
	for _, status := range statuses {
		for _, held := range status.Tentative {
			out[held.Partition] += uint64(max(held.Count, 0))
		}
	}
	return out
}

// holdsBack is how many partitions keep tombstones because of a node.
func holdsBack(statuses map[partition.NodeID]nodeStatus, node partition.NodeID) (partitions uint32) {
	for _, status := range statuses {
		partitions += uint32(max(status.HeldBack[node], 0))
	}
	return partitions
}

// applied is the node's applied index of a partition; 0 if it is not known.
func (s nodeStatus) applied(p partition.ID) uint64 {
	for _, g := range s.Groups {
		if g.Partition == p {
			return g.Applied
		}
	}
	return 0
}

// outage is why the node's replica of a partition is out of service; nil if it is
// not, as far as is known.
func (s nodeStatus) outage(p partition.ID) *outage {
	for i := range s.Lost {
		if s.Lost[i].Partition == p {
			return &s.Lost[i]
		}
	}
	return nil
}

// lastComparisons are the newest comparisons of the partitions that any node has made.
func lastComparisons(statuses map[partition.NodeID]nodeStatus) map[partition.ID]comparison {
	last := map[partition.ID]comparison{}
	for _, status := range statuses {
		for _, found := range status.Compared {
			if found.Time.After(last[found.Partition].Time) {
				last[found.Partition] = found
			}
		}
	}
	return last
}

// lostReplicas are the nodes whose replica of a partition is out of service, by
// partition.
func lostReplicas(statuses map[partition.NodeID]nodeStatus) map[partition.ID][]partition.NodeID {
	lost := map[partition.ID][]partition.NodeID{}
	for node, status := range statuses {
		for _, why := range status.Lost {
			lost[why.Partition] = append(lost[why.Partition], node)
		}
	}
	return lost
}

func encodeStatus(s nodeStatus) []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("node: a struct of plain fields does not encode: %v", err))
	}
	return data
}

func decodeStatus(data []byte) (nodeStatus, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var s nodeStatus
	if err := decoder.Decode(&s); err != nil {
		return nodeStatus{}, fmt.Errorf("status of a node: %w", err)
	}
	return s, nil
}

// askStatus asks nodes for their status, all at once, and returns what came in
// time.
func askStatus(ctx context.Context, ask func(context.Context, partition.NodeID) (nodeStatus, error), nodes []partition.NodeID) map[partition.NodeID]nodeStatus {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	got := make(map[partition.NodeID]nodeStatus, len(nodes))
	for _, node := range nodes {
		asked.Go(func() {
			status, err := ask(ctx, node)
			if err != nil {
				return // what does not answer is missing from the result
			}
			mu.Lock()
			defer mu.Unlock()
			got[node] = status
		})
	}
	asked.Wait()
	return got
}

// leaders is who leads each partition by the nodes' own word: of two that both
// think so, the one of the higher term.
func leaders(statuses map[partition.NodeID]nodeStatus) map[partition.ID]groupLeader {
	out := map[partition.ID]groupLeader{}
	for node, status := range statuses {
		for _, g := range status.Groups {
			if g.Leads && g.Term > out[g.Partition].term {
				out[g.Partition] = groupLeader{node: node, term: g.Term, commit: g.Commit}
			}
		}
	}
	return out
}

type groupLeader struct {
	node         partition.NodeID
	term, commit uint64
}
