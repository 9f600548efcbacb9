package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
)

const (
	// handInWindow is how many batches of a partition may be on their way to
	// the leader: enough to overlap the network with its fsyncs.
	handInWindow = 4
	// handInGather is how many writes have to wait before a further batch goes
	// while another is on its way. A lone write goes at once and no timer is
	// needed; under load a batch is what came during the one before it.
	handInGather = 128
	// maxEagerWrites and maxEagerBytes bound the writes that wait in memory to
	// be handed in. What is beyond is in the log all the same, and the next
	// sweep finds it there.
	maxEagerWrites = 16 << 10
	maxEagerBytes  = 8 << 20
	// handInTimeout bounds one call. A leader that is cut off must not hold a
	// batch for longer than the others need to elect a new one.
	handInTimeout = 2 * time.Second
	// handInHops is how often a batch follows the hint who leads.
	handInHops = 3
)

// handIns is a partition's writes on their way to the leader, under place.mu.
type handIns struct {
	// flying are the dots in queue and in batches under way.
	flying map[storage.Dot]struct{}
	// queue are those that this node hands in before anybody else does.
	queue []storage.TentativeWrite
	bytes int
	under int // batches of the queue under way

	calls map[*handInCall]struct{}

	sweeping, again bool
	// decided counts writes, decidedAt is that number as of the last tick, and
	// idle how many ticks ago it last changed while there was a leader.
	decided, decidedAt uint64
	idle               int
}

// handInCall is a batch at a leader.
type handInCall struct {
	leader partition.NodeID
	cancel context.CancelFunc
}

func newHandIns() handIns {
	return handIns{flying: map[storage.Dot]struct{}{}, calls: map[*handInCall]struct{}{}}
}

// stuckTicks is how long nothing may be decided while a leader is known before
// writes are offered to other holders: time for a sweep and its answers.
const stuckTicks = 2

// stuck reports at a tick whether promotion does not get on.
func (h *handIns) stuck(leader, empty bool) bool {
	switch {
	case empty || !leader || h.decided != h.decidedAt:
		h.idle = 0
	default:
		h.idle++
	}
	h.decidedAt = h.decided
	return !empty && (!leader || h.idle >= stuckTicks)
}

// handInNow sends writes that are in the log on to the leader, without waiting.
// Without a known leader, or with too much waiting, it leaves that to sweep.
func (pl *place) handInNow(writes []storage.TentativeWrite) {
	if pl.leader() == "" {
		return
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	h := &pl.handIn
	for i := range writes {
		w := &writes[i]
		size := len(w.Key) + len(w.Bytes)
		if len(h.queue) >= maxEagerWrites || h.bytes+size > maxEagerBytes {
			break
		}
		if _, ok := h.flying[w.Dot]; ok {
			continue
		}
		h.flying[w.Dot] = struct{}{}
		h.queue = append(h.queue, *w)
		h.bytes += size
	}
	pl.pump()
}

// pump sends batches of the queue. The caller holds mu.
func (pl *place) pump() {
	h := &pl.handIn
	for len(h.queue) > 0 && h.under < handInWindow && (h.under == 0 || len(h.queue) >= handInGather) {
		batch := h.take()
		h.under++
		if !pl.x.spawn(func() {
			_ = pl.handOver(batch) // told as an event; the next sweep tries again
			pl.mu.Lock()
			defer pl.mu.Unlock()
			pl.handIn.under--
			pl.pump()
		}) {
			return // closed: what is flying stays so
		}
	}
}

// take is the front of the queue, as much as fits into a message.
func (h *handIns) take() []storage.TentativeWrite {
	n, bytes := 0, 0
	for n < len(h.queue) && n < maxBatchWrites {
		size := len(h.queue[n].Key) + len(h.queue[n].Bytes)
		if n > 0 && bytes+size > maxBatchBytes {
			break
		}
		bytes += size
		n++
	}
	batch := h.queue[:n:n]
	if h.queue = h.queue[n:]; len(h.queue) == 0 {
		h.queue = nil
	}
	h.bytes -= bytes
	return batch
}

// fly marks writes as being on their way, and gives those that were not.
func (pl *place) fly(writes []storage.TentativeWrite) []storage.TentativeWrite {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	fresh := writes[:0]
	for _, w := range writes {
		if _, ok := pl.handIn.flying[w.Dot]; !ok {
			pl.handIn.flying[w.Dot] = struct{}{}
			fresh = append(fresh, w)
		}
	}
	return fresh
}

func (pl *place) land(writes []storage.TentativeWrite) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for i := range writes {
		delete(pl.handIn.flying, writes[i].Dot)
	}
}

