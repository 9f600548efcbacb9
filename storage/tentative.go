package storage

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/fault"
)

var (
	// ErrTentativeFull: the bound on what the node may hold of undecided writes
	// is reached. Nothing was stored.
	ErrTentativeFull = errors.New("the tentative log is full")
	// ErrTentativeDot: a write bears the dot of another one that is held here.
	// Nothing was stored. A dot is given once, so one of the two is not what
	// its node has accepted: its disk was copied, or a message is damaged.
	ErrTentativeDot = errors.New("two tentative writes with the same dot")
)

// TentativeLimits bound what a node holds of tentative writes, all partitions
// together: without them a long time without a leader would fill the disk,
// which the linearizable writes need too, or the memory.
type TentativeLimits struct {
	// DiskBytes bounds the records, before compression; 0 means 2 GiB.
	DiskBytes int64
	// MemoryBytes bounds the index, which holds everything but the values;
	// 0 means 256 MiB, some 600,000 writes of short keys.
	MemoryBytes int64
}

const (
	tentativeDefaultDiskBytes   = 2 << 30
	tentativeDefaultMemoryBytes = 256 << 20
	// tentativeItemBytes is what a write takes up in the index beside its key,
	// with a key of its own: the worst case.
	tentativeItemBytes = 384
)

// TentativeUse is what tentative writes take up now, those in flight included,
// and how much they may.
type TentativeUse struct {
	DiskBytes, MemoryBytes int64
	Limits                 TentativeLimits
}

// tentativeCost is what one or many writes take up.
type tentativeCost struct{ disk, memory int64 }

func tentativeCostOf(d Dot, keyBytes, valueBytes int) tentativeCost {
	dot := tentativePrefixLen + tentativeDotLen(d)
	c := tentativeCost{disk: int64(dot + tentativeWriteHeader + keyBytes), memory: int64(tentativeItemBytes + keyBytes)}
	if valueBytes > 0 {
		c.disk += int64(dot + 1 + valueBytes)
	}
	return c
}

func (c *tentativeCost) add(o tentativeCost) {
	c.disk += o.disk
	c.memory += o.memory
}

// tentativeLogs are those of all partitions.
type tentativeLogs struct {
	mu     sync.Mutex
	loaded bool
	logs   map[partition.ID]*TentativeLog
	// incarnation is drawn anew each time the database is opened, and sequence
	// numbers begin anew with it. So no dot can be given twice, even if the
	// disk is set back to an older image or copied: there is no counter that
	// could be set back with it.
	incarnation uint64

	saving sync.Mutex // see SaveHeard

	budget sync.Mutex // held briefly, inside of a log's own lock
	used   tentativeCost
	limits TentativeLimits
}

// TentativeLog holds the tentative writes of one partition on this node: the
// eventual writes that were accepted, here or elsewhere, and that are not yet
// decided as far as this node knows.
//
// It belongs to the partition, not to a replica of it. A replica that is moved
// away, destroyed, or replaced by a snapshot leaves it as it is, because these
// writes may be nowhere else; the node then is a holder of hints. That is also
// how a node without a replica keeps what it accepts while it reaches none.
//
// Writes, and what else Append has acknowledged, are durable, by the same fsync
// that serves the Raft logs of this database. All methods are safe for
// concurrent use.
//
// # Reading
//
// A write leaves the index only after the applied state has taken up its fate.
// So a reader asks this log first and the applied state second: in the other
// order a write that is applied and forgotten in between would be seen by
// neither. Where [TentativeLog.Read] then finds that a write is gone, the state
// by now knows more than it did, and the reader begins anew. And whoever reads
// on behalf of this node, from its own replica too, reads only from state that
// has applied [TentativeLog.FateFloor].
type TentativeLog struct {
	log       *Log
	partition partition.ID
	nodes     nodeNames

	// heard is raised at once, and written down with the next write.
	heard atomic.Uint64

	mu         sync.RWMutex
	index      *tentativeIndex
	settled    map[Dot]tentativeSettled // decided and applied, but still on disk
	sequence   uint64
	returned   []uint64          // below sequence: given back, to be given out again
	drafts     map[uint64]uint64 // bases of dots given out, by drafted, see NextDot
	drafted    uint64
	heardSaved uint64 // see Saved
	covers     bool
	fateFloor  uint64

	queue   []*tentativeOp // those that wait for the write in flight to end
	writing bool
	pending map[Dot]*tentativePending // writes in the queue or in flight
}

// tentativeSettled is a write whose promotion was applied at index here.
type tentativeSettled struct {
	index   uint64
	version tentativeVersion
	cost    tentativeCost
}

// tentativePending is a write on its way to the disk.
type tentativePending struct {
	write     *TentativeWrite
	settledAt uint64 // index of its promotion, if that was applied meanwhile
}

// Tentative opens the tentative log of p. It writes nothing by itself. One
// TentativeLog stands for p while the database is open.
//
// The first call after OpenLog reads the index of all partitions: the limits
// are the node's, so what it holds must be known before more is taken.
func (l *Log) Tentative(p partition.ID) (*TentativeLog, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	s := &l.tentative
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(l); err != nil {
		return nil, fmt.Errorf("tentative logs: %w", err)
	}
	return s.log(l, p), nil
}

