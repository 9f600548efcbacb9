package storage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/storage/hlc"
)

var (
	// ErrBehind: the state at hand is older than what this node could show
	// before. It says nothing about other replicas.
	ErrBehind = errors.New("the replica is behind what this node has shown before")
	// ErrUnread: the write that wins is known, but not its value: see
	// [Local.Complete].
	ErrUnread = errors.New("the value is where the answer came from")
)

// Local is what one node knows of a partition: what it answers eventual reads
// from. It is two handles and may be made for each read. All methods are safe
// for concurrent use.
type Local struct {
	// State is that of the replica on this node; nil if there is none.
	State *ReplicaState
	// Log holds the tentative writes; nil if this node never had any.
	Log *TentativeLog
	// Decided are writes that another node's state is known to have decided. It is
	// for a node without State, whose answers are merged with that state.
	Decided *DotSet
}

// LocalState is what an answer was made from.
type LocalState struct {
	// State says that there is committed state in the answer. Without it, what
	// is not found may well be there.
	State bool
	// Applied is the log index that the state had reached, or a later one, and
	// Floor the partition's floor there.
	Applied, Floor uint64
	// FateFloor is the highest of those of the nodes that took part, see
	// [TentativeLog.FateFloor]: a state below it must not be shown by them.
	FateFloor uint64
}

// Behind says that the state is too old to be shown.
func (s LocalState) Behind() bool { return s.State && s.Applied < s.FateFloor }

// LocalEntry is what is known of one key: what was committed, what is undecided,
// and what an eventual read shows of them. Bytes that are nil, but for a delete
// or a tombstone, were not read: what does not win, or what [ScanOptions] left
// out.
type LocalEntry struct {
	Key []byte
	// Held is what was committed, a tombstone included; nil for nothing.
	Held *Value
	// Candidates are the undecided writes that may win, as
	// [TentativeLog.Candidates] gives them.
	Candidates []Tentative

	// Tentative is the one of the candidates that wins, by [Winner]; nil if what
	// was committed stands.
	Tentative *Tentative
	// Found says that the key has a value: Bytes.
	Found bool
	Bytes []byte
	// Version is that of the value, or of the delete; its index is 0 if it is
	// tentative. Zero if there is nothing.
	Version Version
}

// LocalRead is a node's answer to an eventual read of one key.
type LocalRead struct {
	LocalState
	LocalEntry
}

// Known says whether the answer may be given: there is committed state, or a
// tentative write. Without either nothing is known, which is not the same as
// that the key is not there.
func (r *LocalRead) Known() bool { return r.State || r.Tentative != nil }

// Read answers an eventual read of key from what this node has: the committed
// version, or the tentative one that wins over it. Where the answer is to be
// merged with others, it comes from ReadToMerge.
//
// With [ErrBehind] the answer is what the tentative log alone says, to be merged
// with that of another replica. Other errors are those of State and Log.
func (l Local) Read(key []byte) (LocalRead, error) { return l.read(key, localWinner) }

// ReadToMerge is Read for [MergeReads]: with more values, so that the one that
// wins in the end is known as a rule.
func (l Local) ReadToMerge(key []byte) (LocalRead, error) { return l.read(key, localCandidates) }

// ReadToMergeWith is ReadToMerge for a session that has written or seen the
// writes in ranges, and tells which of them this node does not vouch for: as
// Missing does, but safely together with the read. A write that comes here after
// it was found missing is asked of others all the same; one that goes after it
// was found here has raised the fate floor that the read comes with.
func (l Local) ReadToMergeWith(key []byte, ranges []DotRange) (r LocalRead, missing []DotRange, err error) {
	missing = l.Missing(ranges)
	r, err = l.ReadToMerge(key)
	return r, missing, err
}

