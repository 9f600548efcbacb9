package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
)

const (
	// marksSlots is the number of copies in the file. One is synced and left alone, one
	// is being synced, and one is being written: no power cut can tear more than the
	// last two.
	marksSlots = 3
	// marksSlotBytes is one page, so that no two copies share a block of the disk.
	marksSlotBytes = 4096
	// marksSyncEvery is how long a mark may stay unsynced. A power cut takes back at
	// most the marks of this time and of one fsync; a kill takes back none.
	marksSyncEvery = time.Second

	marksMagic  = "capmarks"
	marksFormat = 1
	marksHeader = len(marksMagic) + 1 + 8 + 4 // magic, format, version, length of the body
	marksBody   = marksSlotBytes - marksHeader - 4
)

// MarksOptions configures [OpenMarks].
type MarksOptions struct {
	// FS defaults to the operating system's.
	FS vfs.FS
	// Path is the file; its directory must exist.
	Path string
	// NodeID is stamped into a new file; an old one must bear it.
	NodeID partition.NodeID
	// MustExist refuses a missing file with [ErrDamaged].
	MustExist bool
	// Failed is told, once, that the file could not be written or synced; may be nil.
	// From then on nothing that needs a mark is acknowledged. It returns at once, does
	// no I/O, and does not call back.
	Failed func(error)
}

// Marks is the file "marks" of a data directory: how far each of the node's other
// files had been written when the node last acknowledged something. It stands outside
// of those files, so that damage to one of them, or an older copy of it, shows at the
// next start.
//
// A mark is written before what it covers is acknowledged, and never before what it
// covers is synced. It is written with a plain write and synced in the background: it
// costs no fsync. So it is exact after a kill, and after a power cut it may be lower
// by what was acknowledged in the last two seconds or so.
//
// All methods are safe for concurrent use.
type Marks struct {
	path   string
	node   partition.NodeID
	failed func(error)

	// wanted is the highest sequence number that somebody wants to acknowledge: who
	// writes next writes it for all of them.
	wanted atomic.Uint64

	// syncing is held during each fsync. It is taken before mu.
	syncing sync.Mutex

	mu      sync.Mutex // guards what follows, and the writes to file
	file    vfs.File
	record  marksRecord
	version uint64 // of the last copy written
	slot    int    // being written
	durable int    // the slot that holds the last synced copy
	buffer  [marksSlotBytes]byte
	dirty   bool // the slot being written has changes that are not synced
	timer   *time.Timer
	err     error // the first failure
	closed  bool
}

// marksRecord is what the file says.
type marksRecord struct {
	log, state databaseMarks
	control    ControlMark
}

// ControlMark is how far the Raft log of the control group had been written.
type ControlMark struct {
	// File counts the files that control.bolt has been: it is rewritten at each start.
	// 0 means that there is no mark yet.
	File uint64
	// Transaction is bolt's number of the last transaction that was acknowledged.
	Transaction uint64
}

// databaseMarks is how far a Pebble database had been written.
type databaseMarks struct {
	// synced is the highest sequence number that was acknowledged as synced.
	synced uint64
	// manifest is the current MANIFEST, and how many bytes of it had been synced.
	manifest, manifestBytes uint64
	// wals are the write-ahead logs that Pebble has not removed, oldest first.
	wals []walMark
}

// walMark is one write-ahead log. First is the sequence number of its first batch; 0
// means that nothing of it was acknowledged yet.
type walMark struct{ number, first uint64 }

// OpenMarks opens the file, or makes it. Errors: [ErrDamaged], [ErrNewerFormat],
// [ErrMarksOtherNode], or the disk's.
func OpenMarks(o MarksOptions) (_ *Marks, err error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	m := &Marks{path: o.Path, node: o.NodeID, failed: o.Failed, durable: -1}
	_, err = o.FS.Stat(o.Path)
	switch missing := errors.Is(err, fs.ErrNotExist); {
	case missing && o.MustExist:
		return nil, fmt.Errorf("%w: %s is missing: how far log/ and control.bolt had been written is not known any more; %s", ErrDamaged, o.Path, EmptyDirectory)
	case missing:
		if err := m.create(o.FS); err != nil {
			return nil, fmt.Errorf("creating %s: %w", o.Path, err)
		}
	case err != nil:
		return nil, err
	}
	if m.file, err = o.FS.OpenReadWrite(o.Path, vfs.WriteCategoryUnspecified); err != nil {
		return nil, err
	}
	if err := m.load(); err != nil {
		return nil, errors.Join(err, m.file.Close())
	}
	return m, nil
}

