package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// boltLockWait bounds the wait for another process's lock on the file; a
	// process that is just ending lets go within it.
	boltLockWait = time.Second

	valueNode      = "capstan/node"
	valueBootstrap = "capstan/bootstrap"

	destroyedSuffix = ".destroyed"
)

// BoltOptions configures [OpenBolt].
type BoltOptions struct {
	// Path is the file; its directory must exist.
	Path string
	// NodeID is stamped into a new file; an old one must bear it.
	NodeID partition.NodeID
	// MustExist refuses a missing file with storage.ErrLogMissing.
	MustExist bool
}

// OpenBolt is the store in a raft-boltdb file of its own. The errors are those
// of the log database: storage.ErrLogInUse, ErrLogMissing, ErrLogOtherNode,
// ErrLogDestroyed.
func OpenBolt(o BoltOptions) (*Store, error) {
	d, err := openBoltDisk(o)
	if err != nil {
		return nil, fmt.Errorf("raft log %s: %w", o.Path, err)
	}
	s, err := newStore(d)
	if err != nil {
		return nil, fmt.Errorf("raft log %s: %w", o.Path, errors.Join(err, d.Close()))
	}
	return s, nil
}

// DestroyBolt removes the file at path and leaves a durable mark in its place:
// OpenBolt of that path is storage.ErrLogDestroyed from then on. The store must
// be closed. It may be repeated.
func DestroyBolt(path string) error {
	f, err := os.OpenFile(path+destroyedSuffix, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), syncDir(path)); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(path)
}

// syncDir makes the entry of path in its directory durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// boltDisk is one raft-boltdb file. A transaction of it is one piece; it has no
// transaction over a value and an entry, so Bootstrap is a value, from which
// the entry is made at once, or when the file is opened again.
type boltDisk struct {
	bolt *raftboltdb.BoltStore
	// written is called behind each transaction, where a test cuts the power;
	// nil otherwise.
	written func()

	write sync.Mutex // orders the writers

	mu          sync.Mutex
	first, last uint64
	nextWait    uint64
	waiting     map[uint64]time.Time
}

func openBoltDisk(o BoltOptions) (_ *boltDisk, err error) {
	if _, err := os.Stat(o.Path + destroyedSuffix); err == nil {
		return nil, storage.ErrLogDestroyed
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(o.Path); errors.Is(err, os.ErrNotExist) && o.MustExist {
		return nil, storage.ErrLogMissing
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: o.Path,
		// The list of free pages is found again at opening rather than written
		// by each transaction.
		BoltOptions:             &bbolt.Options{Timeout: boltLockWait, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w (%w)", storage.ErrLogInUse, err)
	}
	if err != nil {
		return nil, err
	}
	d := &boltDisk{bolt: bolt, waiting: map[uint64]time.Time{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, bolt.Close())
		}
	}()
	if err := syncDir(o.Path); err != nil {
		return nil, err
	}
	if d.first, err = bolt.FirstIndex(); err != nil {
		return nil, err
	}
	if d.last, err = bolt.LastIndex(); err != nil {
		return nil, err
	}
	if err := d.checkNode(o); err != nil {
		return nil, err
	}
	return d, d.redoBootstrap()
}

func (d *boltDisk) checkNode(o BoltOptions) error {
	stamp, err := d.Value(valueNode)
	switch {
	case errors.Is(err, errNotFound) && o.MustExist:
		return storage.ErrLogMissing
	case errors.Is(err, errNotFound):
		return d.SetValue(valueNode, []byte(o.NodeID))
	case err != nil:
		return err
	case string(stamp) != string(o.NodeID):
		return fmt.Errorf("%w: it is %q, this is %q", storage.ErrLogOtherNode, stamp, o.NodeID)
	}
	return nil
}

func (d *boltDisk) Bounds() (first, last uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.first, d.last, nil
}

func (d *boltDisk) setBounds(first, last uint64) {
	d.mu.Lock()
	d.first, d.last = first, last
	d.mu.Unlock()
}

func (d *boltDisk) Stalled() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	var longest time.Duration
	for _, since := range d.waiting {
		longest = max(longest, time.Since(since))
	}
	return longest
}

