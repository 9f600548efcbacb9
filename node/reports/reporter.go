package reports

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// TellEvery is how often a member tells what has changed, and makes it durable
	// before, by one fsync. It bounds how old the base of an eventual write is where
	// nothing else brings news.
	TellEvery = time.Second
	// PollEvery is how often a leader polls: each poll costs the members an fsync
	// for each partition that moves.
	PollEvery = 10 * time.Second
	// callWait bounds one message and its answer, the fsyncs included.
	callWait = 5 * time.Second
	// heldBackAfter is how long the floor has to be held back by one promise
	// before it is worth telling: a few polls.
	heldBackAfter = time.Minute
	// heldBackAgain is how often that is told while it lasts.
	heldBackAgain = time.Hour
)

// Peers is how members reach each other.
type Peers interface {
	Call(ctx context.Context, node partition.NodeID, kind uint8, payload []byte) ([]byte, error)
	Handle(kind uint8, fn func(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error))
}

// Tentative is this member's tentative log of a partition; see
// [storage.TentativeLog], which is one.
type Tentative interface {
	Saved() (index uint64, covers bool)
	Hear(index uint64)
	UndecidedBase() (uint64, error)
	Held(in func(storage.Dot) bool) []storage.Dot
}

// Replica is this member's replica of a partition.
type Replica interface {
	Generation() uint32
	// Leads reports whether it leads as far as it knows. A wrong guess costs a
	// poll and a proposal in vain.
	Leads() bool
	// Applied is the last index that it has applied, Durable the last that a
	// crash can not take back.
	Applied() uint64
	Durable() uint64
	// Floor is the partition's floor, and Collectable reports whether raising it
	// to that index, or raising it there again, would collect a tombstone now.
	Floor() uint64
	Collectable(floor uint64) bool
	// Forfeited reports whether the node's unpromoted writes are lost for ever.
	Forfeited(node partition.NodeID) bool
	// RaiseFloor and Forfeit propose these commands, and return once they are
	// applied here.
	RaiseFloor(ctx context.Context, floor uint64) error
	Forfeit(ctx context.Context, node partition.NodeID) error
}

// Config says who the member is, and what it can see. All functions may be
// called concurrently.
type Config struct {
	Self partition.NodeID
	// Start counts this node's starts, from 1. It is asked while Run runs, and
	// does not change then.
	Start func() uint64
	Peers Peers
	// Ring is the newest state of the control group that this node knows.
	Ring func() *control.State
	// Alive is who can be reached, as far as gossip knows; the caller may keep it.
	Alive func() map[partition.NodeID]bool
	// Tentative opens the tentative log of a partition. An error says that the
	// node is closing.
	Tentative func(partition.ID) (Tentative, error)
	// SaveHeard makes durable what the tentative logs have heard of, see
	// [storage.Log.SaveHeard].
	SaveHeard func(covers bool) error
	// Replica is this node's replica of a partition, or nil.
	Replica func(partition.ID) Replica
	// Events hears what happens; may be nil. It must not block.
	Events func(Event)
}

// Event is one of [FloorRaised], [Forfeited], [Failed] and [HeldBack].
type Event any

// FloorRaised: the floor of a partition that this node leads was raised.
type FloorRaised struct {
	Partition partition.ID
	Floor     uint64
}

// Forfeited: what a removed node had accepted for a partition that this node
// leads, and nobody else had, was declared lost.
type Forfeited struct {
	Partition partition.ID
	Node      partition.NodeID
}

// Failed: a command for a partition failed. It is tried again with the next poll.
type Failed struct {
	Partition partition.ID
	Err       error
}

// HeldBack: a member holds back the floors of partitions that this node leads,
// so that their tombstones stay. It is down, or it holds old writes that it can
// not hand in. If it is gone for good, removing it releases them.
type HeldBack struct {
	Node       partition.NodeID
	Partitions int
	Since      time.Duration // ago
}

// Reporter is this member's part. All methods are safe for concurrent use.
type Reporter struct {
	c Config

	mu    sync.Mutex
	table table
	own   ownReport
	peers map[partition.NodeID]*peer
	held  heldBack
	after partition.ID // the last one polled about

	told       atomic.Uint64 // counts changes of table, with mu held
	everywhere atomic.Pointer[everywhere]
}

// peer is what this member knows of another one's knowledge of it.
type peer struct {
	acked uint64 // the sequence that it has taken; 0: it is to be told everything
	busy  bool   // a report is on its way
	lost  uint64 // how often it has forgotten what it was told
}

// New starts to listen; [Reporter.Run] does the rest.
func New(c Config) (*Reporter, error) {
	if c.Self == "" || c.Start == nil || c.Peers == nil || c.Ring == nil || c.Alive == nil || c.Tentative == nil || c.SaveHeard == nil || c.Replica == nil {
		return nil, errors.New("reports: something is not set")
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	r := &Reporter{c: c, peers: map[partition.NodeID]*peer{}}
	c.Peers.Handle(Kind, r.handle)
	return r, nil
}

// Run tells and polls until ctx is done, and returns when all that it started
// has ended.
func (r *Reporter) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { every(ctx, PollEvery, r.poll) })
	var calls sync.WaitGroup
	every(ctx, TellEvery, func(ctx context.Context) { r.tell(ctx, &calls) })
	loops.Wait()
	calls.Wait()
	r.c.Peers.Handle(Kind, nil)
}

func every(ctx context.Context, d time.Duration, do func(context.Context)) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do(ctx)
		}
	}
}

// HeldBack lists the members that have held back the floors of partitions which
// this node leads for a minute and more, in order of their ids.
func (r *Reporter) HeldBack() []HeldBack {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held.list(time.Now())
}

func (r *Reporter) handle(_ context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	message, err := decodeMessage(payload)
	if err != nil {
		return nil, err
	}
	if q, ok := message.(Question); ok {
		return r.answer(q).encode(), nil
	}
	verdict := reportWhole
	if r.hear(from, message.(Report)) {
		verdict = reportTaken
	}
	return []byte{messageVersion, verdict}, nil
}

// hear is false if the report has to be sent again, with all that was before.
func (r *Reporter) hear(from partition.NodeID, report Report) bool {
	ring := r.c.Ring()
	if !slices.Contains(ring.Members(), from) {
		return false // registered just now, or removed
	}
	if n := len(report.Entries); n > 0 && int(report.Entries[n-1].Partition) >= len(ring.Partitions) {
		return false // placed just now
	}
	for _, e := range report.Entries {
		// Whether it is taken or not: that an index is committed never gets wrong. And
		// before it is taken: see heardFromAll.
		if t, err := r.c.Tentative(e.Partition); err == nil {
			t.Hear(e.Heard)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	taken, started := r.table.hear(from, report)
	r.told.Add(1)
	if started && r.peers[from] != nil {
		r.peers[from].acked = 0
		r.peers[from].lost++
	}
	return taken
}
