package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// ReplicaState is the applied state of one replica. Apply, Install of a stage
// and Destroy exclude each other; everything else may run beside them.
type ReplicaState struct {
	state   *State
	replica Replica
	prefix  []byte // of all keys
	users   []byte // of all user keys
	nodes   nodeNames
	// ledger is with what was applied. It moves only after a read would see the
	// effect, but for the floor, which is ahead.
	ledger     atomic.Pointer[ledger]
	floor      atomic.Uint64
	durable    atomic.Uint64
	superseded struct{ staleBase, older atomic.Uint64 }
	partitions atomic.Int64 // of the cluster; 0: not known

	// mu is held while the state changes; what follows belongs to Apply.
	mu       sync.Mutex
	batch    *pebble.Batch
	commands []anyCommand
	overlay  overlay
	change   ledgerChange
	checks   []CheckID // of the entry in hand
	onCheck  func(CheckID, *ReplicaView)

	// replacing is held for writing while the whole range is exchanged, and
	// for reading while a view opens or a record is looked up: neither may see
	// half of the other.
	replacing sync.RWMutex
	epoch     uint64 // counts exchanges
	// destroyed is set before the data goes: who reads first and asks then
	// never takes the hole for an answer.
	destroyed atomic.Bool
	damage    atomic.Pointer[error] // the first that a read met
}

// position is a place in the log.
type position struct{ index, term uint64 }

// An applied record is format (1) | index (8) | term (8), little endian. The format is
// 2 if the state came as a whole, and nothing was applied to it since; else 1.
const (
	appliedFormat   = 1
	installedFormat = 2
	appliedLen      = 1 + 8 + 8
)

func (p position) append(dst []byte) []byte {
	dst = append(dst, appliedFormat)
	dst = binary.LittleEndian.AppendUint64(dst, p.index)
	return binary.LittleEndian.AppendUint64(dst, p.term)
}

func decodeApplied(b []byte) (at position, installed bool, err error) {
	if len(b) != appliedLen || b[0] != appliedFormat && b[0] != installedFormat {
		return position{}, false, corrupt("applied record of %d bytes or unknown format", len(b))
	}
	return position{binary.LittleEndian.Uint64(b[1:]), binary.LittleEndian.Uint64(b[9:])}, b[0] == installedFormat, nil
}

func openReplicaState(s *State, r Replica) (*ReplicaState, error) {
	rs := &ReplicaState{
		state: s, replica: r, overlay: overlay{at: make(map[string]int)},
		change: ledgerChange{records: make(map[string][]byte)},
	}
	rs.prefix = replicaPrefix(r)
	rs.users = append(replicaPrefix(r), kindKey)
	l, err := loadLedger(s.db, rs.prefix, &rs.nodes)
	if err != nil {
		return nil, err
	}
	rs.ledger.Store(l)
	rs.floor.Store(l.floor)
	return rs, nil
}

// readApplied reads a replica's applied record; none is position zero.
func readApplied(from pebble.Reader, prefix []byte) (at position, installed bool, err error) {
	record, closer, err := from.Get(append(prefix[:len(prefix):len(prefix)], kindApplied))
	if errors.Is(err, pebble.ErrNotFound) {
		return position{}, false, nil
	}
	if err != nil {
		return position{}, false, err
	}
	defer closer.Close()
	return decodeApplied(record)
}

// Replica names the replica.
func (r *ReplicaState) Replica() Replica { return r.replica }

// Applied is the index and term of the last entry that Apply has taken up, or
// that a stage has brought. It moves only after a read would see the effect.
func (r *ReplicaState) Applied() (index, term uint64) {
	p := r.ledger.Load().applied
	return p.index, p.term
}

// AppliedFromLog is what Applied gives, if it comes from this replica's own log; zero
// if the state came as a whole, and nothing was applied to it since. The log must hold
// that entry, or have held it and have been cut.
func (r *ReplicaState) AppliedFromLog() (index, term uint64) {
	l := r.ledger.Load()
	if l.installed {
		return 0, 0
	}
	return l.applied.index, l.applied.term
}

// CheckBeside compares an entry of the log of r, or a state from elsewhere, with what was
// applied: [ErrStateBesideLog] if it is of another history. An index and a term name one
// entry, and terms never fall along a log.
func CheckBeside(r Replica, appliedIndex, appliedTerm, index, term uint64) error {
	if index > appliedIndex || index < appliedIndex && term <= appliedTerm || index == appliedIndex && term == appliedTerm {
		return nil
	}
	return fmt.Errorf("%w: %v has applied entry %d of term %d, and entry %d is of term %d", ErrStateBesideLog, r, appliedIndex, appliedTerm, index, term)
}