// abandon ends the calls to nodes that do not lead any more: a node that is cut
// off answers nothing.
func (pl *place) abandon(leader partition.NodeID) {
	if leader == "" {
		return
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for c := range pl.handIn.calls {
		if c.leader != leader {
			c.cancel()
		}
	}
}

var errNoLeader = errors.New("nobody is known to lead the partition")

// handOver brings a batch, which is flying, to the leader and takes in what
// became of it.
func (pl *place) handOver(batch []storage.TentativeWrite) error {
	defer pl.land(batch)
	leader, err := pl.leader(), errNoLeader
	for hop := 0; leader != "" && hop < handInHops; hop++ {
		var a handInAnswer
		a, err = pl.ask(leader, batch)
		if err == nil && a.status == statusDone {
			pl.takeIn(leader, batch, a)
			return nil
		}
		next := pl.leader() // the call may have been abandoned for it
		if err == nil {
			err = fmt.Errorf("%s: %v", leader, a.status)
			if a.status == statusElsewhere && a.leader != "" && a.leader != leader {
				next = a.leader
			}
		}
		if next == leader {
			break
		}
		leader = next
	}
	if pl.x.ctx.Err() == nil {
		pl.x.emit(HandInFailed{pl.partition, leader, len(batch), err})
	}
	return err
}

// ask gives a batch to the leader, on this node or on another.
func (pl *place) ask(leader partition.NodeID, batch []storage.TentativeWrite) (handInAnswer, error) {
	ctx, cancel := context.WithTimeout(pl.x.ctx, handInTimeout)
	defer cancel()
	c := &handInCall{leader, cancel}
	pl.mu.Lock()
	pl.handIn.calls[c] = struct{}{}
	pl.mu.Unlock()
	defer func() {
		pl.mu.Lock()
		defer pl.mu.Unlock()
		delete(pl.handIn.calls, c)
	}()
	if leader == pl.x.cfg.Self {
		return pl.lead.promote(ctx, batch), nil
	}
	b, err := pl.x.cfg.Peers.Call(ctx, leader, KindHandIn, handInRequest{pl.partition, batch}.encode())
	if err != nil {
		return handInAnswer{}, fmt.Errorf("%s: %w", leader, err)
	}
	a, err := decodeHandInAnswer(b)
	if err == nil && a.status == statusDone && len(a.fates) != len(batch) {
		err = malformed("%d fates of %d writes", len(a.fates), len(batch))
	}
	if err != nil {
		return handInAnswer{}, fmt.Errorf("%s: %w", leader, err)
	}
	return a, nil
}

// takeIn takes in what became of a batch.
//
// A node with a replica does not forget yet: between here and the moment at
// which the replica has applied the promotion, the write would be readable
// neither here nor there. One without is told here, once and for all.
func (pl *place) takeIn(leader partition.NodeID, batch []storage.TentativeWrite, a handInAnswer) {
	now := pl.x.cfg.Clock.Now().Time()
	dots := make([]storage.Dot, 0, len(batch))
	var lags []time.Duration
	for i := range batch {
		if a.fates[i] == storage.FatePending {
			continue
		}
		dots = append(dots, batch[i].Dot)
		if batch[i].Dot.Node == pl.x.cfg.Self {
			lags = append(lags, max(now.Sub(batch[i].Timestamp.Time()), 0))
		}
	}
	pl.log.Hear(a.index)
	switch {
	case !pl.hasReplica():
		pl.forget(dots, a.index)
	case fault.On(fault.ForgetEarly):
		pl.settle(dots, a.index)
	default:
		pl.note(dots, a.index)
	}
	pl.mu.Lock()
	pl.handIn.decided += uint64(len(dots))
	pl.mu.Unlock()
	if len(dots) > 0 {
		pl.x.emit(HandedIn{pl.partition, leader, len(dots), lags})
	}
}

// sweep goes over all that is held and hands in what is this node's turn,
// without waiting. A sweep that is under way is followed by another.
func (pl *place) sweep() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	h := &pl.handIn
	if h.sweeping {
		h.again = true
		return
	}
	h.sweeping = pl.x.spawn(func() {
		for more := true; more; {
			pl.sweepOnce()
			pl.mu.Lock()
			more = h.again && pl.x.ctx.Err() == nil
			h.again = false
			h.sweeping = more
			pl.mu.Unlock()
		}
	})
}

