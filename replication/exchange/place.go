package exchange

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// place is what is kept of one partition, beside its tentative log. No method
// of the log is called with mu held: the log calls back into places with its
// own lock held.
type place struct {
	x         *Exchange
	partition partition.ID
	log       *storage.TentativeLog
	lead      lead

	// changes counts what was put into the log and taken out of it.
	changes atomic.Uint64

	mu sync.Mutex
	// newest is, by incarnation, the highest sequence number that came here
	// since the log was last seen empty; recent is the same as of the last
	// tick, and aged as of the one before it.
	newest, recent, aged map[origin]uint64
	// answered are the dots that a leader said are decided, at answeredAt or
	// below. Memory only, and bounded: see note.
	answered   *storage.DotSet
	answeredAt uint64
	// decided is closed when some write was decided; nil while nobody waits.
	decided chan struct{}

	handIn handIns
	offers offers

	// summary is what the log holds, as of so many changes.
	summary   *storage.DotSet
	summaryAt uint64
}

// origin is one incarnation of a node.
type origin struct {
	node        partition.NodeID
	incarnation uint64
}

func originOf(d storage.Dot) origin { return origin{d.Node, d.Incarnation} }

func newPlace(x *Exchange, p partition.ID, log *storage.TentativeLog) *place {
	pl := &place{
		x: x, partition: p, log: log,
		newest: map[origin]uint64{}, answered: &storage.DotSet{},
		handIn: newHandIns(), offers: newOffers(),
	}
	pl.lead.init(x, p)
	return pl
}

// leader is the best guess at who leads; "" for nobody known.
func (pl *place) leader() partition.NodeID {
	if r := pl.x.cfg.Replica(pl.partition); r != nil && r.Leads() {
		return pl.x.cfg.Self
	}
	return pl.x.cfg.Leader(pl.partition)
}

// hasReplica says whether this node answers from a replica of its own: it has
// one, or the ring says that it has. Then that is not open yet, or has failed;
// what it will have applied when it opens settles what is held. Until then the
// node holds on to it: it is no mere holder of hints, who reads elsewhere.
func (pl *place) hasReplica() bool {
	if pl.x.cfg.Replica(pl.partition) != nil {
		return true
	}
	ring := pl.x.cfg.Ring()
	return ring != nil && slices.Contains(ring.Replicas(pl.partition), pl.x.cfg.Self)
}

// tick tries what did not get on by itself.
func (pl *place) tick() {
	pl.lead.tick()
	empty, leader := pl.log.Backlog().Count == 0, pl.leader() != ""
	pl.mu.Lock()
	if empty {
		clear(pl.newest)
	}
	pl.aged, pl.recent = pl.recent, maps.Clone(pl.newest)
	stuck := pl.handIn.stuck(leader, empty)
	pl.mu.Unlock()
	if empty {
		pl.forgetOffers()
		return
	}
	pl.sweep()
	if stuck {
		pl.offer()
	}
}

// kick is tick for what waits for somebody who can be reached now.
func (pl *place) kick() {
	leader := pl.leader()
	pl.abandon(leader)
	pl.forgetOffers()
	switch {
	case pl.log.Backlog().Count == 0:
	case leader == "":
		pl.offer()
	default:
		pl.sweep()
	}
}

// came notes that writes are in the log that were not before.
func (pl *place) came(writes []storage.TentativeWrite) {
	pl.changes.Add(1)
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for i := range writes {
		d := writes[i].Dot
		if o := originOf(d); pl.newest[o] < d.Sequence {
			pl.newest[o] = d.Sequence
		}
	}
}

// isAged reports whether the write was here at the tick before the last one, as
// far as that can be told by its number. The caller holds mu.
func (pl *place) isAged(d storage.Dot) bool {
	aged := pl.agedOf(storage.RangeOf(d))
	return aged[0].Last > 0 || aged[1].Last > 0
}

// agedOf is the parts of r that are aged, zero for none. Numbers above the
// newest that came are of writes that came before it was counted: before the
// start, or before the log was last seen empty. The caller holds mu.
func (pl *place) agedOf(r storage.DotRange) (parts [2]storage.DotRange) {
	o := origin{r.Node, r.Incarnation}
	low, high := r, r
	if low.Last = min(low.Last, pl.aged[o]); low.First <= low.Last {
		parts[0] = low
	}
	if high.First = max(high.First, pl.newest[o]+1); high.First <= high.Last {
		parts[1] = high
	}
	return parts
}

