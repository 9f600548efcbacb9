package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The names under which hashicorp/raft keeps its stable values (raft.go:28).
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
)

// Our own values. No key of raft's has a slash.
const (
	valueVote     = "capstan/vote"
	valueSnapshot = "capstan/snapshot"
)

var (
	// errNotFound has the one text that raft takes for "never set".
	errNotFound = errors.New("not found")
	// ErrVote refuses a vote that would contradict one already given.
	ErrVote = errors.New("a vote may not be changed")
	// ErrHole refuses entries that would leave a hole which no snapshot covers.
	ErrHole = errors.New("entries would leave a hole in the log")
	// ErrNewerFormat is a record of a newer version than this one.
	ErrNewerFormat = errors.New("record has a newer format than this version knows")
	// ErrCorrupt is a record that can not be what was written.
	ErrCorrupt = errors.New("corrupt record")
)

// disk keeps one replica's entries and values. All methods are safe for
// concurrent use; each write is durable when it returns and is there whole, or
// not at all, after a crash (but see Append).
type disk interface {
	Bounds() (first, last uint64, err error)
	// Read gives raft.ErrLogNotFound for an entry that is not there.
	Read(index uint64, into *raft.Log) error
	// Append replaces an overlapping suffix, and drops the log before a hole.
	// A crash may leave the old part dropped and the new not yet written.
	Append([]*raft.Log) error
	DeleteRange(lowest, highest uint64) error
	// Value gives errNotFound for one never set.
	Value(name string) ([]byte, error)
	SetValue(name string, value []byte) error
	// Bootstrap writes the first entry, the term and that it has done so.
	Bootstrap(entry *raft.Log) error
	Bootstrapped() (bool, error)
	Stalled() time.Duration
	Close() error
}

// Store is the raft.LogStore and raft.StableStore of one replica. Its methods
// are safe for concurrent use.
type Store struct {
	disk disk

	mu       sync.Mutex
	held     uint64 // LastVoteTerm of a vote whose candidate is still to come
	holding  bool
	vote     vote // the last whole vote, durable
	voted    bool
	snapshot *meta // the stored snapshot, durable; nil before the first
	// keepFrom: the log holds the last entry of the snapshot just installed;
	// the deletion of all entries that raft does next must stop below it.
	keepFrom uint64
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
)

func newStore(d disk) (*Store, error) {
	s := &Store{disk: d}
	record, err := d.Value(valueVote)
	switch {
	case err == nil:
		if s.vote, err = decodeVote(record); err != nil {
			return nil, err
		}
		s.voted = true
	case !errors.Is(err, errNotFound):
		return nil, err
	}
	record, err = d.Value(valueSnapshot)
	switch {
	case err == nil:
		m, err := decodeMeta(record)
		if err != nil {
			return nil, err
		}
		s.snapshot = &m
	case !errors.Is(err, errNotFound):
		return nil, err
	}
	return s, nil
}

// Close lets go of the store. The shared log database stays open; a bolt file
// is closed.
func (s *Store) Close() error { return s.disk.Close() }

// Stalled is how long the oldest write now in flight has been waiting for the
// disk; 0 if there is none.
func (s *Store) Stalled() time.Duration { return s.disk.Stalled() }

// IsMonotonic tells raft to leave no holes.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex is 0 for an empty log.
func (s *Store) FirstIndex() (uint64, error) { first, _, err := s.disk.Bounds(); return first, err }

// LastIndex is 0 for an empty log.
func (s *Store) LastIndex() (uint64, error) { _, last, err := s.disk.Bounds(); return last, err }

// GetLog reads one entry; raft.ErrLogNotFound if it is not there.
func (s *Store) GetLog(index uint64, into *raft.Log) error { return s.disk.Read(index, into) }

// StoreLog is StoreLogs of one.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries. Beyond the next index they are taken only if the
// snapshot covers what is missing; the log then begins with them.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	for i, l := range logs {
		if l.Index != logs[0].Index+uint64(i) || l.Index == 0 {
			return fmt.Errorf("%w: %d behind %d", ErrHole, l.Index, logs[0].Index)
		}
	}
	_, last, err := s.disk.Bounds()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.keepFrom = 0
	var covered uint64
	if s.snapshot != nil {
		covered = s.snapshot.Index
	}
	s.mu.Unlock()
	if from := logs[0].Index; from > last+1 && from > covered+1 {
		return fmt.Errorf("%w: %d behind %d, snapshot up to %d", ErrHole, from, last, covered)
	}
	return s.disk.Append(logs)
}

