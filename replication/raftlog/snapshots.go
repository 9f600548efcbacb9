package raftlog

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// ticketBytes is the length of a staging ticket: random, so that no replayed
// or foreign request names a staged state by chance.
const ticketBytes = 16

var (
	// ErrStaleSnapshot refuses a snapshot older than the stored one.
	ErrStaleSnapshot = errors.New("the snapshot is older than the stored one")
	// ErrNoState refuses metadata with no state behind them: a received
	// snapshot without a ticket, or with an unknown one.
	ErrNoState = errors.New("no state stands behind the snapshot")
)

// View is a pinned state of the replica's machine.
type View interface {
	WriteTo(w io.Writer) (int64, error)
	Close() error
}

// Stage takes up the stream of another replica's [View].
type Stage interface {
	ReadFrom(r io.Reader) (int64, error)
	// Install makes what was read the machine's state, atomically and durably.
	Install() error
	Close() error
}

// Machine is what the snapshots and the log need of the replica's state machine.
type Machine struct {
	View  func() (View, error)
	Stage func() (Stage, error)
	// AppliedFromLog is the last entry of this log that the machine has applied; zero
	// if its state came as a whole, and nothing was applied to it since. Nil if nobody
	// knows.
	AppliedFromLog func() (index, term uint64)
}

// Snapshots is the raft.SnapshotStore of one replica: metadata only, see the
// package's documentation. Its methods are safe for concurrent use.
type Snapshots struct {
	store   *Store
	machine Machine

	mu     sync.Mutex
	ticket []byte // names staged; at most one is kept, the newest
	staged Stage
	closed bool
}

var _ raft.SnapshotStore = (*Snapshots)(nil)

// Snapshots is the snapshot store that goes with s. Make it once, before raft is started
// on s.
func (s *Store) Snapshots(m Machine) *Snapshots {
	s.appliedFromLog = m.AppliedFromLog
	return &Snapshots{store: s, machine: m}
}

// CheckState compares the machine's state with the log, before raft is started on it:
// [storage.ErrStateBesideLog] if the state has applied an entry that the log holds with
// another term, or does not reach.
func (s *Store) CheckState() error {
	if s.appliedFromLog == nil {
		return nil
	}
	index, term := s.appliedFromLog()
	_, last, err := s.bounds()
	if index == 0 || err != nil {
		return err
	}
	m := s.stored()
	if m != nil && m.Index == index && m.Term != term {
		return fmt.Errorf("%w: the state has applied entry %d of term %d, and the snapshot holds entry %d of term %d", storage.ErrStateBesideLog, index, term, m.Index, m.Term)
	}
	if index > last && (m == nil || index > m.Index) {
		return fmt.Errorf("%w: the state has applied entry %d of term %d, and the log ends at entry %d", storage.ErrStateBesideLog, index, term, last)
	}
	var l raft.Log
	err = s.read(index, &l)
	if errors.Is(err, raft.ErrLogNotFound) {
		return nil // cut off behind the snapshot
	}
	if err == nil && l.Term != term {
		err = fmt.Errorf("%w: the state has applied entry %d of term %d, and the log holds entry %d of term %d", storage.ErrStateBesideLog, index, term, index, l.Term)
	}
	return err
}

// checkCut refuses to cut off what the machine has applied.
func (s *Store) checkCut(from uint64) error {
	if s.appliedFromLog == nil {
		return nil
	}
	if index, term := s.appliedFromLog(); from <= index {
		return fmt.Errorf("%w: the state has applied entry %d of term %d, and the leader's log is another one from entry %d on", storage.ErrStateBesideLog, index, term, from)
	}
	return nil
}

// Close throws away what was staged and not installed.
func (s *Snapshots) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.dropLocked()
}

func (s *Snapshots) dropLocked() error {
	if s.staged == nil {
		return nil
	}
	stage := s.staged
	s.staged, s.ticket = nil, nil
	return stage.Close()
}

// Stage reads a whole stream and returns the ticket that names it. The caller
// then hands raft an InstallSnapshot request with the ticket as its data and
// the ticket's length as its Size. A stream staged later replaces this one.
func (s *Snapshots) Stage(stream io.Reader) (ticket []byte, err error) {
	stage, err := s.machine.Stage()
	if err != nil {
		return nil, err
	}
	if _, err := stage.ReadFrom(stream); err != nil {
		return nil, errors.Join(err, stage.Close())
	}
	ticket = make([]byte, ticketBytes)
	if _, err := rand.Read(ticket); err != nil {
		return nil, errors.Join(err, stage.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(raft.ErrRaftShutdown, stage.Close())
	}
	err = s.dropLocked()
	s.staged, s.ticket = stage, ticket
	return bytes.Clone(ticket), err
}

// Wants refuses a snapshot up to index if the stored one is younger: before it is staged.
func (s *Snapshots) Wants(index uint64) error { return s.store.checkSnapshot(meta{Index: index}) }

// Drop throws away the stream that ticket names, if it was not installed: the
// transport calls it when raft did not take the request.
func (s *Snapshots) Drop(ticket []byte) error {
	stage := s.take(ticket)
	if stage == nil {
		return nil
	}
	return stage.Close()
}

func (s *Snapshots) take(ticket []byte) Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.staged == nil || !bytes.Equal(ticket, s.ticket) {
		return nil
	}
	stage := s.staged
	s.staged, s.ticket = nil, nil
	return stage
}