// maxAnswered bounds the runs of dots in answered: some hundred KiB.
const maxAnswered = 16 << 10

// note remembers that dots are decided at index or below, so that they are not
// handed in, offered and taken again while their fate has not yet been applied
// here or at another holder. With too many gaps all is forgotten.
func (pl *place) note(dots []storage.Dot, index uint64) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.answered.Spans() > maxAnswered {
		pl.answered, pl.answeredAt = &storage.DotSet{}, 0
	}
	for _, d := range dots {
		_ = pl.answered.Add(d) // ErrDotSetFull is far away
	}
	pl.answeredAt = max(pl.answeredAt, index)
	pl.tell()
}

// tell wakes those who wait for a decision. The caller holds mu.
func (pl *place) tell() {
	if pl.decided != nil {
		close(pl.decided)
		pl.decided = nil
	}
}

// knownDecided is a copy of answered, and the index by which all of it is decided.
func (pl *place) knownDecided() (*storage.DotSet, uint64) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.answered.Clone(), pl.answeredAt
}

// awaitChange is closed when some write was decided after it was asked for.
func (pl *place) awaitChange() <-chan struct{} {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.decided == nil {
		pl.decided = make(chan struct{})
	}
	return pl.decided
}

// held is the dots of what the log holds. The set is not to be changed.
func (pl *place) held() *storage.DotSet {
	at := pl.changes.Load()
	pl.mu.Lock()
	summary := pl.summary
	if summary != nil && pl.summaryAt != at {
		summary = nil
	}
	pl.mu.Unlock()
	if summary != nil {
		return summary
	}
	summary = pl.log.Summary()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.summary, pl.summaryAt = summary, at
	return summary
}

// settle takes out of the log's index what this node's replica has decided at
// index or below: its state answers for it from now on.
func (pl *place) settle(dots []storage.Dot, index uint64) {
	if len(dots) == 0 {
		return
	}
	pl.log.Settle(dots, index)
	pl.changes.Add(1)
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.tell()
}

// forget takes out of the log what was decided at index or below, on a node
// whose answers come from the replicas of others.
func (pl *place) forget(dots []storage.Dot, index uint64) {
	if len(dots) == 0 {
		return
	}
	pl.note(dots, index)
	if err := pl.log.Forget(dots, index); err != nil {
		pl.x.emit(LogFailed{pl.partition, err})
	}
	pl.changes.Add(1)
}

// decidedBy reports whether r has applied the write's fate.
func decidedBy(r Replica, d storage.Dot) bool {
	return r != nil && (r.PromotedHas(d) || r.Forfeited(d.Node))
}

// Applied tells that this node's replica has applied the promotions up to index,
// and that its state answers accordingly. It touches memory only.
func (x *Exchange) Applied(p partition.ID, index uint64, results []storage.PromotionResult) {
	pl := x.known(p)
	if pl == nil {
		return // nothing was ever held
	}
	pl.log.Hear(index)
	for _, r := range results {
		dots := make([]storage.Dot, 0, len(r.Fates))
		for _, f := range r.Fates {
			if f.Fate.Decided() {
				dots = append(dots, f.Dot)
			}
		}
		pl.settle(dots, index)
	}
}

// Recover settles all that this node's replica has decided: it was opened, its
// state was replaced by a snapshot, or a node's writes were forfeited. Without
// a replica it does nothing.
func (x *Exchange) Recover(p partition.ID) {
	pl, r := x.known(p), x.cfg.Replica(p)
	if pl == nil || r == nil {
		return
	}
	held := pl.log.Held(func(d storage.Dot) bool { return decidedBy(r, d) })
	index, _ := r.Applied() // asked after: it covers what was found
	pl.log.Hear(index)
	pl.settle(held, index)
	pl.kick()
}

// Durable tells that the replica's state is durable up to index: what was
// settled by then need not stay on disk.
func (x *Exchange) Durable(p partition.ID, index uint64) {
	pl := x.known(p)
	if pl == nil || pl.log.Backlog().Settled == 0 {
		return
	}
	if err := pl.log.EraseSettled(index); err != nil {
		x.emit(LogFailed{p, err})
	}
}

// HandOver is called before this node's replica, whose state has applied index,
// goes away, and once Replica does not give it any more. From then on the node
// is a holder of hints, and answers from state that has applied as much.
func (x *Exchange) HandOver(p partition.ID, index uint64) error {
	pl := x.known(p)
	if pl == nil {
		return nil
	}
	err := pl.log.HandOver(index)
	pl.changes.Add(1)
	pl.kick()
	return err
}
