package replication

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// fsm hands what Raft commits to the machine, a batch at a time.
//
// It sees entries of type command and configuration only, never the library's
// own no-ops and barriers. Configuration entries go to the machine as entries
// without commands, so that its applied index, and with it [Group.WaitApplied],
// covers them; see readIndexOf for why no read ever waits for a no-op.
//
// After the first error nothing more reaches the machine: every later entry is
// answered with that error, and the group stops.
type fsm struct {
	machine Machine
	applied *appliedIndex
	// bytes counts what was applied since the last snapshot, entries how many.
	bytes, entries atomic.Int64
	// since is when the batch now in the machine's hands was given to it; nil: none is.
	since atomic.Pointer[time.Time]

	onApplied func(index, term uint64)
	onNoop    func(n nonce, index, term uint64)
	onFailed  func(error)

	failure error // owned by the goroutine that applies
}

// applyFailure is the answer to an entry that the machine did not take.
type applyFailure struct{ err error }

func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	if f.failure == nil {
		f.failure = f.apply(logs, answers)
		if f.failure != nil {
			f.onFailed(f.failure)
		}
	}
	if f.failure != nil {
		for i := range answers {
			answers[i] = applyFailure{f.failure}
		}
	}
	return answers
}

func (f *fsm) apply(logs []*raft.Log, answers []any) error {
	entries := make([]Entry, len(logs))
	noops := make([]*nonce, len(logs))
	var size int64
	for i, l := range logs {
		entries[i] = Entry{Index: l.Index, Term: l.Term}
		size += int64(len(l.Data))
		if l.Type != raft.LogCommand {
			continue
		}
		fr, err := decodeFrame(l.Data)
		if err != nil {
			return fmt.Errorf("entry %d of term %d: %w", l.Index, l.Term, err)
		}
		entries[i].Commands, noops[i] = fr.Commands, fr.Noop
	}
	began := time.Now()
	f.since.Store(&began)
	results, err := f.machine.Apply(entries)
	f.since.Store(nil)
	last := entries[len(entries)-1]
	if err != nil {
		return fmt.Errorf("applying entries %d to %d: %w", entries[0].Index, last.Index, err)
	}
	if len(results) != len(entries) {
		return fmt.Errorf("applying entries %d to %d: the machine gave %d results for %d entries",
			entries[0].Index, last.Index, len(results), len(entries))
	}
	for i := range results {
		answers[i] = results[i]
	}
	f.bytes.Add(size)
	f.entries.Add(int64(len(entries)))
	f.applied.advance(last.Index, last.Term)
	for i, n := range noops {
		if n != nil {
			f.onNoop(*n, entries[i].Index, entries[i].Term)
		}
	}
	f.onApplied(last.Index, last.Term)
	return nil
}

// underWay is how long the machine has had the batch that it now applies; 0 if it has
// none.
func (f *fsm) underWay(now time.Time) time.Duration {
	if began := f.since.Load(); began != nil {
		return now.Sub(*began)
	}
	return 0
}

// Apply is for libraries that do not batch; ours does.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM. The snapshot may hold more than the index
// Raft gives it, after a restart for example: the machine skips what it has.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.failure != nil {
		return nil, f.failure
	}
	f.bytes.Store(0)
	f.entries.Store(0)
	return &snapshot{machine: f.machine}, nil
}

// Restore implements raft.FSM. The snapshot store has installed the received
// state in the machine by now: what is left is to see how far that goes.
func (f *fsm) Restore(r io.ReadCloser) error {
	if f.failure != nil {
		return errors.Join(f.failure, r.Close())
	}
	f.applied.advance(f.machine.Applied())
	return r.Close()
}

// snapshot lets Raft cut its log: the state up to there is made durable first.
type snapshot struct{ machine Machine }

func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.machine.Sync(); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (*snapshot) Release() {}
