package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// boltLockWait bounds the wait for another process's lock on the file; a process that
// is just ending lets go within it.
const boltLockWait = time.Second

// BoltOptions configures [OpenBolt].
type BoltOptions struct {
	// Path is the file; its directory must exist.
	Path string
	// NodeID is stamped into a new file; an old one must bear it.
	NodeID partition.NodeID
	// MustExist refuses a missing file with storage.ErrLogMissing.
	MustExist bool
	// Marks keeps how far the file was written, and refuses one that ends below that
	// with storage.ErrLogLost. Nil for none.
	Marks *storage.Marks
	// Failed is told, once, that the file could not be written, or is damaged; may be
	// nil. From then on every call fails. It returns at once and does not call back.
	Failed func(error)
}

// OpenBolt is the store in a bolt file of its own. Errors: storage.ErrLogInUse,
// ErrLogMissing, ErrLogOtherNode, ErrLogLost, ErrDamaged, ErrLogNewerFormat.
//
// bolt has no checksums, and panics or faults on a page that is damaged, some of it on
// goroutines of its own. So the whole file is read first, in a way that bolt only looks
// up pages, each record is compared with its checksum, and all of them together with
// one that stands for all. What was read is written into a new file, which takes the
// old one's place: bolt never works on pages that it has not written itself.
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

// A file has one bucket, and in it one record per key, each sealed (storage.Seal):
//
//	"n"            format:1 file:8 node
//	"s"            records:8 checksum:4
//	"v" name       a value
//	"e" index:8    an entry (storage.AppendLogEntry)
//
// Numbers are big endian. The record "s" stands for all others: how many they are, and
// the exclusive or of their checksums. A page that is lost, or an old one, shows in it.
// File counts the files that have had this path.
const (
	boltFormat = 2 // 1 is raft-boltdb's

	boltHeaderKey = "n"
	boltSumKey    = "s"
	boltValueKind = 'v'
	boltEntryKind = 'e'
)

var boltBucket = []byte("capstan")

func boltValueKey(name string) []byte { return append([]byte{boltValueKind}, name...) }

func boltEntryKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{boltEntryKind}, index)
}

// boltSum is the record "s".
type boltSum struct {
	records  uint64
	checksum uint32
}

// add puts a sealed record in, or takes it out.
func (s *boltSum) add(n int, sealed []byte) {
	s.records += uint64(n)
	s.checksum ^= binary.LittleEndian.Uint32(sealed[len(sealed)-storage.SealBytes:])
}

func (s boltSum) encode() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, s.records), s.checksum)
}

// boltDisk is one file. Each write is one transaction.
type boltDisk struct {
	path   string
	bolt   *bbolt.DB
	file   uint64 // counts the files of this path
	marks  *storage.Marks
	failed func(error)
	// written is called behind each transaction, where a test cuts the power;
	// nil otherwise.
	written func()

	write sync.Mutex // orders the writers; holds sum
	sum   boltSum

	mu          sync.Mutex
	first, last uint64
	broken      error
	nextWait    uint64
	waiting     map[uint64]time.Time
}

func openBoltDisk(o BoltOptions) (_ *boltDisk, err error) {
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	d := &boltDisk{path: o.Path, marks: o.Marks, failed: o.Failed, waiting: map[uint64]time.Time{}}
	var mark storage.ControlMark
	if d.marks != nil {
		mark = d.marks.Control()
	}
	var content boltContent
	switch info, err := os.Stat(o.Path); {
	case errors.Is(err, fs.ErrNotExist):
		if o.MustExist || mark.File > 0 {
			return nil, fmt.Errorf("%w: the votes in it are not known any more; %s", storage.ErrLogMissing, storage.EmptyDirectory)
		}
	case err != nil:
		return nil, err
	case info.Size() == 0:
		return nil, damaged("it is empty")
	default:
		if content, err = readBolt(o.Path); err != nil {
			return nil, err
		}
		if err := content.check(o, mark); err != nil {
			return nil, err
		}
	}
	d.file = max(content.file, mark.File) + 1
	if err := contain(func() error { return d.renew(o, content) }); err != nil {
		return nil, err
	}
	return d, nil
}

type value struct {
	name  string
	value []byte
}

