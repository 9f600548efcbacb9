package storage

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
)

const (
	stateDatabase = "state"
	// stateFormat is the version of our own encoding of keys and records.
	// 2 has the ledger, and values with dots.
	stateFormat uint32 = 2
	// stateSlowDisk is when a disk operation counts as slow.
	stateSlowDisk = 2 * time.Second
)

// State is the state database of a node. All methods are safe for concurrent
// use.
type State struct {
	fs         vfs.FS
	dir        string
	db         *pebble.DB
	options    *pebble.Options
	lock       *pebble.Lock
	fsCloser   io.Closer
	tell       Listener
	opened     atomic.Bool
	broken     atomic.Pointer[error]
	stages     atomic.Uint64 // names of staging directories
	stageTable uint64        // bytes of a staged table
	// tableFormat is what staged tables are written in.
	tableFormat sstable.TableFormat

	// life is held for reading by every call that touches db, and for writing
	// by Close. It is never taken twice on one stack.
	life   sync.RWMutex
	closed bool

	mu       sync.Mutex // guards what follows
	replicas map[Replica]*ReplicaState
	views    int
}

// OpenState opens the state database, and creates it if there is none. It
// fails with [ErrInUse] while another process has it open, and with
// [ErrNewerFormat] if a newer release wrote it.
func OpenState(o StateOptions) (_ *State, err error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	o.CacheBytes = cmp.Or(o.CacheBytes, DefaultStateCacheBytes)
	o.MemTableBytes = cmp.Or(o.MemTableBytes, DefaultStateMemTableBytes)
	o.MemTableBytes = scaled(o.FS, o.Dir, o.MemTableBytes, stateTableShare, leastStateTable)
	tell := o.Events
	if tell == nil {
		tell = func(Event) {}
	}
	tell = onceFatal(tell)
	var s *State
	flushes := newFlushFailures()
	var compacting sync.Mutex
	var compactions compactionFailures
	owner := tell
	tell = func(e Event) {
		owner(e)
		var err error
		switch e := e.(type) {
		case EventFlushEnd:
			err = flushes.ended(e.Err)
		case EventCompactionEnd:
			compacting.Lock()
			err = compactions.ended(e.Err, time.Now())
			compacting.Unlock()
		}
		if err != nil {
			s.breakDown(err)
			owner(EventFatal{Database: stateDatabase, Err: err})
		}
	}
	if err := makeDirectory(o.FS, o.Dir); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	full := vfs.OnDiskFull(o.FS, func() { tell(EventDiskFull{Database: stateDatabase}) })
	watched, fsCloser := vfs.WithDiskHealthChecks(full, stateSlowDisk, nil, func(i vfs.DiskSlowInfo) {
		tell(EventDiskSlow{Database: stateDatabase, Path: i.Path, Op: i.OpType.String(), Took: i.Duration})
	})
	var gaps *walGuard
	if o.Marks != nil {
		gaps = guardState(watched, o.Dir, o.Marks)
		watched = gaps
	}
	watched = &walWatch{FS: watched, fail: func(err error) {
		if s.opened.Load() { // what fails while opening is returned
			s.breakDown(err)
		}
		tell(EventFatal{Database: stateDatabase, Err: err})
	}}
	s = &State{
		stageTable: scaled(o.FS, o.Dir, stageTableBytes, stageTableShare, leastStageTable),
		fs:         watched, dir: o.Dir, lock: lock, fsCloser: fsCloser, tell: tell,
		replicas: make(map[Replica]*ReplicaState),
	}
	s.options = o.pebbleOptions(watched, tell)
	s.options.Lock = lock
	defer func() {
		if err != nil && s.broken.Load() == nil {
			err = errors.Join(err, s.closeDatabase())
		}
	}()
	if err := s.removeStagingLeftovers(); err != nil {
		return nil, fmt.Errorf("removing staged files in %s: %w", o.Dir, err)
	}
	if err := s.guard(func() (err error) {
		s.db, err = flushes.open(o.Dir, s.options)
		if gaps != nil {
			err = gaps.done(err)
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("opening the state database in %s: %w", o.Dir, stateOpenError(err))
	}
	s.tableFormat = s.db.TableFormat()
	if err := s.guard(s.checkFormat); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	if err := s.guard(func() error { return s.checkNode(o.NodeID) }); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	s.opened.Store(true)
	return s, nil
}

// stateOpenError says of a database that Pebble can not read what is to do.
func stateOpenError(err error) error {
	if pebble.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, EmptyDirectory)
	}
	return err
}

