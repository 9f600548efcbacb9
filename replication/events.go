package replication

import (
	"time"

	"github.com/capstan-kv/capstan/storage"
)

// Event is something a listener may want to know. The concrete types are the
// structs below. A listener is called from many goroutines, some of them on
// the way of requests: it must not block and must not call back.
type Event interface{ event() }

// LeaderObserved: the replica now follows another leader, or knows none (the
// zero Member).
type LeaderObserved struct {
	Replica storage.Replica
	Leader  Member
	Term    uint64
}

// LeadershipProven: the replica has applied its own no-op in Term and serves
// as leader from now on.
type LeadershipProven struct {
	Replica     storage.Replica
	Term, Index uint64
}

// LeadershipLost: the replica leads no more.
type LeadershipLost struct{ Replica storage.Replica }

// LeaderMissed: a quorum of voters has heard no leader for too long, this
// replica for that long, and it stands for election in their name.
type LeaderMissed struct {
	Replica storage.Replica
	For     time.Duration
}

// ReplicaFailed: the replica has stopped for good and serves nothing.
type ReplicaFailed struct {
	Replica storage.Replica
	Err     error
}

// DiskStalled: a write to the Raft log has been under way for longer than the
// lease; the replica sends no heartbeats until it is done.
type DiskStalled struct {
	Replica storage.Replica
	For     time.Duration
}

// DiskRecovered ends a DiskStalled.
type DiskRecovered struct{ Replica storage.Replica }

// ApplyStalled: the state machine has been applying the same entries for longer than
// the lease, or the replica was elected and does not get to prove it. It sends no
// heartbeats and does not stand for election until that is over.
type ApplyStalled struct {
	Replica storage.Replica
	For     time.Duration
}

// ApplyRecovered ends an ApplyStalled.
type ApplyRecovered struct{ Replica storage.Replica }

// SnapshotFailed: the log could not be cut; it will be tried again.
type SnapshotFailed struct {
	Replica storage.Replica
	Err     error
}

// RaftWarning is a line the Raft library would have logged, at level warn or
// above.
type RaftWarning struct {
	Replica storage.Replica
	Line    string
}

func (LeaderObserved) event()   {}
func (LeadershipProven) event() {}
func (LeadershipLost) event()   {}
func (LeaderMissed) event()     {}
func (ReplicaFailed) event()    {}
func (DiskStalled) event()      {}
func (DiskRecovered) event()    {}
func (ApplyStalled) event()     {}
func (ApplyRecovered) event()   {}
func (SnapshotFailed) event()   {}
func (RaftWarning) event()      {}

// lineEvents turns the library's log lines into events.
type lineEvents struct {
	replica storage.Replica
	emit    func(Event)
}

func (l lineEvents) Write(line []byte) (int, error) {
	l.emit(RaftWarning{Replica: l.replica, Line: string(line)})
	return len(line), nil
}