// boltContent is all that a file holds.
type boltContent struct {
	old         bool // raft-boltdb's format
	file        uint64
	transaction uint64
	node        string
	values      []value
	entries     []storage.LogEntry
}

// check compares the file with what is known of it.
func (c *boltContent) check(o BoltOptions, mark storage.ControlMark) error {
	switch {
	case c.node == "" && o.MustExist:
		return fmt.Errorf("%w: the votes in it are not known any more; %s", storage.ErrLogMissing, storage.EmptyDirectory)
	case c.node != "" && c.node != string(o.NodeID):
		return fmt.Errorf("%w: it is %q, this is %q", storage.ErrLogOtherNode, c.node, o.NodeID)
	case c.file < mark.File:
		return fmt.Errorf("%w: this is an older copy of the file; %s", storage.ErrLogLost, storage.EmptyDirectory)
	case c.file == mark.File && c.transaction < mark.Transaction:
		return fmt.Errorf("%w: the file ends with transaction %d, it was written up to %d; %s", storage.ErrLogLost, c.transaction, mark.Transaction, storage.EmptyDirectory)
	}
	return nil
}

// damaged is the error for a file that is not what was written.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s; %s", storage.ErrDamaged, fmt.Sprintf(format, args...), storage.EmptyDirectory)
}

// contain runs what reads the pages of a file. bolt panics, or touches memory that is
// not there, where a page is damaged: that becomes an error. Its locks may be held for
// good then; nobody may use the file any more.
func contain(run func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if _, fault := p.(runtime.Error); fault {
			err = damaged("a page of it is not one that bolt wrote")
		} else if p != nil {
			err = damaged("a page of it can not be read (%v)", p)
		}
	}()
	return run()
}

// readBolt reads and checks a whole file, which must be there.
func readBolt(path string) (c boltContent, err error) {
	err = contain(func() error {
		// For reading only: bolt then does not look for free pages, which it does on a
		// goroutine that nobody can contain.
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltLockWait, ReadOnly: true})
		if errors.Is(err, bbolterrors.ErrTimeout) {
			return fmt.Errorf("%w (%w)", storage.ErrLogInUse, err)
		}
		if disk := (*fs.PathError)(nil); errors.As(err, &disk) {
			return err
		}
		if err != nil {
			return damaged("bolt does not open it (%v)", err)
		}
		err = db.View(func(tx *bbolt.Tx) error {
			c.transaction = uint64(tx.ID())
			if bucket := tx.Bucket(boltBucket); bucket != nil {
				return c.read(bucket)
			}
			c.old = true
			return nil
		})
		return errors.Join(err, db.Close())
	})
	if err == nil && c.old {
		err = contain(func() error { return c.readOld(path) })
	}
	return c, err
}

// read reads the bucket, and compares each record with its checksum and all of them
// with the one that stands for all.
func (c *boltContent) read(bucket *bbolt.Bucket) error {
	var sum, want boltSum
	var header, all bool
	var before []byte
	cursor := bucket.Cursor()
	for key, sealed := cursor.First(); key != nil; key, sealed = cursor.Next() {
		if before != nil && bytes.Compare(before, key) >= 0 {
			return damaged("its keys are out of order")
		}
		before = append(before[:0], key...)
		record, err := storage.Unseal(key, sealed)
		if err != nil {
			return damaged("record %q: %v", key, err)
		}
		if string(key) == boltSumKey && len(record) == 12 {
			all, want = true, boltSum{binary.BigEndian.Uint64(record), binary.BigEndian.Uint32(record[8:])}
			continue
		}
		sum.add(1, sealed)
		switch {
		case string(key) == boltHeaderKey && len(record) > 9:
			if record[0] > boltFormat {
				return fmt.Errorf("%w: %d, known up to %d", storage.ErrLogNewerFormat, record[0], boltFormat)
			}
			header, c.file, c.node = true, binary.BigEndian.Uint64(record[1:]), string(record[9:])
		case key[0] == boltValueKind && len(key) > 1:
			c.values = append(c.values, value{string(key[1:]), bytes.Clone(record)})
		case key[0] == boltEntryKind && len(key) == 9:
			e, err := storage.DecodeLogEntry(binary.BigEndian.Uint64(key[1:]), record)
			if err != nil {
				return err
			}
			if n := len(c.entries); n > 0 && c.entries[n-1].Index+1 != e.Index {
				return damaged("entry %d follows entry %d", e.Index, c.entries[n-1].Index)
			}
			c.entries = append(c.entries, e)
		default:
			return damaged("record %q is of no known kind", key)
		}
	}
	if !header || !all || sum != want {
		return damaged("it holds %d records with checksum %08x, it was written with %d and %08x", sum.records, sum.checksum, want.records, want.checksum)
	}
	return nil
}