// ReadNamed is ReadToMerge for a node that names writes: those of the key that it
// holds itself, and those of its session. Of these, decided are the ones that the
// state which was read has decided, and ofKey those that are held here, undecided,
// and are writes of the key. Both may share their dots with named.
//
// The asker has to know of decided: a write that lost to a delete may seem to win
// once the delete was collected behind the floor, see [Decide].
func (l Local) ReadNamed(key []byte, named *DotSet) (r LocalRead, decided, ofKey *DotSet, err error) {
	for range localTries {
		before := l.ledger().among(named)
		if r, err = l.ReadToMerge(key); err != nil {
			return r, nil, nil, err
		}
		// What is decided before and after the read is decided in the state that was
		// read, and what is decided in neither is not.
		if decided = l.ledger().among(named); decided.Equal(before) {
			return r, decided, l.Log.among(key, named), nil
		}
	}
	return LocalRead{}, nil, nil, fmt.Errorf("key %q: writes were decided while they were read, %d times: %w", key, localTries, ErrUnread)
}

// among are those of the writes that the ledger knows to be decided; nil knows of
// none.
func (l *ledger) among(named *DotSet) *DotSet {
	found := &DotSet{}
	if l == nil {
		return found
	}
	left := &DotSet{}
	for r := range named.Minus(l.promoted) {
		if _, lost := l.forfeited[r.Node]; !lost {
			_ = left.AddRange(r) // at most one run more per run of promoted dots, which fit
		}
	}
	for r := range named.Minus(left) {
		_ = found.AddRange(r)
	}
	return found
}