// DeleteRange cuts off a prefix or a suffix of the log, both ends included.
func (s *Store) DeleteRange(lowest, highest uint64) error {
	_, last, err := s.disk.Bounds()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.keepFrom != 0 && highest >= last {
		highest = min(highest, s.keepFrom-1)
		s.keepFrom = 0
	}
	s.mu.Unlock()
	if lowest > highest {
		return nil
	}
	return s.disk.DeleteRange(lowest, highest)
}

// Set stores a value. LastVoteCand completes the vote whose term was set
// before it, and both become durable in one piece.
func (s *Store) Set(key, value []byte) error {
	if string(key) != keyLastVoteCand {
		return s.disk.SetValue(string(key), value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.holding {
		return fmt.Errorf("%w: a candidate without a term", ErrVote)
	}
	s.holding = false
	v := vote{Term: s.held, Candidate: string(value)}
	switch {
	case s.voted && v == s.vote:
		return nil
	case s.voted && v.Term <= s.vote.Term:
		return fmt.Errorf("%w: %q in term %d after %q in term %d", ErrVote, v.Candidate, v.Term, s.vote.Candidate, s.vote.Term)
	}
	if err := s.disk.SetValue(valueVote, v.encode()); err != nil {
		return err
	}
	s.vote, s.voted = v, true
	return nil
}

// Get reads a value; the error's text is "not found" if it was never set.
func (s *Store) Get(key []byte) ([]byte, error) {
	switch string(key) {
	case keyLastVoteCand:
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.voted {
			return nil, errNotFound
		}
		return []byte(s.vote.Candidate), nil
	case keyLastVoteTerm:
		n, err := s.GetUint64(key)
		if err != nil {
			return nil, err
		}
		return binary.BigEndian.AppendUint64(nil, n), nil
	}
	return s.disk.Value(string(key))
}

// SetUint64 stores a number. LastVoteTerm is held back until its candidate is
// known, see [Store.Set].
func (s *Store) SetUint64(key []byte, n uint64) error {
	if string(key) == keyLastVoteTerm {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held, s.holding = n, true
		return nil
	}
	return s.disk.SetValue(string(key), binary.BigEndian.AppendUint64(nil, n))
}

// GetUint64 reads a number; the error's text is "not found" if it was never set.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	if string(key) == keyLastVoteTerm {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.voted {
			return 0, errNotFound
		}
		return s.vote.Term, nil
	}
	b, err := s.disk.Value(string(key))
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: %s has %d bytes, not the 8 of a number", ErrCorrupt, key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// Bootstrap gives a new replica its first configuration: what
// raft.BootstrapCluster writes, in one piece. Done before, it does nothing; on
// a replica with any other history it is raft.ErrCantBootstrap. Call it before
// raft is started on the store.
func (s *Store) Bootstrap(c raft.Configuration) error {
	done, err := s.disk.Bootstrapped()
	if err != nil || done {
		return err
	}
	s.mu.Lock()
	history := s.voted || s.snapshot != nil
	s.mu.Unlock()
	term, err := s.GetUint64([]byte(keyCurrentTerm))
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	_, last, err := s.disk.Bounds()
	if err != nil {
		return err
	}
	if history || term > 0 || last > 0 {
		return raft.ErrCantBootstrap
	}
	if err := checkConfiguration(c); err != nil {
		return err
	}
	return s.disk.Bootstrap(bootstrapEntry(raft.EncodeConfiguration(c)))
}

// bootstrapTerm is the term of a bootstrapped replica and of its only entry.
const bootstrapTerm = 1

func bootstrapEntry(configuration []byte) *raft.Log {
	return &raft.Log{Index: 1, Term: bootstrapTerm, Type: raft.LogConfiguration, Data: configuration}
}

// checkConfiguration refuses what raft (configuration.go) would.
func checkConfiguration(c raft.Configuration) error {
	ids, addresses, voters := map[raft.ServerID]bool{}, map[raft.ServerAddress]bool{}, 0
	for _, s := range c.Servers {
		if s.ID == "" || s.Address == "" || ids[s.ID] || addresses[s.Address] {
			return fmt.Errorf("configuration has an empty or doubled server %q at %q", s.ID, s.Address)
		}
		ids[s.ID], addresses[s.Address] = true, true
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 {
		return errors.New("configuration has no voter")
	}
	return nil
}