// renew writes the content into a new file and puts that in the old one's place.
func (d *boltDisk) renew(o BoltOptions, c boltContent) error {
	temp := o.Path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	d.bolt, err = bbolt.Open(temp, 0o600, &bbolt.Options{
		Timeout: boltLockWait,
		// The list of free pages is found again at opening rather than written by each
		// transaction.
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return err
	}
	var transaction uint64
	err = d.bolt.Update(func(tx *bbolt.Tx) error {
		transaction = uint64(tx.ID())
		bucket, err := tx.CreateBucket(boltBucket)
		if err != nil {
			return err
		}
		header := append(binary.BigEndian.AppendUint64([]byte{boltFormat}, d.file), o.NodeID...)
		return d.put(bucket, append([]change{{[]byte(boltHeaderKey), header}}, c.changes()...))
	})
	if err == nil {
		err = os.Rename(temp, o.Path)
	}
	if err == nil {
		err = syncDir(o.Path)
	}
	if err == nil && d.marks != nil {
		err = d.marks.SetControl(storage.ControlMark{File: d.file, Transaction: transaction})
	}
	if err != nil {
		return errors.Join(err, d.bolt.Close())
	}
	if n := len(c.entries); n > 0 {
		d.first, d.last = c.entries[0].Index, c.entries[n-1].Index
	}
	return nil
}

// change puts a record under a key; one of nil deletes it.
type change struct{ key, record []byte }

func (c *boltContent) changes() []change {
	var out []change
	for _, v := range c.values {
		out = append(out, change{boltValueKey(v.name), v.value})
	}
	for i := range c.entries {
		out = append(out, entryChange(&c.entries[i]))
	}
	return out
}

func entryChange(e *storage.LogEntry) change {
	return change{boltEntryKey(e.Index), storage.AppendLogEntry(nil, e)}
}

// put makes changes, and the record that stands for all records.
func (d *boltDisk) put(bucket *bbolt.Bucket, changes []change) error {
	sum := d.sum
	for _, c := range changes {
		if old := bucket.Get(c.key); len(old) >= storage.SealBytes {
			sum.add(-1, old)
		}
		if c.record == nil {
			if err := bucket.Delete(c.key); err != nil {
				return err
			}
			continue
		}
		sealed := storage.Seal(c.key, bytes.Clone(c.record))
		sum.add(1, sealed)
		if err := bucket.Put(c.key, sealed); err != nil {
			return err
		}
	}
	d.sum = sum // a transaction that fails ends the file's use
	return bucket.Put([]byte(boltSumKey), storage.Seal([]byte(boltSumKey), sum.encode()))
}

// syncDir makes the entry of path in its directory durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// update makes changes in one transaction, and marks it. It moves the bounds when they
// are durable. The caller holds the writer's turn.
func (d *boltDisk) update(changes []change, first, last uint64) error {
	if err := d.failure(); err != nil {
		return err
	}
	var transaction uint64
	err := contain(func() error {
		return d.bolt.Update(func(tx *bbolt.Tx) error {
			transaction = uint64(tx.ID())
			return d.put(tx.Bucket(boltBucket), changes)
		})
	})
	if err == nil && d.marks != nil {
		err = d.marks.SetControl(storage.ControlMark{File: d.file, Transaction: transaction})
	}
	if err != nil {
		return d.fail(err)
	}
	if d.written != nil {
		d.written()
	}
	d.mu.Lock()
	d.first, d.last = first, last
	d.mu.Unlock()
	return nil
}

// get reads the record under a key, nil if there is none.
func (d *boltDisk) get(key []byte) (record []byte, err error) {
	if err := d.failure(); err != nil {
		return nil, err
	}
	err = contain(func() error {
		return d.bolt.View(func(tx *bbolt.Tx) error {
			sealed := tx.Bucket(boltBucket).Get(key)
			if sealed == nil {
				return nil
			}
			unsealed, err := storage.Unseal(key, sealed)
			if err != nil {
				return damaged("record %q: %v", key, err)
			}
			record = append([]byte{}, unsealed...)
			return nil
		})
	})
	if err != nil {
		return nil, d.fail(err)
	}
	return record, nil
}

func (d *boltDisk) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

// fail ends the use of the file. The caller is not within a transaction.
func (d *boltDisk) fail(err error) error {
	d.mu.Lock()
	first := d.broken == nil
	if first {
		d.broken = fmt.Errorf("raft log %s: %w", d.path, err)
	}
	err = d.broken
	d.mu.Unlock()
	if first {
		d.failed(err)
	}
	return err
}

func (d *boltDisk) Bounds() (first, last uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.first, d.last, nil
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
	if first, last, _ := d.Bounds(); index == 0 || index < first || index > last {
		return raft.ErrLogNotFound
	}
	record, err := d.get(boltEntryKey(index))
	if err != nil {
		return err
	}
	if record == nil {
		return raft.ErrLogNotFound // cut off since
	}
	e, err := storage.DecodeLogEntry(index, record)
	if err != nil {
		return d.fail(err)
	}
	*into = fromEntry(e)
	return nil
}

func (d *boltDisk) Append(logs []*raft.Log) error {
	defer d.begin()()
	first, last, _ := d.Bounds()
	from, to := logs[0].Index, logs[len(logs)-1].Index
	switch {
	case last == 0:
		first = from
	case from < first || from > last+1:
		return fmt.Errorf("%w: log is %d to %d, entry %d", storage.ErrLogOrder, first, last, from)
	}
	changes := changesOf(logs, nil)
	for i := to + 1; i <= last; i++ {
		changes = append(changes, change{key: boltEntryKey(i)})
	}
	return d.update(changes, first, to)
}

func (d *boltDisk) Replace(logs []*raft.Log) error {
	defer d.begin()()
	first, last, _ := d.Bounds()
	var changes []change
	for i := first; i <= last && last != 0; i++ {
		changes = append(changes, change{key: boltEntryKey(i)})
	}
	changes = append(changes, changesOf(logs, nil)...)
	if len(logs) == 0 {
		return d.update(changes, 0, 0)
	}
	return d.update(changes, logs[0].Index, logs[len(logs)-1].Index)
}

func changesOf(logs []*raft.Log, values []value) []change {
	var changes []change
	for _, e := range toEntries(logs...) {
		changes = append(changes, entryChange(&e))
	}
	for _, v := range values {
		changes = append(changes, change{boltValueKey(v.name), append([]byte{}, v.value...)})
	}
	return changes
}

func (d *boltDisk) DropPrefix(to uint64) error {
	defer d.begin()()
	first, last, _ := d.Bounds()
	if to = min(to, last); last == 0 || to < first {
		return nil
	}
	var changes []change
	for i := first; i <= to; i++ {
		changes = append(changes, change{key: boltEntryKey(i)})
	}
	if to == last {
		return d.update(changes, 0, 0)
	}
	return d.update(changes, to+1, last)
}

func (d *boltDisk) Value(name string) ([]byte, error) {
	record, err := d.get(boltValueKey(name))
	if err == nil && record == nil {
		err = errNotFound
	}
	return record, err
}

func (d *boltDisk) SetValue(name string, v []byte) error {
	defer d.begin()()
	first, last, _ := d.Bounds()
	return d.update(changesOf(nil, []value{{name, v}}), first, last)
}

// valueBootstrap says that the first configuration was written.
const valueBootstrap = "capstan/bootstrap"

func (d *boltDisk) Bootstrap(entry *raft.Log) error {
	defer d.begin()()
	return d.update(changesOf([]*raft.Log{entry}, []value{
		{keyCurrentTerm, binary.BigEndian.AppendUint64(nil, entry.Term)}, {valueBootstrap, entry.Data},
	}), entry.Index, entry.Index)
}

func (d *boltDisk) Bootstrapped() (bool, error) {
	_, err := d.Value(valueBootstrap)
	if errors.Is(err, errNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Close closes the file. One that has failed stays open until the process ends: bolt may
// hold its locks for good.
func (d *boltDisk) Close() error {
	d.write.Lock()
	defer d.write.Unlock()
	if d.failure() != nil {
		return nil
	}
	return d.bolt.Close()
}
