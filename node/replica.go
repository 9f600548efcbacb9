package node

import (
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// replica is this node's copy of one partition: the group that agrees on its
// log, and the state that the log was applied to.
type replica struct {
	partition partition.ID
	node      partition.NodeID
	servedBy  string // the node's name
	group     *replication.Group
	state     *storage.ReplicaState
}

// leader is who leads the partition as far as the replica knows; empty if
// nobody does.
func (h *replica) leader() partition.NodeID {
	leader, _ := h.group.Leader()
	return leader.Node
}

// failed reports whether the replica serves nothing any more.
func (h *replica) failed() bool { return h.group != nil && h.group.Err() != nil }

func versionMessage(v storage.Version) *capstanv1.Version {
	return &capstanv1.Version{Index: v.Index, Timestamp: uint64(v.Timestamp), Node: string(v.Node)}
}

func partitionNode(id string) partition.NodeID { return partition.NodeID(id) }

// stateMachine lets a group drive the applied keyspace of one partition.
type stateMachine struct{ state *storage.ReplicaState }

func (m stateMachine) Apply(entries []replication.Entry) ([][]any, error) {
	in := make([]storage.ApplyEntry, len(entries))
	for i, e := range entries {
		in[i] = storage.ApplyEntry{Index: e.Index, Term: e.Term, Commands: e.Commands}
	}
	results, err := m.state.Apply(in)
	if err != nil {
		return nil, err
	}
	out := make([][]any, len(results))
	for i, of := range results {
		if of == nil {
			continue
		}
		out[i] = make([]any, len(of))
		for j, result := range of {
			out[i][j] = result
		}
	}
	return out, nil
}

func (m stateMachine) Applied() (index, term uint64) { return m.state.Applied() }
func (m stateMachine) Sync() error                   { return m.state.Sync() }

func (m stateMachine) View() (replication.MachineView, error)   { return m.state.View() }
func (m stateMachine) Stage() (replication.MachineStage, error) { return m.state.Stage() }
