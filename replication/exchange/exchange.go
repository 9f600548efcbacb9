package exchange

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// Exchange is a node's part in the life of eventual writes.
type Exchange struct {
	cfg Config

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// rounds bounds how many partitions give to other holders at a time.
	rounds chan struct{}

	mu     sync.RWMutex
	closed bool
	places map[partition.ID]*place

	alive map[partition.NodeID]bool // belongs to run
}

// maxRounds: what is given to other holders waits for their disks. A few at a
// time keep those busy, and leave memory and network to requests.
const maxRounds = 8

// New starts the exchange. It takes up what the tentative logs hold since the
// last start, and answers other nodes from now on.
func New(c Config) (*Exchange, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	x := &Exchange{
		cfg: c, places: map[partition.ID]*place{}, alive: map[partition.NodeID]bool{},
		rounds: make(chan struct{}, maxRounds),
	}
	held, err := c.Log.TentativePartitions()
	if err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	for _, p := range held {
		if _, err := x.place(p); err != nil {
			return nil, fmt.Errorf("exchange: %w", err)
		}
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.wg.Go(x.run)
	for kind, h := range x.handlers() {
		c.Peers.Handle(kind, h)
	}
	return x, nil
}

// Close stops everything and waits for it. Writes that are being accepted end
// first, with what they have. It does not close the log database.
func (x *Exchange) Close() error {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.cancel()
	for kind := range x.handlers() {
		x.cfg.Peers.Handle(kind, nil)
	}
	x.wg.Wait()
	return nil
}

// spawn runs fn in a goroutine that Close waits for; false once closed.
func (x *Exchange) spawn(fn func()) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return false
	}
	x.wg.Go(fn)
	return true
}

// enter makes Close wait for a call, until leave is called; false once closed.
func (x *Exchange) enter() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return false
	}
	x.wg.Add(1)
	return true
}

func (x *Exchange) leave() { x.wg.Done() }

// during ends with ctx and with the exchange.
func (x *Exchange) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(x.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// place is what is kept of p, made if it is new.
func (x *Exchange) place(p partition.ID) (*place, error) {
	x.mu.RLock()
	pl := x.places[p]
	x.mu.RUnlock()
	if pl != nil {
		return pl, nil
	}
	log, err := x.cfg.Log.Tentative(p)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.places[p] == nil {
		x.places[p] = newPlace(x, p, log)
	}
	return x.places[p], nil
}

// known is the place of p, nil if nothing was ever held there.
func (x *Exchange) known(p partition.ID) *place {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.places[p]
}

func (x *Exchange) all() []*place {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*place, 0, len(x.places))
	for _, pl := range x.places {
		all = append(all, pl)
	}
	return all
}

// Tentative is the tentative log of p. Reading it is free; writing to it, or
// forgetting, is for this package.
func (x *Exchange) Tentative(p partition.ID) (*storage.TentativeLog, error) {
	pl, err := x.place(p)
	if err != nil {
		return nil, err
	}
	return pl.log, nil
}

// Hear tells that index of p is committed: the base of what this node accepts
// from now on is not below it.
func (x *Exchange) Hear(p partition.ID, index uint64) {
	if pl, err := x.place(p); err == nil {
		pl.log.Hear(index)
	}
}

// Backlog is what this node holds undecided, by partition, those without left out.
func (x *Exchange) Backlog() map[partition.ID]storage.TentativeBacklog {
	found := map[partition.ID]storage.TentativeBacklog{}
	for _, pl := range x.all() {
		if b := pl.log.Backlog(); b.Count > 0 || b.Settled > 0 {
			found[pl.partition] = b
		}
	}
	return found
}

// Kick has what is held of p handed in now, and given to other holders: a leader
// was elected, or somebody can be reached again. It does not wait.
func (x *Exchange) Kick(p partition.ID) {
	if pl := x.known(p); pl != nil {
		pl.kick()
	}
}

// reachable reports whether node was heard from lately. This node always is.
func (x *Exchange) reachable(node partition.NodeID) bool {
	if node == x.cfg.Self {
		return true
	}
	ago, ok := x.cfg.Peers.LastHeard(node)
	return ok && ago < reachAge
}

// run looks after everything that did not get on by itself.
func (x *Exchange) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-x.ctx.Done():
			return
		case <-timer.C:
		}
		x.tick()
		// Not in step with other nodes: two that give to each other at the same
		// time give more than one of them needs.
		timer.Reset(tickEvery*4/5 + rand.N(tickEvery*2/5))
	}
}

func (x *Exchange) tick() {
	returned := x.returned()
	for _, pl := range x.all() {
		if returned {
			pl.forgetOffers()
		}
		pl.tick()
	}
}

// returned reports whether a node is heard that was not heard at the last tick.
func (x *Exchange) returned() bool {
	ring := x.cfg.Ring()
	if ring == nil {
		return false
	}
	now, returned := map[partition.NodeID]bool{}, false
	for _, n := range ring.Nodes() {
		if n != x.cfg.Self && x.reachable(n) {
			now[n] = true
			returned = returned || !x.alive[n]
		}
	}
	x.alive = now
	return returned
}

// room is why this node takes no tentative writes now, or nil.
func (x *Exchange) room(deletes bool) error {
	if x.cfg.Room == nil {
		return nil
	}
	return x.cfg.Room(deletes)
}

func closed() *replication.Error {
	return &replication.Error{Reason: replication.Stopping, Outcome: replication.NotApplied,
		Message: "this node is stopping", Try: "retry at another node"}
}