// List gives the one snapshot, if there is one.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	m := s.store.stored()
	if m == nil {
		return nil, nil
	}
	return []*raft.SnapshotMeta{m.raft()}, nil
}

// Open gives the metadata, and a reader that pins a view when it is first read.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m := s.store.stored()
	if m == nil || m.id() != id {
		return nil, nil, fmt.Errorf("snapshot %q is not there", id)
	}
	return m.raft(), &viewReader{open: s.machine.View}, nil
}

// Create begins a snapshot; its sink's Close stores it.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("snapshot version %d, known is %d", version, raft.SnapshotVersionMax)
	}
	m := meta{Version: version, Index: index, Term: term, Configuration: c.Clone(), ConfigurationIndex: configurationIndex}
	if err := s.store.checkSnapshot(m); err != nil {
		return nil, err
	}
	return &sink{snapshots: s, meta: m}, nil
}

// sink is a snapshot in the making. raft uses it from one goroutine.
type sink struct {
	snapshots *Snapshots
	meta      meta
	ticket    []byte
	done      bool
}

func (k *sink) ID() string { return k.meta.id() }

func (k *sink) Write(p []byte) (int, error) {
	if len(k.ticket)+len(p) > ticketBytes {
		return 0, fmt.Errorf("%w: data in place of a ticket", ErrNoState)
	}
	k.ticket = append(k.ticket, p...)
	return len(p), nil
}

func (k *sink) Cancel() error {
	if k.done {
		return nil
	}
	k.done = true
	return k.snapshots.Drop(k.ticket)
}

// Close installs a received state, and then stores the metadata. If nothing
// was written, the replica has made its own state durable before.
func (k *sink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	store := k.snapshots.store
	held, err := store.holds(k.meta)
	if err != nil {
		return err
	}
	if len(k.ticket) == 0 {
		if !held {
			return fmt.Errorf("%w: %s, and no ticket", ErrNoState, k.meta.id())
		}
		return store.setSnapshot(k.meta, 0)
	}
	stage := k.snapshots.take(k.ticket)
	if stage == nil {
		return fmt.Errorf("%w: %s, unknown ticket", ErrNoState, k.meta.id())
	}
	if err := store.checkSnapshot(k.meta); err != nil {
		return errors.Join(err, stage.Close())
	}
	if err := errors.Join(stage.Install(), stage.Close()); err != nil {
		return err
	}
	// What the log holds behind the snapshot's last entry is right, and stays, if it goes
	// on from that entry. It was compared above whether this replica has got there; the
	// log may still be another one, under a snapshot received before.
	fits := false
	if held {
		if fits, err = store.fits(k.meta); err != nil {
			return err
		}
	}
	var keepFrom uint64
	if fits {
		keepFrom = k.meta.Index
	}
	return store.setSnapshot(k.meta, keepFrom)
}

func (s *Store) stored() *meta {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot
}

func (s *Store) checkSnapshot(m meta) error {
	if old := s.stored(); old != nil && m.Index < old.Index {
		return fmt.Errorf("%w: %s after %s", ErrStaleSnapshot, m.id(), old.id())
	}
	return nil
}

// holds tells whether this replica's own history reaches the end of the
// snapshot: it has its last entry, or this very snapshot.
func (s *Store) holds(m meta) (bool, error) {
	if old := s.stored(); old != nil && old.Index == m.Index && old.Term == m.Term {
		return true, nil
	}
	return s.hasEntry(m.Index, m.Term)
}

func (s *Store) setSnapshot(m meta, keepFrom uint64) error {
	record, err := m.encode()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot != nil && m.Index < s.snapshot.Index {
		return fmt.Errorf("%w: %s after %s", ErrStaleSnapshot, m.id(), s.snapshot.id())
	}
	if err := s.disk.SetValue(valueSnapshot, record); err != nil {
		return err
	}
	s.snapshot = &m
	if keepFrom != 0 {
		// A snapshot that raft takes itself, meanwhile, must not clear it.
		s.keepFrom = keepFrom
	}
	return nil
}

// viewReader streams a view that it pins when it is first read.
type viewReader struct {
	open    func() (View, error)
	pipe    *io.PipeReader
	written chan struct{} // closed when the goroutine behind pipe has ended
}

var _ io.WriterTo = (*viewReader)(nil)

// WriteTo streams the view straight into w: io.Copy comes here.
func (r *viewReader) WriteTo(w io.Writer) (n int64, err error) {
	if r.pipe != nil {
		return 0, errors.New("the view is being read already")
	}
	v, err := r.open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return v.WriteTo(w)
}

func (r *viewReader) Read(p []byte) (int, error) {
	if r.pipe == nil {
		v, err := r.open()
		if err != nil {
			return 0, err
		}
		in, out := io.Pipe()
		r.pipe, r.written = in, make(chan struct{})
		go func() { // ends with the view, or with Close
			defer close(r.written)
			_, err := v.WriteTo(out)
			out.CloseWithError(errors.Join(err, v.Close()))
		}()
	}
	return r.pipe.Read(p)
}

func (r *viewReader) Close() error {
	if r.pipe == nil {
		return nil
	}
	err := r.pipe.Close()
	<-r.written
	return err
}
