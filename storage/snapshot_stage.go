package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// stagingDir holds staged tables, inside the database's directory so that
	// they are linked, not copied, into it. Whatever is there when the database
	// is opened is left over from a crash.
	stagingDir = "staging"
	// stageTableBytes bounds a staged table: small enough that a compaction can
	// take one without rewriting the whole replica. It is smaller on a small
	// disk, since each begins with a look at the room for it.
	stageTableBytes                  = 32 << 20
	stageTableShare, leastStageTable = 32, 4 << 20
)

// ReplicaStage receives a stream into tables beside the database. Nothing
// changes before Install. One goroutine at a time; it must be closed.
type ReplicaStage struct {
	replica  *ReplicaState
	dir      string
	paths    []string
	table    *sstable.Writer // in hand; nil between tables
	applied  position
	floor    uint64
	lastKey  []byte
	buffer   []byte
	begun    bool
	complete bool
	closed   bool
}

// Stage begins to receive a streamed view. [ErrNoRoom]: the disk has no room for
// even the first table of it.
func (r *ReplicaState) Stage() (*ReplicaStage, error) {
	s := r.state
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if r.destroyed.Load() {
		return nil, ErrReplicaDestroyed
	}
	if err := roomBeside(s.fs, s.dir, s.stageTable); err != nil {
		return nil, fmt.Errorf("staging for %v: %w", r.replica, err)
	}
	dir := s.fs.PathJoin(s.dir, stagingDir, fmt.Sprintf("%v-%d", r.replica, s.stages.Add(1)))
	if err := s.fs.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("staging for %v: %w", r.replica, err)
	}
	return &ReplicaStage{replica: r, dir: dir}, nil
}

func (s *State) removeStagingLeftovers() error {
	return s.fs.RemoveAll(s.fs.PathJoin(s.dir, stagingDir))
}

// ReadFrom takes up one whole stream, and reads nothing behind its end. A
// stream that breaks off or is not exactly what WriteTo writes is an error; the stage is
// good for nothing but Close then.
func (g *ReplicaStage) ReadFrom(r io.Reader) (int64, error) {
	if g.closed || g.begun {
		return 0, errors.New("the stage has had its stream")
	}
	g.begun = true
	n, err := readStream(r, g.head, g.record)
	err = errors.Join(err, g.finishTable())
	if err != nil {
		return n, fmt.Errorf("staging the state of %v: %w", g.replica.replica, err)
	}
	g.complete = true
	return n, nil
}

func (g *ReplicaStage) head(at position) error {
	g.applied = at
	record := at.append(nil)
	record[0] = installedFormat // it does not come from this replica's log, which may end below
	return g.set([]byte{kindApplied}, record)
}

func (g *ReplicaStage) record(key, value []byte) error {
	if err := checkRecord(key, value, &g.replica.nodes); err != nil {
		return err
	}
	if bytes.Compare(key, g.lastKey) <= 0 {
		return corrupt("record out of order")
	}
	g.lastKey = append(g.lastKey[:0], key...)
	if key[0] == kindLedger {
		head, err := decodeLedgerHead(value)
		if err != nil {
			return err
		}
		g.floor = head.floor
	}
	return g.set(key, value)
}

// set writes a record, its key moved into the receiving replica's range.
func (g *ReplicaStage) set(key, value []byte) error {
	if g.table != nil && g.table.Raw().EstimatedSize() >= g.replica.state.stageTable {
		if err := g.finishTable(); err != nil {
			return err
		}
	}
	if g.table == nil {
		if err := g.beginTable(); err != nil {
			return err
		}
	}
	g.buffer = append(append(g.buffer[:0], g.replica.prefix...), key...)
	return g.table.Set(g.buffer, value)
}

func (g *ReplicaStage) beginTable() error {
	s := g.replica.state
	if err := roomBeside(s.fs, s.dir, s.stageTable); err != nil {
		return err
	}
	path := s.fs.PathJoin(g.dir, fmt.Sprintf("%06d.sst", len(g.paths)))
	file, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	g.paths = append(g.paths, path)
	g.table = sstable.NewWriter(objstorageprovider.NewFileWritable(file), s.options.MakeWriterOptions(0, s.tableFormat))
	return nil
}

// finishTable completes the table in hand, if there is one, and syncs it.
func (g *ReplicaStage) finishTable() error {
	if g.table == nil {
		return nil
	}
	table := g.table
	g.table = nil
	return table.Close()
}

// Applied is the last entry that the staged state holds; zero before ReadFrom.
func (g *ReplicaStage) Applied() (index, term uint64) { return g.applied.index, g.applied.term }

// Install replaces the replica's whole range with what was staged, in one
// atomic step that is durable when it returns. If the replica is at or past
// the staged state by now, that is made durable, and nothing else happens. Open views of the replica fail
// from then on.
func (g *ReplicaStage) Install() error {
	if g.closed || !g.complete {
		return errors.New("the stage has no whole stream to install")
	}
	r := g.replica
	if err := r.state.enter(); err != nil {
		return err
	}
	defer r.state.leave()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.destroyed.Load() {
		return ErrReplicaDestroyed
	}
	if has := r.ledger.Load().applied; g.applied.index <= has.index {
		if err := CheckBeside(r.replica, has.index, has.term, g.applied.index, g.applied.term); err != nil {
			return err
		}
		// Whoever installs cuts the log behind what is here now.
		if err := r.state.guard(func() error { return r.state.db.LogData(nil, pebble.Sync) }); err != nil {
			return fmt.Errorf("installing the state of %v: %w", r.replica, err)
		}
		raise(&r.durable, has.index)
		return nil
	}
	start, end := replicaSpan(r.replica)
	raise(&r.floor, g.floor)
	if err := r.state.seeBorders(start, end); err != nil {
		return fmt.Errorf("installing the state of %v: %w", r.replica, err)
	}
	err := r.exchange(func() error {
		return r.state.guard(func() error {
			_, err := r.state.db.IngestAndExcise(context.Background(), g.paths, nil, nil, pebble.KeyRange{Start: start, End: end})
			if err != nil {
				return err
			}
			next, err := loadLedger(r.state.db, r.prefix, &r.nodes)
			if err != nil {
				return r.damaged(err)
			}
			r.ledger.Store(next)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("installing the state of %v: %w", r.replica, err)
	}
	raise(&r.durable, g.applied.index)
	return nil
}

// Close removes what was staged and not installed. Closing twice is no error.
func (g *ReplicaStage) Close() error {
	if g.closed {
		return nil
	}
	g.closed = true
	err := g.finishTable()
	return errors.Join(err, g.replica.state.fs.RemoveAll(g.dir))
}
