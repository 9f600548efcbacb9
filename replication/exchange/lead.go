package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
)

const (
	// proposeWindow and proposeGather do for promotions what handInWindow and
	// handInGather do for batches on their way.
	proposeWindow = 2
	proposeGather = 256
	// maxProposeBytes bounds what waits to be proposed for one partition.
	maxProposeBytes = 16 << 20
	// proposeTimeout bounds a proposal: its outcome is unknown then, and who
	// hands the writes in again finds out.
	proposeTimeout = 10 * time.Second
	// baseWait is how long a write whose base this leader has not applied yet
	// keeps its batch waiting.
	baseWait = 500 * time.Millisecond
)

// lead makes promotions of what holders hand in, while this node leads the
// partition. It keeps nothing: what was promoted is in the replica's state, and
// what was not is with the holders.
type lead struct {
	x         *Exchange
	partition partition.ID

	mu sync.Mutex
	// queue are the proposals not yet made; only the last one may grow.
	queue []*proposal
	// at is where each write is that waits or is under way: handed in by
	// another holder too, it shares the answer.
	at       map[storage.Dot]seat
	bytes    int // of what waits and is under way
	underWay int // proposals

	// base is for how long the partition had lived at since; since is zero while this
	// node does not lead.
	base  time.Duration
	since time.Time
}

// seat is a write's place in a proposal.
type seat struct {
	of *proposal
	n  int
}

// proposal is one promotion.
type proposal struct {
	writes []storage.Tentative
	bytes  int
	done   chan struct{} // closed when what follows is set
	result storage.PromotionResult
	err    error
}

func (l *lead) init(x *Exchange, p partition.ID) {
	l.x, l.partition, l.at = x, p, map[storage.Dot]seat{}
}

// promote has writes decided, those that are not decided yet, and gives their
// fates. Where one stays pending, it has to be handed in again.
func (l *lead) promote(ctx context.Context, writes []storage.TentativeWrite) handInAnswer {
	r := l.x.cfg.Replica(l.partition)
	if r == nil || !r.Leads() {
		return l.elsewhere()
	}
	l.awaitBases(ctx, r, writes)
	a := handInAnswer{status: statusDone, fates: make([]storage.FateKind, len(writes))}
	places, ok := l.enqueue(r, writes, &a)
	if !ok {
		return handInAnswer{status: statusBusy}
	}
	for i, at := range places {
		if at.of == nil {
			continue
		}
		select {
		case <-at.of.done:
		case <-ctx.Done():
			return handInAnswer{status: statusFailed}
		}
		if err := at.of.err; err != nil {
			var e *replication.Error
			if errors.As(err, &e) && e.NotLeader {
				return l.elsewhere()
			}
			return handInAnswer{status: statusFailed}
		}
		a.fates[i] = at.of.result.Fates[at.n].Fate.Kind
		a.index = max(a.index, at.of.result.Index)
	}
	return a
}

// lived is for how long the partition has had a leader: what its state knows, and
// how long this node has led since then. Go's monotonic clock measures it, which
// nobody sets.
func (l *lead) lived(r Replica) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, known := time.Now(), r.Lived()
	if l.since.IsZero() || known > l.base+now.Sub(l.since) {
		l.since, l.base = now, known
	}
	return l.base + now.Sub(l.since)
}

