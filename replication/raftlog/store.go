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
// concurrent use; each write but DropPrefix is durable when it returns and is there
// whole, or not at all, after a crash.
type disk interface {
	Bounds() (first, last uint64, err error)
	// Read gives raft.ErrLogNotFound for an entry that is not there.
	Read(index uint64, into *raft.Log) error
	// Append writes entries that begin within the log or right behind it, in place of
	// the suffix that they overlap.
	Append([]*raft.Log) error
	// Replace drops all entries and writes these, if there are any.
	Replace([]*raft.Log) error
	// DropPrefix removes the entries up to that index. A crash may bring them back.
	DropPrefix(to uint64) error
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
	// appliedFromLog is the machine's; nil if there is none. Set before raft is started.
	appliedFromLog func() (index, term uint64)

	writing sync.Mutex // one change of the log at a time; taken before mu

	mu       sync.Mutex
	held     uint64 // LastVoteTerm of a vote whose candidate is still to come
	holding  bool
	vote     vote // the last whole vote, durable
	voted    bool
	snapshot *meta // the stored snapshot, durable; nil before the first
	// keepFrom: the log holds the last entry of the snapshot just installed;
	// the deletion of all entries that raft does next must stop below it.
	keepFrom uint64
	// cut: entries above cutAt were deleted and are still on disk, until the entries
	// that replace them are written. Nobody sees them.
	cut   bool
	cutAt uint64
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
)

func newStore(d disk) (*Store, error) {
	s := &Store{disk: d}
	err := s.loadValue(valueVote, func(record []byte) (err error) {
		s.vote, err = decodeVote(record)
		s.voted = true
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.loadValue(valueSnapshot, func(record []byte) error {
		m, err := decodeMeta(record)
		s.snapshot = &m
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, s.dropUnderSnapshot()
}

func (s *Store) loadValue(name string, decode func([]byte) error) error {
	record, err := s.disk.Value(name)
	if errors.Is(err, errNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return decode(record)
}

// dropUnderSnapshot does what raft would have done but for a crash: it emptied the log
// behind a received snapshot, unless the log goes on from the snapshot. Entries of
// another history must not be here when this replica leads: raft sends them on before
// it has appended anything.
func (s *Store) dropUnderSnapshot() error {
	if s.snapshot == nil {
		return nil
	}
	fits, err := s.fits(*s.snapshot)
	if err != nil || fits {
		return err
	}
	return s.disk.Replace(nil)
}

// fits says whether the log goes on from the snapshot: it holds the snapshot's last
// entry, or begins right behind it, or is empty.
func (s *Store) fits(m meta) (bool, error) {
	first, last, err := s.bounds()
	switch {
	case err != nil:
		return false, err
	case last == 0 || first == m.Index+1:
		return true, nil
	case first > m.Index+1:
		return false, fmt.Errorf("%w: log begins at %d, snapshot up to %d", ErrHole, first, m.Index)
	}
	return s.hasEntry(m.Index, m.Term)
}

// hasEntry says whether the log holds the entry of that index and term.
func (s *Store) hasEntry(index, term uint64) (bool, error) {
	var l raft.Log
	err := s.read(index, &l)
	if errors.Is(err, raft.ErrLogNotFound) {
		return false, nil
	}
	return err == nil && l.Term == term, err
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
func (s *Store) FirstIndex() (uint64, error) { first, _, err := s.bounds(); return first, err }

// LastIndex is 0 for an empty log.
func (s *Store) LastIndex() (uint64, error) { _, last, err := s.bounds(); return last, err }

// bounds are those of the entries that are not deleted.
func (s *Store) bounds() (first, last uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last, err = s.disk.Bounds()
	if err == nil && s.cut {
		last = min(last, s.cutAt)
	}
	if err != nil || last < first {
		return 0, 0, err
	}
	return first, last, nil
}

// GetLog reads one entry; raft.ErrLogNotFound if it is not there. The snapshot's last
// entry is there for its term, without its data: see the package's documentation.
func (s *Store) GetLog(index uint64, into *raft.Log) error {
	err := s.read(index, into)
	// A leader asks for what precedes an entry before it sends that: so nobody is sent
	// this one, but for the first of all, which nothing precedes.
	if m := s.stored(); errors.Is(err, raft.ErrLogNotFound) && m != nil && m.Index == index && index > 1 {
		*into = raft.Log{Index: index, Term: m.Term, Type: raft.LogNoop}
		return nil
	}
	return err
}

// read reads an entry that is not deleted.
func (s *Store) read(index uint64, into *raft.Log) error {
	s.mu.Lock()
	deleted := s.cut && index > s.cutAt
	s.mu.Unlock()
	if deleted {
		return raft.ErrLogNotFound
	}
	return s.disk.Read(index, into)
}

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
	s.writing.Lock()
	defer s.writing.Unlock()
	_, last, err := s.bounds()
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
	from := logs[0].Index
	if from > last+1 && from > covered+1 {
		return fmt.Errorf("%w: %d behind %d, snapshot up to %d", ErrHole, from, last, covered)
	}
	write := s.disk.Append
	if last == 0 || from > last+1 {
		write = s.disk.Replace
	}
	if err := write(logs); err != nil {
		return err
	}
	s.mu.Lock()
	s.cut = false
	s.mu.Unlock()
	return nil
}

// DeleteRange cuts off a prefix or a suffix of the log, both ends included.
//
// A suffix, or all, stays on disk until the entries that take its place are written,
// in one step with them. By itself that deletion would let the log end below what it
// had acknowledged, if a crash comes next. The old entries are no harm then: it is as
// if the request that replaces them had not come yet.
func (s *Store) DeleteRange(lowest, highest uint64) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	first, last, err := s.bounds()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.keepFrom != 0 && highest >= last {
		highest = min(highest, s.keepFrom-1)
		s.keepFrom = 0
	}
	s.mu.Unlock()
	from, to := max(lowest, first), min(highest, last)
	switch {
	case last == 0 || from > to:
		return nil
	case to == last:
		if err := s.checkCut(from); err != nil {
			return err
		}
		s.mu.Lock()
		s.cut, s.cutAt = true, from-1
		s.mu.Unlock()
		return nil
	case from == first:
		return s.disk.DropPrefix(to)
	}
	return fmt.Errorf("%w: to delete %d to %d of %d to %d", ErrHole, lowest, highest, first, last)
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
	_, last, err := s.bounds()
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