// TentativePartitions lists those of which the node holds any tentative write,
// in no order: after a restart it still owes them to their leaders, whether it
// has a replica of theirs or not.
func (l *Log) TentativePartitions() ([]partition.ID, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	s := &l.tentative
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(l); err != nil {
		return nil, fmt.Errorf("tentative logs: %w", err)
	}
	var found []partition.ID
	for p, t := range s.logs {
		if t.Backlog().Count > 0 {
			found = append(found, p)
		}
	}
	return found, nil
}

// LimitTentative sets the limits. What is held already stays, also beyond them.
func (l *Log) LimitTentative(limits TentativeLimits) {
	l.tentative.budget.Lock()
	defer l.tentative.budget.Unlock()
	l.tentative.limits = limits
}

// TentativeUse tells how far the limits are used.
func (l *Log) TentativeUse() TentativeUse {
	s := &l.tentative
	s.budget.Lock()
	defer s.budget.Unlock()
	return TentativeUse{DiskBytes: s.used.disk, MemoryBytes: s.used.memory, Limits: s.effective()}
}

func (s *tentativeLogs) effective() TentativeLimits {
	limits := s.limits
	if limits.DiskBytes == 0 {
		limits.DiskBytes = tentativeDefaultDiskBytes
	}
	if limits.MemoryBytes == 0 {
		limits.MemoryBytes = tentativeDefaultMemoryBytes
	}
	return limits
}

// room is ErrTentativeFull if c more does not fit.
func (s *tentativeLogs) room(c tentativeCost) error {
	limits := s.effective()
	if disk := s.used.disk + c.disk; disk > limits.DiskBytes {
		return fmt.Errorf("%w: %d bytes on disk, at most %d", ErrTentativeFull, disk, limits.DiskBytes)
	}
	if memory := s.used.memory + c.memory; memory > limits.MemoryBytes {
		return fmt.Errorf("%w: %d bytes of index, at most %d", ErrTentativeFull, memory, limits.MemoryBytes)
	}
	return nil
}

func (s *tentativeLogs) reserve(c tentativeCost) error {
	s.budget.Lock()
	defer s.budget.Unlock()
	if err := s.room(c); err != nil {
		return err
	}
	s.used.add(c)
	return nil
}

func (s *tentativeLogs) release(c tentativeCost) {
	s.budget.Lock()
	defer s.budget.Unlock()
	s.used.disk -= c.disk
	s.used.memory -= c.memory
}

func (s *tentativeLogs) log(l *Log, p partition.ID) *TentativeLog {
	t := s.logs[p]
	if t == nil {
		t = &TentativeLog{
			log: l, partition: p, index: newTentativeIndex(),
			settled: map[Dot]tentativeSettled{}, drafts: map[uint64]uint64{}, pending: map[Dot]*tentativePending{},
		}
		s.logs[p] = t
	}
	return t
}

// load rebuilds the indexes. The logs are not in use yet.
func (s *tentativeLogs) load(l *Log) error {
	if s.loaded {
		return nil
	}
	s.logs = map[partition.ID]*TentativeLog{}
	var random [8]byte
	for s.incarnation == 0 {
		if _, err := rand.Read(random[:]); err != nil {
			return err
		}
		s.incarnation = binary.BigEndian.Uint64(random[:])
	}
	if fault.On(fault.ReuseDot) {
		s.incarnation = 1
	}
	it, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{logSpaceTentative},
		UpperBound: []byte{logSpaceTentative + 1},
	})
	if err != nil {
		return err
	}
	used, err := s.scan(l, it)
	if err := errors.Join(err, it.Close()); err != nil {
		return err
	}
	s.loaded = true
	s.budget.Lock()
	s.used.add(used)
	s.budget.Unlock()
	return nil
}

func (s *tentativeLogs) scan(l *Log, it *pebble.Iterator) (used tentativeCost, err error) {
	var nodes nodeNames
	for ok := it.First(); ok; {
		p, kind, d, err := parseTentativeKey(it.Key(), &nodes)
		if err != nil {
			return used, err
		}
		if kind == tentativeKindValue { // read when asked for, and known by its write's record
			ok = it.SeekGE(tentativeKey(p, tentativeKindValue+1, 0))
			continue
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return used, err
		}
		t := s.log(l, p)
		switch kind {
		case tentativeKindHeard:
			var heard uint64
			heard, err = decodeTentativeIndex(record)
			t.heardSaved = max(t.heardSaved, heard)
			t.Hear(t.heardSaved)
		case tentativeKindSaved:
			var saved tentativeSaved
			saved, err = decodeTentativeSaved(record)
			t.heardSaved, t.covers = max(t.heardSaved, saved.index), saved.covers
			t.Hear(t.heardSaved)
		case tentativeKindFate:
			t.fateFloor, err = decodeTentativeIndex(record)
			t.Hear(t.fateFloor)
		case tentativeKindWrite:
			var v tentativeVersion
			var key []byte
			if v, key, err = decodeTentativeWrite(d, record); err == nil {
				t.index.insert(v, key)
				used.add(tentativeCostOf(d, len(key), v.bytes))
				t.Hear(v.base)
			}
		}
		if err != nil {
			return used, fmt.Errorf("partition %d: %w", p, err)
		}
		ok = it.Next()
	}
	return used, it.Error()
}