// tick looks whether this node still leads. Between two looks the lead may have been
// lost and won again: then that time counts, too.
func (l *lead) tick() {
	r := l.x.cfg.Replica(l.partition)
	if r != nil && r.Leads() {
		l.lived(r)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
}

func (l *lead) elsewhere() handInAnswer {
	return handInAnswer{status: statusElsewhere, leader: l.x.cfg.Leader(l.partition)}
}

// awaitBases waits until the replica has applied the bases of the writes. An
// honest base is a committed index, which the leader's log has; it may not have
// applied it yet. A promotion must not stand at or below a write's base, else
// its fate would hang on what is committed later. That is sure only for bases
// below the applied index when it is proposed.
func (l *lead) awaitBases(ctx context.Context, r Replica, writes []storage.TentativeWrite) {
	var base uint64
	for i := range writes {
		base = max(base, writes[i].Base)
	}
	if applied, _ := r.Applied(); base <= applied {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, baseWait)
	defer cancel()
	_ = r.WaitApplied(ctx, base) // what it did not come to stays pending
}

// enqueue finds each write its place in a proposal. What is decided, or can not
// be proposed, has none: its fate is in the answer.
func (l *lead) enqueue(r Replica, writes []storage.TentativeWrite, a *handInAnswer) ([]seat, bool) {
	places := make([]seat, len(writes))
	applied, _ := r.Applied()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes > maxProposeBytes {
		return nil, false
	}
	for i := range writes {
		w := &writes[i].Tentative
		switch at, ok := l.at[w.Dot]; {
		case ok:
			places[i] = at
		case decidedBy(r, w.Dot) && !fault.On(fault.PromoteTwice):
			f, index := fateOf(r, w.Dot)
			a.fates[i], a.index = f, max(a.index, index)
		case w.Base > applied:
			a.fates[i] = storage.FatePending
		default:
			places[i] = l.add(w)
		}
	}
	l.pump(r)
	return places, true
}

// fateOf is the fate of a write that is decided, and an index at which it is.
func fateOf(r Replica, d storage.Dot) (storage.FateKind, uint64) {
	f, err := r.Fate(d)
	if err != nil || !f.Decided() {
		f = storage.Fate{Kind: storage.FateExpired} // decided it is, whatever became of it
	}
	if f.Index == 0 {
		f.Index, _ = r.Applied()
	}
	return f.Kind, f.Index
}

// promotionRoom is what the writes of a promotion may take up, beside its
// other fields.
const promotionRoom = storage.MaxPromotionBytes - 128

// add puts a write into the last proposal, or begins another.
func (l *lead) add(w *storage.Tentative) seat {
	size := storage.PromotionSize(w)
	var last *proposal
	if n := len(l.queue); n > 0 {
		last = l.queue[n-1]
	}
	if last == nil || len(last.writes) == storage.MaxPromotionWrites || last.bytes+size > promotionRoom {
		last = &proposal{done: make(chan struct{})}
		l.queue = append(l.queue, last)
	}
	at := seat{last, len(last.writes)}
	last.writes = append(last.writes, *w)
	last.bytes += size
	l.bytes += size
	l.at[w.Dot] = at
	return at
}

// pump makes proposals. The caller holds mu.
func (l *lead) pump(r Replica) {
	for len(l.queue) > 0 && l.underWay < proposeWindow &&
		(l.underWay == 0 || len(l.queue) > 1 || len(l.queue[0].writes) >= proposeGather) {
		p := l.queue[0]
		if l.queue = l.queue[1:]; len(l.queue) == 0 {
			l.queue = nil
		}
		l.underWay++
		if !l.x.spawn(func() {
			l.propose(r, p)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.underWay--
			l.pump(r)
		}) {
			p.err = closed()
			l.finish(p)
		}
	}
}

func (l *lead) propose(r Replica, p *proposal) {
	p.result, p.err = promotion(l.x, r, l.lived(r), p.writes)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finish(p)
}

// finish answers those who wait. The caller holds mu.
func (l *lead) finish(p *proposal) {
	for i := range p.writes {
		delete(l.at, p.writes[i].Dot)
	}
	l.bytes -= p.bytes
	p.writes = nil
	close(p.done)
}

// promotion commits writes as one command.
func promotion(x *Exchange, r Replica, lived time.Duration, writes []storage.Tentative) (storage.PromotionResult, error) {
	none := storage.PromotionResult{}
	command, err := storage.AppendPromotion(nil, storage.Promotion{Writes: writes, Now: x.cfg.Clock.Now(), Lived: lived})
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(x.ctx, proposeTimeout)
	defer cancel()
	answer, err := r.Propose(ctx, command)
	if err != nil {
		return none, err
	}
	result, ok := answer.(storage.CommandResult)
	if !ok || result.Promoted == nil || len(result.Promoted.Fates) != len(writes) {
		return none, fmt.Errorf("a promotion of %d writes was answered with %T", len(writes), answer)
	}
	return *result.Promoted, nil
}