// EmptyDirectory is the way out for a directory whose votes are in doubt; errors end
// with it.
const EmptyDirectory = "empty the whole data directory to come back as a new node, then remove the old node id"

// create makes a file that holds an empty record in each slot, durably and whole, or
// not at all.
func (m *Marks) create(fsys vfs.FS) error {
	temp := m.path + ".tmp"
	file, err := fsys.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	m.file = file
	for range marksSlots {
		if err = m.encode(); err != nil {
			break
		}
		if _, err = file.Write(m.buffer[:]); err != nil {
			break
		}
	}
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, m.path); err != nil {
		return err
	}
	return syncDirectory(fsys, fsys.PathDir(m.path))
}

// load reads the newest copy that is whole.
func (m *Marks) load() error {
	content, err := io.ReadAll(io.LimitReader(m.file, marksSlots*marksSlotBytes+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", m.path, err)
	}
	var found error
	for slot := range marksSlots {
		from := min(slot*marksSlotBytes, len(content))
		version, node, record, err := decodeMarks(content[from:min(from+marksSlotBytes, len(content))])
		switch {
		case errors.Is(err, ErrNewerFormat):
			return fmt.Errorf("%s: %w", m.path, err)
		case err != nil:
			found = err
		case node != m.node:
			return fmt.Errorf("%w: %s: it is %q, this is %q", ErrMarksOtherNode, m.path, node, m.node)
		case m.durable < 0 || version > m.version:
			m.version, m.record, m.durable = version, record, slot
		}
	}
	if m.durable < 0 {
		return fmt.Errorf("%w: %s: none of its copies is whole (%w): how far log/ and control.bolt had been written is not known any more; %s",
			ErrDamaged, m.path, found, EmptyDirectory)
	}
	m.slot = (m.durable + 1) % marksSlots
	return nil
}

// encode puts the record into the buffer as a copy of a new version.
func (m *Marks) encode() error {
	m.version++
	b := append(m.buffer[:0], marksMagic...)
	b = append(b, marksFormat)
	b = binary.LittleEndian.AppendUint64(b, m.version)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(append(b, byte(len(m.node))), m.node...)
	b = m.record.log.append(b)
	b = m.record.state.append(b)
	b = binary.LittleEndian.AppendUint64(b, m.record.control.File)
	b = binary.LittleEndian.AppendUint64(b, m.record.control.Transaction)
	if len(b) > marksHeader+marksBody {
		return fmt.Errorf("%s has no room for %d and %d write-ahead logs", m.path, len(m.record.log.wals), len(m.record.state.wals))
	}
	binary.LittleEndian.PutUint32(b[marksHeader-4:], uint32(len(b)-marksHeader))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	clear(m.buffer[len(b):])
	return nil
}

func (d *databaseMarks) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, d.synced)
	b = binary.LittleEndian.AppendUint64(b, d.manifest)
	b = binary.LittleEndian.AppendUint64(b, d.manifestBytes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(d.wals)))
	for _, w := range d.wals {
		b = binary.LittleEndian.AppendUint64(b, w.number)
		b = binary.LittleEndian.AppendUint64(b, w.first)
	}
	return b
}

// decodeMarks reads one copy.
func decodeMarks(b []byte) (version uint64, node partition.NodeID, r marksRecord, err error) {
	if len(b) < marksHeader+4 || !bytes.HasPrefix(b, []byte(marksMagic)) {
		return 0, "", r, corrupt("copy of %d bytes without a header", len(b))
	}
	length := int(binary.LittleEndian.Uint32(b[marksHeader-4:]))
	if length > min(marksBody, len(b)-marksHeader-4) {
		return 0, "", r, corrupt("copy of %d bytes claims %d", len(b), length)
	}
	end := marksHeader + length
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return 0, "", r, corrupt("wrong checksum")
	}
	if format := b[len(marksMagic)]; format != marksFormat {
		return 0, "", r, fmt.Errorf("%w: marks have format %d, this release knows %d", ErrNewerFormat, format, marksFormat)
	}
	d := marksDecoder{b[marksHeader:end]}
	version = binary.LittleEndian.Uint64(b[len(marksMagic)+1:])
	node = partition.NodeID(d.take(int(d.number(1))))
	r.log, r.state = d.database(), d.database()
	r.control = ControlMark{File: d.number(8), Transaction: d.number(8)}
	if d.rest == nil || len(d.rest) != 0 {
		return 0, "", marksRecord{}, corrupt("copy of %d bytes does not parse", length)
	}
	return version, node, r, nil
}

