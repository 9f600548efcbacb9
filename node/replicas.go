package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// openAtOnce bounds the replicas opened side by side: each reads its log's
// bounds and starts some goroutines.
const openAtOnce = 8

// replicaSet is the replicas that this node holds. Safe for concurrent use.
type replicaSet struct {
	self   partition.NodeID
	name   string
	opener *groupOpener
	state  *storage.State
	log    *slog.Logger

	exchange    *exchange.Exchange
	sessions    *sessions
	clock       *hlc.Clock
	room        func(group *replication.Group, deletes bool) error // see replica.room
	beforeApply func(partition.ID, []replication.Entry)            // see stateMachine
	comparer    *comparer

	following sync.Mutex // one follow at a time

	mu      sync.RWMutex
	open    map[partition.ID]*heldReplica
	outages map[partition.ID]*outage // see quarantine.go; in neither of both: not opened yet
	closed  bool
	leaving sync.WaitGroup // those that are taken out of service
}

type heldReplica struct {
	*replica
	parts      *groupParts
	generation uint32
	leaving    bool // it is taken out of service
}

// replica is this node's replica of p, or nil.
func (s *replicaSet) replica(p partition.ID) *replica {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if held := s.open[p]; held != nil {
		return held.replica
	}
	return nil
}

// all are the replicas open now, in order of their partitions.
func (s *replicaSet) all() []*replica {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*replica
	for p := partition.ID(0); len(out) < len(s.open); p++ {
		if held := s.open[p]; held != nil {
			out = append(out, held.replica)
		}
	}
	return out
}

// follow opens the replicas that the ring gives to this node and are not open. One
// that cannot be opened is left out; an error says that the node must not go on.
func (s *replicaSet) follow(ring *control.State) error {
	s.following.Lock()
	defer s.following.Unlock()
	var openers errgroup.Group
	openers.SetLimit(openAtOnce)
	for p := range ring.Partitions {
		id := partition.ID(p)
		placed, ok := ring.Replica(id, s.self)
		if !ok || s.replica(id) != nil || s.lost(id) != nil {
			continue
		}
		openers.Go(func() error {
			if err := s.add(ring, id, placed); err != nil {
				return fmt.Errorf("partition %d: %w", id, err)
			}
			return nil
		})
	}
	return openers.Wait()
}

func (s *replicaSet) add(ring *control.State, p partition.ID, placed control.Replica) error {
	name := storage.Replica{Group: storage.GroupOf(p), Generation: placed.Generation}
	switch why, err := s.opener.quarantined(name); {
	case err != nil:
		return err
	case why != nil:
		s.out(why)
		s.exchange.Kick(p)
		return nil
	}
	state, err := s.state.Replica(name)
	if err != nil {
		return s.notOpened(name, err)
	}
	state.SetPartitions(len(ring.Partitions))
	var first []replication.Member
	if placed.Generation == control.FirstGeneration {
		// All replicas of the first placement begin with the same configuration.
		for _, replica := range ring.Partitions[p].Replicas {
			if replica.Generation == control.FirstGeneration {
				first = append(first, replication.Member{Node: replica.Node, Generation: replica.Generation})
			}
		}
	}
	preferred := ring.Partitions[p].Replicas[0].Node == s.self
	machine := stateMachine{partition: p, state: state, exchange: s.exchange, beforeApply: s.beforeApply}
	state.OnCheck(s.comparer.seeing(p))
	parts, err := s.opener.openGroup(name, machine, first, preferred)
	if err != nil {
		return s.notOpened(name, err)
	}
	held := &heldReplica{parts: parts, generation: placed.Generation, replica: &replica{
		partition: p, node: s.self, servedBy: s.name, group: parts.group, state: state,
		exchange: s.exchange, sessions: s.sessions, clock: s.clock, room: s.room,
	}}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		if s.open == nil {
			s.open = map[partition.ID]*heldReplica{}
		}
		s.open[p] = held
	}
	s.mu.Unlock()
	if closed {
		return errors.Join(stopping(), parts.close())
	}
	// What the state had decided before the node was last closed.
	s.exchange.Recover(p)
	// What was found wrong before the replica stood among the open ones.
	if err := cmp.Or(parts.group.Err(), state.Damage()); err != nil {
		s.fail(name, err)
	}
	return nil
}

func (s *replicaSet) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.leaving.Wait()
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.mu.Unlock()
	s.following.Lock() // wait for one that is opening
	defer s.following.Unlock()
	var mu sync.Mutex
	var errs []error
	var closing sync.WaitGroup
	for _, held := range open {
		closing.Go(func() {
			err := held.parts.close()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}