// Durable is an index up to which everything that was applied here is durable,
// as the last Sync of any replica, or a stage, has left it. It is 0 when the
// database was opened: what is on disk may not be synced.
func (r *ReplicaState) Durable() uint64 { return r.durable.Load() }

// raise sets a to n if that is more.
func raise(a *atomic.Uint64, n uint64) {
	for {
		old := a.Load()
		if n <= old || a.CompareAndSwap(old, n) {
			return
		}
	}
}

// Sync makes all that this replica has applied durable (and, as they share a
// database, all others').
func (r *ReplicaState) Sync() error { return r.state.Sync() }

// keyBuffers hold keys under construction for point reads.
var keyBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 128)
	return &b
}}

// Get reads one key. found says that there is a record; it is a tombstone's
// if the key was deleted, so a key has a value if found && !Tombstone. Bytes is the
// caller's to keep.
func (r *ReplicaState) Get(key []byte) (v Value, found bool, err error) {
	return r.GetAdmitted(key, nil)
}

// GetAdmitted is Get that asks admit, if it is not nil, before it copies a value of so
// many bytes. An error of admit's is returned as it is.
func (r *ReplicaState) GetAdmitted(key []byte, admit func(bytes int) error) (v Value, found bool, err error) {
	if len(key) == 0 || len(key) > MaxKeyBytes {
		return Value{}, false, fmt.Errorf("key of %d bytes", len(key))
	}
	if err := r.state.enter(); err != nil {
		return Value{}, false, err
	}
	defer r.state.leave()
	v, closer, err := r.read(key)
	if r.destroyed.Load() {
		err = errors.Join(ErrReplicaDestroyed, err)
		if closer != nil {
			_ = closer.Close()
		}
		return Value{}, false, err
	}
	if closer == nil {
		return Value{}, false, err
	}
	if admit != nil {
		if err := admit(len(v.Bytes)); err != nil {
			return Value{}, false, errors.Join(err, closer.Close())
		}
	}
	bytes := make([]byte, len(v.Bytes))
	copy(bytes, v.Bytes)
	v.Bytes = bytes
	return v, true, closer.Close()
}

// lookup finds a record, which is good until the closer is closed. While the
// whole range is exchanged neither the old records nor the new ones can be
// found, for a moment: it waits for that.
func (r *ReplicaState) lookup(key []byte) ([]byte, io.Closer, error) {
	r.replacing.RLock()
	defer r.replacing.RUnlock()
	return r.state.db.Get(key)
}

// iterate goes over the records from lower up to upper, as they are now.
func (r *ReplicaState) iterate(lower, upper []byte) (*pebble.Iterator, error) {
	r.replacing.RLock()
	defer r.replacing.RUnlock()
	return r.state.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// read looks a key up. The value's Bytes are good until the closer is closed;
// the closer is nil if there is no record.
func (r *ReplicaState) read(key []byte) (Value, interface{ Close() error }, error) {
	buffer := keyBuffers.Get().(*[]byte)
	*buffer = append(append((*buffer)[:0], r.users...), key...)
	record, closer, err := r.lookup(*buffer)
	keyBuffers.Put(buffer)
	if errors.Is(err, pebble.ErrNotFound) {
		return Value{}, nil, nil
	}
	if err != nil {
		return Value{}, nil, r.damaged(err)
	}
	v, err := decodeValue(record, &r.nodes)
	if err != nil {
		closer.Close()
		return Value{}, nil, r.damaged(fmt.Errorf("%v, key %q: %w", r.replica, key, err))
	}
	return v, closer, nil
}

// DiskBytes estimates the disk space that the replica's flushed data takes.
func (r *ReplicaState) DiskBytes() (uint64, error) {
	if err := r.state.enter(); err != nil {
		return 0, err
	}
	defer r.state.leave()
	start, end := replicaSpan(r.replica)
	return r.state.db.EstimateDiskUsage(start, end)
}

// exchange runs replace, which exchanges or removes the whole range, with
// everybody else kept out. The caller holds mu.
func (r *ReplicaState) exchange(replace func() error) error {
	r.replacing.Lock()
	defer r.replacing.Unlock()
	if r.destroyed.Load() {
		return ErrReplicaDestroyed
	}
	r.epoch++
	return replace()
}