// checkFormat compares the format on disk with ours, and writes ours into a
// new database.
func (s *State) checkFormat() error {
	record, closer, err := s.db.Get(formatKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return s.db.Set(formatKey, binary.LittleEndian.AppendUint32(nil, stateFormat), pebble.Sync)
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	if len(record) != 4 {
		return corrupt("format record of %d bytes", len(record))
	}
	switch have := binary.LittleEndian.Uint32(record); {
	case have > stateFormat:
		return fmt.Errorf("%w: it is %d, this release knows up to %d", ErrNewerFormat, have, stateFormat)
	case have < stateFormat:
		return s.upgrade()
	}
	return nil
}

// checkNode compares the node in the database with node, and writes it into a database
// that has none.
func (s *State) checkNode(node partition.NodeID) error {
	if node == "" {
		return nil
	}
	stamp, closer, err := s.db.Get(nodeKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return s.db.Set(nodeKey, []byte(node), pebble.Sync)
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	if string(stamp) != string(node) {
		return fmt.Errorf("%w: it is %q, this is %q", ErrStateOtherNode, stamp, node)
	}
	return nil
}

// Close closes the database. Open views make it fail, and leave it open:
// close them first.
func (s *State) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return ErrStateClosed
	}
	s.mu.Lock()
	views := s.views
	s.mu.Unlock()
	if views > 0 && s.broken.Load() == nil {
		return fmt.Errorf("the state database has %d open views", views)
	}
	s.closed = true
	return s.closeDatabase()
}

func (s *State) closeDatabase() error {
	var err error
	switch broken := s.broken.Load(); {
	case broken != nil:
		// Pebble died with its locks held: closing it could wait for ever. It
		// keeps the directory's lock until the process ends.
		return *broken
	case s.db != nil:
		err = s.guard(s.db.Close)
	}
	return errors.Join(err, s.lock.Close(), s.fsCloser.Close())
}

// enter begins a call that uses the database; leave ends it.
func (s *State) enter() error {
	s.life.RLock()
	err := ErrStateClosed
	if broken := s.broken.Load(); broken != nil {
		err = *broken // Pebble may hold its locks for ever: no read either
	} else if !s.closed {
		return nil
	}
	s.life.RUnlock()
	return err
}

func (s *State) leave() { s.life.RUnlock() }

// breakDown has all later calls fail.
func (s *State) breakDown(cause error) {
	broken := fmt.Errorf("%w: %w", ErrBroken, cause)
	s.broken.CompareAndSwap(nil, &broken)
}

// guard runs a call into Pebble that writes. Pebble panics, or calls Fatalf,
// when it can not go on: that becomes an error, and all later calls fail.
func (s *State) guard(call func() error) (err error) {
	if broken := s.broken.Load(); broken != nil {
		return *broken
	}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		cause, ok := p.(error)
		if _, bug := p.(runtime.Error); bug || !ok {
			panic(p)
		}
		s.tell(EventFatal{Database: stateDatabase, Err: cause})
		err = fmt.Errorf("%w: %w", ErrBroken, cause)
		s.broken.CompareAndSwap(nil, &err)
	}()
	return call()
}

// Sync makes all that was applied before it durable, for all replicas.
func (s *State) Sync() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	reached := make(map[*ReplicaState]uint64, len(s.replicas))
	for _, r := range s.replicas {
		reached[r], _ = r.Applied()
	}
	s.mu.Unlock()
	if err := s.guard(func() error { return s.db.LogData(nil, pebble.Sync) }); err != nil {
		return err
	}
	for r, index := range reached {
		raise(&r.durable, index)
	}
	return nil
}

// Replica opens r, empty if it has never been there. The same r gives the same
// handle until it is destroyed. It does not check whether r was destroyed
// before: the log database does.
func (s *State) Replica(r Replica) (*ReplicaState, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if rs, ok := s.replicas[r]; ok {
		return rs, nil
	}
	rs, err := openReplicaState(s, r)
	if err != nil {
		return nil, fmt.Errorf("opening the state of %v: %w", r, stateDamage(err))
	}
	s.replicas[r] = rs
	return rs, nil
}

// Replicas lists the replicas that hold anything, in order.
func (s *State) Replicas() ([]Replica, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tagReplica}, UpperBound: []byte{tagReplica + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = it.Close() }() // its errors are told by it.Error
	var list []Replica
	for ok := it.First(); ok; {
		r, _, _, err := decodeReplicaKey(it.Key())
		if err != nil {
			return nil, err
		}
		list = append(list, r)
		_, end := replicaSpan(r)
		ok = it.SeekGE(end)
	}
	return list, it.Error()
}

// Destroy removes all that r holds, staged files too. Its handle fails from
// then on, and its views do. A replica that is not there is no error.
func (s *State) Destroy(r Replica) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.abandon(r)
	start, end := replicaSpan(r)
	return s.exciseSpan(start, end)
}

func (s *State) exciseSpan(start, end []byte) error {
	if err := s.seeBorders(start, end); err != nil {
		return err
	}
	return s.guard(func() error {
		return s.db.Excise(context.Background(), pebble.KeyRange{Start: start, End: end})
	})
}