// begin takes the writer's turn; end gives it back.
func (d *boltDisk) begin() (end func()) {
	d.mu.Lock()
	id := d.nextWait
	d.nextWait++
	d.waiting[id] = time.Now()
	d.mu.Unlock()
	d.write.Lock()
	return func() {
		d.write.Unlock()
		d.mu.Lock()
		delete(d.waiting, id)
		d.mu.Unlock()
	}
}

func (d *boltDisk) Read(index uint64, into *raft.Log) error {
	var l raft.Log
	if err := d.bolt.GetLog(index, &l); err != nil {
		return err
	}
	*into = l
	return nil
}

func (d *boltDisk) Append(logs []*raft.Log) error {
	defer d.begin()()
	first, last, _ := d.Bounds()
	from, to := logs[0].Index, logs[len(logs)-1].Index
	if last != 0 && from < first {
		return fmt.Errorf("%w: log begins at %d, entry %d", storage.ErrLogOrder, first, from)
	}
	if last != 0 && from > last+1 {
		if err := d.delete(first, last); err != nil {
			return err
		}
		last = 0
	}
	if last != 0 && from <= last {
		if err := d.delete(from, last); err != nil {
			return err
		}
		if from == first {
			last = 0
		}
	}
	if last == 0 {
		first = from
	}
	if err := d.bolt.StoreLogs(logs); err != nil {
		return err
	}
	d.afterWrite()
	d.setBounds(first, to)
	return nil
}

// delete removes a prefix or a suffix and moves the bounds.
func (d *boltDisk) delete(from, to uint64) error {
	first, last, _ := d.Bounds()
	if err := d.bolt.DeleteRange(from, to); err != nil {
		return err
	}
	d.afterWrite()
	switch {
	case from == first && to == last:
		d.setBounds(0, 0)
	case from == first:
		d.setBounds(to+1, last)
	default:
		d.setBounds(first, from-1)
	}
	return nil
}

func (d *boltDisk) DeleteRange(lowest, highest uint64) error {
	defer d.begin()()
	first, last, _ := d.Bounds()
	from, to := max(lowest, first), min(highest, last)
	if last == 0 || from > to {
		return nil
	}
	if from != first && to != last {
		return fmt.Errorf("%w: to delete %d to %d out of %d to %d", storage.ErrLogOrder, lowest, highest, first, last)
	}
	return d.delete(from, to)
}

func (d *boltDisk) Value(name string) ([]byte, error) {
	v, err := d.bolt.Get([]byte(name))
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, errNotFound
	}
	if err == nil && v == nil {
		v = []byte{}
	}
	return v, err
}

func (d *boltDisk) SetValue(name string, value []byte) error {
	defer d.begin()()
	if err := d.bolt.Set([]byte(name), value); err != nil {
		return err
	}
	d.afterWrite()
	return nil
}

func (d *boltDisk) afterWrite() {
	if d.written != nil {
		d.written()
	}
}

func (d *boltDisk) Bootstrap(entry *raft.Log) error {
	if err := d.SetValue(valueBootstrap, entry.Data); err != nil {
		return err
	}
	return d.redoBootstrap()
}

func (d *boltDisk) Bootstrapped() (bool, error) {
	_, err := d.Value(valueBootstrap)
	if errors.Is(err, errNotFound) {
		return false, nil
	}
	return err == nil, err
}

// redoBootstrap finishes a bootstrap that a crash broke off: the term, then
// the entry, where they are missing. The log of a bootstrapped replica is
// empty later only behind a snapshot.
func (d *boltDisk) redoBootstrap() error {
	configuration, err := d.Value(valueBootstrap)
	if errors.Is(err, errNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	term, err := d.Value(keyCurrentTerm)
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	if len(term) != 8 || binary.BigEndian.Uint64(term) < bootstrapTerm {
		if err := d.SetValue(keyCurrentTerm, binary.BigEndian.AppendUint64(nil, bootstrapTerm)); err != nil {
			return err
		}
	}
	if _, err := d.Value(valueSnapshot); !errors.Is(err, errNotFound) {
		return err
	}
	if _, last, _ := d.Bounds(); last != 0 {
		return nil
	}
	return d.Append([]*raft.Log{bootstrapEntry(configuration)})
}

func (d *boltDisk) Close() error {
	d.write.Lock()
	defer d.write.Unlock()
	return d.bolt.Close()
}