// marksDecoder takes a body apart; rest is nil once something was missing.
type marksDecoder struct{ rest []byte }

func (d *marksDecoder) take(n int) []byte {
	if d.rest == nil || len(d.rest) < n {
		d.rest = nil
		return nil
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *marksDecoder) number(size int) (n uint64) {
	for i, b := range d.take(size) {
		n |= uint64(b) << (8 * i)
	}
	return n
}

func (d *marksDecoder) database() databaseMarks {
	m := databaseMarks{synced: d.number(8), manifest: d.number(8), manifestBytes: d.number(8)}
	for range d.number(2) {
		if d.rest == nil {
			break
		}
		m.wals = append(m.wals, walMark{d.number(8), d.number(8)})
	}
	return m
}

// change alters the record and writes it, unless alter says that there is nothing to
// write. It does not sync.
func (m *Marks) change(alter func(*marksRecord) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changeLocked(alter)
}

func (m *Marks) changeLocked(alter func(*marksRecord) bool) error {
	switch {
	case m.err != nil:
		return m.err
	case m.closed:
		return fmt.Errorf("%s is closed", m.path)
	case !alter(&m.record):
		return nil
	}
	err := m.encode()
	if err == nil {
		_, err = m.file.WriteAt(m.buffer[:m.encodedLen()], int64(m.slot*marksSlotBytes))
	}
	if err != nil {
		return m.failLocked(fmt.Errorf("writing %s: %w", m.path, err))
	}
	if !m.dirty {
		m.dirty = true
		m.timer = time.AfterFunc(marksSyncEvery, func() { _ = m.sync() }) // Failed is told
	}
	return nil
}

// note alters the record; the next copy written has it.
func (m *Marks) note(alter func(*marksRecord)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	alter(&m.record)
}

// encodedLen is the length of the copy in the buffer, its checksum included. What is
// behind it in the slot may be left over from a longer copy.
func (m *Marks) encodedLen() int {
	return marksHeader + int(binary.LittleEndian.Uint32(m.buffer[marksHeader-4:])) + 4
}

// changeDurably is change, and the record is synced when it returns.
func (m *Marks) changeDurably(alter func(*marksRecord) bool) error {
	if err := m.change(alter); err != nil {
		return err
	}
	return m.sync()
}

// sync makes all that was written before it durable.
func (m *Marks) sync() error {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	m.mu.Lock()
	if m.err != nil || !m.dirty || m.file == nil {
		defer m.mu.Unlock()
		return m.err
	}
	m.timer.Stop()
	m.dirty = false
	written := m.slot
	for m.slot == written || m.slot == m.durable {
		m.slot = (m.slot + 1) % marksSlots
	}
	m.mu.Unlock()

	err := m.file.SyncData()

	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		return m.failLocked(fmt.Errorf("syncing %s: %w", m.path, err))
	}
	m.durable = written
	return nil
}

func (m *Marks) failLocked(err error) error {
	if m.err == nil {
		m.err = err
		m.failed(err)
	}
	return m.err
}

// raiseSynced says that all of the log database up to seq is synced. What it covers may
// be acknowledged once it has returned nil.
func (m *Marks) raiseSynced(seq uint64) error {
	raise(&m.wanted, seq)
	return m.change(func(r *marksRecord) bool {
		if seq <= r.log.synced {
			return false
		}
		r.log.synced = m.wanted.Load()
		return true
	})
}

// Control is the mark of the control group's Raft log.
func (m *Marks) Control() ControlMark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.control
}

// SetControl says that the control group's Raft log is synced up to that mark. What it
// covers may be acknowledged once it has returned nil.
func (m *Marks) SetControl(to ControlMark) error {
	return m.change(func(r *marksRecord) bool {
		changed := r.control != to
		r.control = to
		return changed
	})
}

// database reads the marks of a Pebble database.
func (m *Marks) database(of func(*marksRecord) *databaseMarks) databaseMarks {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := *of(&m.record)
	d.wals = slices.Clone(d.wals)
	return d
}

// Close syncs the marks and closes the file. What they mark must be closed before.
// Closing again does nothing.
func (m *Marks) Close() error {
	err := m.sync()
	m.syncing.Lock()
	defer m.syncing.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if m.timer != nil {
		m.timer.Stop()
	}
	file := m.file
	m.file = nil
	return errors.Join(err, file.Close())
}