// close writes down what was heard since the last write. Nothing else is in
// flight, and nothing follows: so a node that is stopped in good order still
// knows what it had heard of, though nothing was written since.
func (s *tentativeLogs) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	for _, t := range s.logs {
		failed = errors.Join(failed, t.saveHeard())
	}
	return failed
}

// Partition names whose log this is.
func (t *TentativeLog) Partition() partition.ID { return t.partition }

// Heard is the highest committed index of the partition that this node has
// heard of. The base of what it accepts is never below it.
func (t *TentativeLog) Heard() uint64 { return t.heard.Load() }

// Hear raises Heard: by the node's own log, by an answer it passes on, by a
// session's token. It costs next to nothing. The index is durable with the next
// write that Append, or with the next report that UndecidedBase makes, with the
// next SaveHeard, and on Close; so a crash may lose what was heard since, but never
// what a write that is held, or a report, was based on, nor the fate floor: it is
// an index too.
func (t *TentativeLog) Hear(index uint64) {
	for {
		known := t.heard.Load()
		if index <= known || t.heard.CompareAndSwap(known, index) {
			return
		}
	}
}

// FateFloor is the highest index at which a write was decided that this node
// held as a hint and has forgotten since. It is durable together with the
// forgetting. State below it is older than what this node could show before, so
// eventual reads on its behalf are answered from state that has applied it.
func (t *TentativeLog) FateFloor() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.fateFloor
}

// A Draft is a dot for one write, and the base it must bear.
type Draft struct {
	Dot  Dot
	Base uint64

	log    *TentativeLog
	number uint64
}

// NextDot gives out the dot and the base of a write that this node accepts. The
// base is the highest index heard of, at least the one given, which is that of
// the request's session.
//
// Until Done is called, the base counts as one of an undecided write, so that
// the node does not report more in between. The caller calls it when the write
// is durable or given up, here and wherever else it was sent. A dot that is
// given up leaves a hole among the sequence numbers, and the partition's record
// of promoted dots has room for so many only: see [Draft.GiveBack].
func (t *TentativeLog) NextDot(base uint64) Draft {
	t.Hear(base)
	t.mu.Lock()
	defer t.mu.Unlock()
	var sequence uint64
	if n := len(t.returned); n > 0 {
		sequence, t.returned = t.returned[n-1], t.returned[:n-1]
	} else {
		t.sequence++
		sequence = t.sequence
	}
	t.drafted++
	d := Draft{
		Dot:  Dot{Node: t.log.opts.NodeID, Incarnation: t.log.tentative.incarnation, Sequence: sequence},
		Base: t.heard.Load(), log: t, number: t.drafted,
	}
	t.drafts[d.number] = d.Base
	return d
}

// Done ends the draft. To call it again, or after GiveBack, does nothing.
func (d Draft) Done() {
	d.log.mu.Lock()
	defer d.log.mu.Unlock()
	delete(d.log.drafts, d.number)
}

// GiveBack ends the draft, if that was not done yet, and has another write get
// its dot. The caller vouches for it that nobody was told of the dot and nothing
// was stored or sent under it: two writes with one dot would be the end of one
// of them.
func (d Draft) GiveBack() {
	d.log.mu.Lock()
	defer d.log.mu.Unlock()
	if _, open := d.log.drafts[d.number]; open {
		delete(d.log.drafts, d.number)
		d.log.returned = append(d.log.returned, d.Dot.Sequence)
	}
}

// Room is [ErrTentativeFull] if a write with a key and a value of these lengths
// would be refused now. Asked before NextDot, it saves a dot that would stay
// unused.
func (t *TentativeLog) Room(keyBytes, valueBytes int) error {
	s := &t.log.tentative
	s.budget.Lock()
	defer s.budget.Unlock()
	return s.room(tentativeCostOf(Dot{Node: t.log.opts.NodeID}, keyBytes, valueBytes))
}

// UndecidedBase is what the node reports for the floor of the partition's
// tombstones: no write with a base below it is undecided here, and none that
// the node accepts from now on will have one. It holds over restarts too: what
// was heard is made durable before it is reported.
func (t *TentativeLog) UndecidedBase() (uint64, error) {
	if err := t.log.enter(); err != nil {
		return 0, err
	}
	defer t.log.leave()
	t.mu.Lock()
	if t.heard.Load() > t.heardSaved {
		if err := t.submit(&tentativeOp{sync: true}); err != nil {
			return 0, err
		}
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	lowest := t.heardSaved
	if i, ok := t.index.byBase.first(); ok {
		lowest = min(lowest, i.base)
	}
	for _, base := range t.drafts {
		lowest = min(lowest, base)
	}
	for _, p := range t.pending {
		lowest = min(lowest, p.write.Base)
	}
	return lowest, nil
}