// among are those of the writes that are held here and are writes of the key.
func (t *TentativeLog) among(key []byte, named *DotSet) *DotSet {
	found := &DotSet{}
	if t == nil {
		return found
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if k := t.index.keyed[string(key)]; k != nil {
		for _, i := range k.items {
			if named.Has(i.dot) {
				_ = found.Add(i.dot) // a part of named, whose dots fit
			}
		}
	}
	return found
}

// MaxNamed bounds the writes of one key that [TentativeLog.WritesOf] gives.
const MaxNamed = 1024

// WritesOf are the undecided writes of the key that are held here, the latest ones
// if they are more than [MaxNamed].
func (t *TentativeLog) WritesOf(key []byte) *DotSet {
	found := &DotSet{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if k := t.index.keyed[string(key)]; k != nil {
		for _, i := range k.items[max(0, len(k.items)-MaxNamed):] {
			_ = found.Add(i.dot) // far below the limit
		}
	}
	return found
}

// Drop leaves out of the answer the writes that are decided in the state that it is
// merged with, and decides anew; nil are none.
func (r *LocalRead) Drop(decided *DotSet) {
	if decided == nil {
		return
	}
	r.Candidates = slices.DeleteFunc(slices.Clone(r.Candidates), func(t Tentative) bool { return decided.Has(t.Dot) })
	r.decide(r.Floor)
}

// localValues says which candidates' values are read.
type localValues uint8

const (
	localNone localValues = iota
	localWinner
	localCandidates
)

// maxLocalExtraBytes bounds the values of candidates beside the winner: with the
// largest value there is, and keys, they fit into one message.
const maxLocalExtraBytes = 512 << 10

func (l Local) read(key []byte, values localValues) (LocalRead, error) {
	if len(key) == 0 || len(key) > MaxKeyBytes {
		return LocalRead{}, fmt.Errorf("key of %d bytes", len(key))
	}
	for range localTries {
		r := LocalRead{LocalEntry: LocalEntry{Key: key}}
		// In this order: what the ledger knows to be decided is in the state that
		// is read afterwards, and what leaves the log meanwhile, too.
		known := l.ledger()
		if l.Log != nil {
			r.Candidates = l.Log.undecided(key, known)
			r.FateFloor = l.Log.FateFloor()
		}
		if l.State != nil {
			if err := l.State.readLocal(&r, values == localCandidates); err != nil {
				return LocalRead{}, err
			}
		}
		if r.Behind() {
			alone, err := Local{Log: l.Log}.read(key, values)
			return alone, cmp.Or(err, ErrBehind)
		}
		r.decide(r.Floor)
		if decided, err := l.fill(&r.LocalEntry, values); !decided {
			return r, err
		}
	}
	return LocalRead{}, fmt.Errorf("key %q: writes were decided while they were read, %d times: %w", key, localTries, ErrUnread)
}

// localTries bounds how often a read begins anew. Each time a write was decided
// in the few microseconds in which it was read.
const localTries = 64

// ledger is that of the state; without one it knows what the caller knows.
func (l Local) ledger() *ledger {
	switch {
	case l.State != nil:
		return l.State.ledger.Load()
	case l.Decided != nil:
		return &ledger{promoted: l.Decided}
	}
	return nil
}

// decided says that the write was promoted or is lost.
func (l *ledger) decided(d Dot) bool {
	if l == nil {
		return false
	}
	_, lost := l.forfeited[d.Node]
	return lost || l.promoted.Has(d)
}

// fill reads values of candidates, unless one was decided meanwhile.
func (l Local) fill(e *LocalEntry, values localValues) (decided bool, err error) {
	extra := 0
	for i := range e.Candidates {
		t := &e.Candidates[i]
		wins := t == e.Tentative
		if t.Delete || t.Bytes != nil || values == localNone || !wins && (values != localCandidates || extra >= maxLocalExtraBytes) {
			continue
		}
		w, err := l.Log.Read(t.Dot)
		switch {
		case errors.Is(err, ErrLogNotFound):
			return true, nil
		case err != nil:
			return false, err
		case !wins && extra+len(w.Bytes) > maxLocalExtraBytes:
			continue
		case !wins:
			extra += len(w.Bytes)
		}
		t.Bytes = append([]byte{}, w.Bytes...)
	}
	if t := e.Tentative; t != nil {
		e.Bytes = t.Bytes
	}
	return false, nil
}

// Complete reads the value of the winner, if that is not known after a merge
// and the write is held here. [ErrUnread] if it is not, or not any more: the
// read is to be begun anew.
func (l Local) Complete(e *LocalEntry) error {
	t := e.Tentative
	if t == nil || t.Delete || t.Bytes != nil {
		return nil
	}
	if l.Log == nil {
		return fmt.Errorf("tentative write %s: %w", t.Dot, ErrUnread)
	}
	w, err := l.Log.Read(t.Dot)
	if errors.Is(err, ErrLogNotFound) {
		return fmt.Errorf("%w: %w", err, ErrUnread)
	}
	t.Bytes = append([]byte{}, w.Bytes...)
	e.Bytes = t.Bytes
	return err
}

// decide finds what the entry shows.
func (e *LocalEntry) decide(floor uint64) {
	e.Tentative, e.Found, e.Bytes, e.Version = nil, false, nil, Version{}
	if t := Winner(e.Held, floor, e.Candidates); t != nil {
		e.Tentative, e.Found, e.Bytes, e.Version = t, !t.Delete, t.Bytes, t.Version(0)
		return
	}
	if v := e.Held; v != nil {
		e.Found, e.Version = !v.Tombstone, v.Version
		if e.Found {
			e.Bytes = v.Bytes
		}
	}
}

// readLocal fills in the state's part. Where there are candidates, or will be
// when others' are merged, value and floor are of one point in time: the floor
// says of a tombstone that was collected what the tombstone would have said.
func (r *ReplicaState) readLocal(to *LocalRead, merged bool) error {
	to.State = true
	if len(to.Candidates) == 0 && !merged {
		to.Applied, _ = r.Applied()
		v, held, err := r.Get(to.Key)
		if held {
			to.Held = &v
		}
		to.Floor = r.Floor()
		return err
	}
	if err := r.state.enter(); err != nil {
		return err
	}
	defer r.state.leave()
	for {
		same, err := r.pinned(func(p *pebble.Snapshot) error { return r.readPinned(p, to) })
		if same || err != nil {
			return err
		}
	}
}

// pinned shows read the replica as it is now, and says whether it was not
// replaced meanwhile, which would take away what is pinned too. The caller has
// entered the state.
func (r *ReplicaState) pinned(read func(*pebble.Snapshot) error) (same bool, err error) {
	r.replacing.RLock()
	epoch, p := r.epoch, r.state.db.NewSnapshot()
	r.replacing.RUnlock()
	err = errors.Join(r.damaged(read(p)), p.Close())
	r.replacing.RLock()
	defer r.replacing.RUnlock()
	switch {
	case r.destroyed.Load():
		return false, ErrReplicaDestroyed
	case r.epoch != epoch:
		return false, nil
	}
	return true, err
}

func (r *ReplicaState) readPinned(pinned *pebble.Snapshot, to *LocalRead) error {
	to.Held = nil
	applied, _, err := readApplied(pinned, r.prefix)
	if err != nil {
		return err
	}
	floor, err := readFloor(pinned, r.prefix)
	if err != nil {
		return err
	}
	to.Applied, to.Floor = applied.index, floor
	record, closer, err := pinned.Get(append(slices.Clip(r.users), to.Key...))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return err
	default:
		v, err := decodeValue(record, &r.nodes)
		v.Bytes = append([]byte{}, v.Bytes...)
		if err := errors.Join(err, closer.Close()); err != nil {
			return fmt.Errorf("%v, key %q: %w", r.replica, to.Key, err)
		}
		to.Held = &v
	}
	return nil
}

// readFloor reads the floor of a replica; 0 if none was set.
func readFloor(from pebble.Reader, prefix []byte) (floor uint64, err error) {
	record, closer, err := from.Get(append(slices.Clip(prefix), kindLedger))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	head, err := decodeLedgerHead(record)
	return head.floor, errors.Join(err, closer.Close())
}

// Newest is the highest timestamp of the versions of key that this node holds,
// committed and tentative: a new write of the key gets a higher one. 0 if there
// is none. An error is one of State.
func (l Local) Newest(key []byte) (hlc.Timestamp, error) {
	var newest hlc.Timestamp
	if l.Log != nil {
		newest = l.Log.Newest(key)
	}
	if l.State == nil {
		return newest, nil
	}
	committed, err := l.State.timestamp(key)
	return max(newest, committed), err
}

// timestamp is that of key's version; 0 if there is none.
func (r *ReplicaState) timestamp(key []byte) (hlc.Timestamp, error) {
	if err := r.state.enter(); err != nil {
		return 0, err
	}
	defer r.state.leave()
	v, closer, err := r.read(key)
	if closer != nil {
		err = closer.Close()
	}
	if r.destroyed.Load() {
		return 0, ErrReplicaDestroyed
	}
	return v.Version.Timestamp, err
}

// Missing gives those of the writes that are neither held here nor decided in
// the state: whoever must show them can not do so from here yet. What it finds
// holds for every read that begins afterwards.
func (l Local) Missing(ranges []DotRange) []DotRange {
	var missing []DotRange
	for _, r := range ranges {
		if r.check() == nil { // else it names nothing
			missing = l.Log.appendAbsent(missing, r)
		}
	}
	if l.State == nil {
		return missing
	}
	// Second: what leaves the log meanwhile is decided before.
	known := l.State.ledger.Load()
	var left []DotRange
	for _, r := range missing {
		var one DotSet
		if _, lost := known.forfeited[r.Node]; lost || one.AddRange(r) != nil {
			continue
		}
		left = slices.AppendSeq(left, one.Minus(known.promoted))
	}
	return left
}

// appendAbsent appends those dots of r that are not held; nil holds none.
func (t *TentativeLog) appendAbsent(dst []DotRange, r DotRange) []DotRange {
	if t == nil {
		return append(dst, r)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range t.index.byDot.from(tentativeAt(Dot{r.Node, r.Incarnation, r.First})) {
		d := i.dot
		if d.Node != r.Node || d.Incarnation != r.Incarnation || d.Sequence > r.Last {
			break
		}
		if d.Sequence > r.First {
			dst = append(dst, DotRange{r.Node, r.Incarnation, r.First, d.Sequence - 1})
		}
		if d.Sequence == r.Last {
			return dst
		}
		r.First = d.Sequence + 1
	}
	return append(dst, r)
}