func (pl *place) sweepOnce() {
	if pl.leader() == "" {
		return
	}
	t := pl.newTurn()
	var failed atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	window := make(chan struct{}, handInWindow)
	for after := (storage.Dot{}); !failed.Load() && pl.x.ctx.Err() == nil; {
		batch, err := pl.log.Missing(t.skip, after, batchLimit)
		if err != nil {
			pl.x.emit(LogFailed{pl.partition, err})
			return
		}
		t.done()
		if len(batch) == 0 {
			return
		}
		after = batch[len(batch)-1].Dot
		if batch = pl.fly(batch); len(batch) == 0 {
			continue
		}
		window <- struct{}{}
		wg.Go(func() {
			defer func() { <-window }()
			if pl.handOver(batch) != nil {
				failed.Store(true)
			}
		})
	}
}

// turn says which writes this node hands in now.
//
// What it has accepted itself it hands in at any time. What came from others is
// handed in by others, as a rule: it is this node's turn when it has had the
// write for a while, or when the accepting node is not heard.
type turn struct {
	place   *place
	replica Replica // nil without one
	hints   bool    // nor is there to be one: see hasReplica
	heard   map[partition.NodeID]bool
	decided []storage.Dot
}

func (pl *place) newTurn() *turn {
	return &turn{
		place: pl, replica: pl.x.cfg.Replica(pl.partition), hints: !pl.hasReplica(), heard: map[partition.NodeID]bool{},
	}
}

// skip is called with the log locked.
func (t *turn) skip(d storage.Dot) bool {
	if decidedBy(t.replica, d) {
		t.decided = append(t.decided, d) // its promotion was applied while the write was on its way here
		return true
	}
	pl := t.place
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if _, ok := pl.handIn.flying[d]; ok {
		return true
	}
	if pl.answered.Has(d) {
		if t.replica == nil && t.hints { // it had a replica when it was answered, or was sent the write again
			t.decided = append(t.decided, d)
		}
		return true
	}
	if d.Node == pl.x.cfg.Self || pl.isAged(d) {
		return false
	}
	heard, ok := t.heard[d.Node]
	if !ok {
		heard = pl.x.reachable(d.Node)
		t.heard[d.Node] = heard
	}
	return heard
}

// done forgets what skip found to be decided.
func (t *turn) done() {
	if len(t.decided) == 0 {
		return
	}
	if t.replica != nil {
		index, _ := t.replica.Applied() // asked after: it covers what was found
		t.place.settle(t.decided, index)
	} else {
		_, index := t.place.knownDecided()
		t.place.forget(t.decided, index)
	}
	t.decided = nil
}
