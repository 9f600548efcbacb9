package node

import (
	"errors"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"

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

	exchange *exchange.Exchange
	sessions *sessions
	clock    *hlc.Clock
	// room is why the group takes no write now, for want of room on the disks; it
	// takes deletes longer than others.
	room func(group *replication.Group, deletes bool) error
}

// leader is who leads the partition as far as the replica knows; empty if
// nobody does.
func (h *replica) leader() partition.NodeID {
	leader, _ := h.group.Leader()
	return leader.Node
}

// relaying is the replica as another node uses it: see sessions.relayed.
func (h *replica) relaying(to *sessions) *replica {
	copied := *h
	copied.sessions = to
	return &copied
}

// failed reports whether the replica serves nothing any more.
func (h *replica) failed() bool { return h.group != nil && h.group.Err() != nil }

// unread is the refusal of a request that the state here could not answer, while
// another replica's can: what the disk did is no answer. A refusal stays as it is.
func (h *replica) unread(err error) error {
	var refusal *replication.Error
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	refusal = failedHere(h.partition)
	if refusal.Err = err; errors.Is(err, storage.ErrStateDamaged) {
		refusal.Err = storage.ErrStateDamaged // which file it is, the node's log and status tell
	}
	return refusal
}

func versionMessage(v storage.Version) *capstanv1.Version {
	return &capstanv1.Version{Index: v.Index, Timestamp: uint64(v.Timestamp), Node: string(v.Node)}
}

func partitionNode(id string) partition.NodeID { return partition.NodeID(id) }

// stateMachine lets a group drive the applied keyspace of one partition, and
// tells the exchange what has been decided about tentative writes.
type stateMachine struct {
	partition partition.ID
	state     *storage.ReplicaState
	exchange  *exchange.Exchange
	// beforeApply is called before entries are applied; tests look at them, and
	// hold them up here.
	beforeApply func(partition.ID, []replication.Entry)
}

func (m stateMachine) Apply(entries []replication.Entry) ([][]any, error) {
	if m.beforeApply != nil {
		m.beforeApply(m.partition, entries)
	}
	in := make([]storage.ApplyEntry, len(entries))
	for i, e := range entries {
		in[i] = storage.ApplyEntry{Index: e.Index, Term: e.Term, Commands: e.Commands}
	}
	forfeits := m.state.Forfeits()
	results, err := m.state.Apply(in)
	if err != nil {
		return nil, err
	}
	var decided []storage.PromotionResult
	out := make([][]any, len(results))
	for i, of := range results {
		if of == nil {
			continue
		}
		out[i] = make([]any, len(of))
		for j, result := range of {
			out[i][j] = result
			if result.Promoted != nil {
				decided = append(decided, *result.Promoted)
			}
		}
	}
	index, _ := m.state.Applied()
	m.exchange.Applied(m.partition, index, decided)
	if m.state.Forfeits() > forfeits {
		m.exchange.Recover(m.partition) // what is held of a removed node is lost
	}
	return out, nil
}

// Check implements replication.CommandChecker.
func (m stateMachine) Check(command []byte) error { return storage.CheckCommand(command) }

func (m stateMachine) Applied() (index, term uint64) { return m.state.Applied() }

// AppliedFromLog is what the replica's log must hold, or have held.
func (m stateMachine) AppliedFromLog() (index, term uint64) { return m.state.AppliedFromLog() }

// Sync makes the state durable; then the records of tentative writes that it
// holds the fate of may go.
func (m stateMachine) Sync() error {
	index, _ := m.state.Applied()
	if err := m.state.Sync(); err != nil {
		return err
	}
	m.exchange.Durable(m.partition, index)
	return nil
}

func (m stateMachine) View() (replication.MachineView, error) { return m.state.View() }

func (m stateMachine) Stage() (replication.MachineStage, error) {
	stage, err := m.state.Stage()
	if err != nil {
		return nil, err
	}
	return replicaStage{stage, m}, nil
}

// replicaStage tells the exchange of a state that came as a whole: what it has
// decided is settled here.
type replicaStage struct {
	*storage.ReplicaStage
	machine stateMachine
}

func (s replicaStage) Install() error {
	if err := s.ReplicaStage.Install(); err != nil {
		return err
	}
	s.machine.exchange.Recover(s.machine.partition)
	return nil
}
