package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// Peers is how a host talks to the hosts of other nodes.
type Peers interface {
	// Call sends a request and waits for its answer, or until ctx is done.
	Call(ctx context.Context, node partition.NodeID, kind uint8, payload []byte) ([]byte, error)
	// Notify sends a message that may be lost, without waiting. An error says
	// that it is lost already.
	Notify(node partition.NodeID, kind uint8, payload []byte) error
	// Handle sets who answers messages of a kind, calls and notices alike. fn is
	// called from a goroutine of its own and may block; once Handle was given
	// nil, it is called no more.
	Handle(kind uint8, fn func(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error))
	// LastHeard is how long ago anything came from node; false if never. Links
	// must be kept alive often enough for this to tell the living from the dead
	// within an election timeout.
	LastHeard(node partition.NodeID) (ago time.Duration, ok bool)
	// Counted reports whether what a replica of node says counts. It does not if the
	// replica has lost something that it had acknowledged to this node, or has not
	// said yet what its disk holds.
	Counted(node partition.NodeID, r storage.Replica) bool
}

// HostConfig says how all groups of a node behave.
type HostConfig struct {
	Self   partition.NodeID
	Peers  Peers
	Timing Timing
	// Events hears what happens; may be nil.
	Events func(Event)
	// Elapsed is the clock on which the age of a replica's state is measured: it
	// goes on steadily from any point, and while the machine is suspended too. It
	// is called from many goroutines. Default: the machine's own, CLOCK_BOOTTIME
	// on Linux.
	Elapsed func() time.Duration
	// Proposals bounds what the commands of all groups take up until they are applied,
	// and as much of entries that are committed and wait to be applied. Nil: nothing
	// beside each group's own bounds.
	Proposals *budget.Budget
	// Recent bounds the newest log entries of all groups that are kept in memory, in
	// bytes. Default 64 MiB.
	Recent int64
}

// Host is all replicas of one node. It does for them together what would cost
// too much for each alone.
type Host struct {
	self   partition.NodeID
	peers  Peers
	timing Timing
	events func(Event)
	// elapsed is HostConfig.Elapsed.
	elapsed func() time.Duration

	proposals *budget.Budget
	recent    recentBudget
	// backlog is about what the entries take up that are committed and not applied, in
	// bytes, and mostBacklog its bound.
	backlog     atomic.Int64
	mostBacklog int64

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	confirmations rounds[confirmation]
	notices       *noticer
	refresher     *refresher
	attention     *attention
	hurry         chan struct{} // has the watchdog look for leaders at once

	mu     sync.RWMutex
	closed bool
	groups map[storage.GroupID]*Group
	askers map[partition.NodeID]*rounds[indexRequest]
}

// NewHost starts a host without groups.
func NewHost(c HostConfig) (*Host, error) {
	t := c.Timing.withDefaults()
	if err := t.validate(); err != nil {
		return nil, err
	}
	if c.Self == "" || c.Peers == nil {
		return nil, errors.New("replication host: Self and Peers must be set")
	}
	h := &Host{
		self: c.Self, peers: c.Peers, timing: t, events: c.Events, elapsed: c.Elapsed,
		proposals: c.Proposals, recent: recentBudget{limit: cmp.Or(c.Recent, defaultRecent)}, mostBacklog: defaultBacklog,
		groups: map[storage.GroupID]*Group{},
		askers: map[partition.NodeID]*rounds[indexRequest]{},
		hurry:  make(chan struct{}, 1),
	}
	if c.Proposals != nil {
		h.mostBacklog = c.Proposals.Use().Limit
	}
	if h.elapsed == nil {
		h.elapsed = elapsed
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.confirmations.run = h.confirmRound
	h.notices = newNoticer(h)
	h.refresher = newRefresher(h)
	h.attention = newAttention(t.watchInterval())
	h.wg.Go(func() { h.notices.run(h.ctx) })
	h.wg.Go(func() { h.refresher.run(h.ctx) })
	h.wg.Go(func() { h.watch(h.ctx) })
	h.wg.Go(h.watchRecent)
	h.peers.Handle(KindConfirm, h.handleConfirm)
	h.peers.Handle(KindReadIndex, h.handleReadIndex)
	h.peers.Handle(KindNotice, h.handleNotice)
	h.peers.Handle(KindBehind, h.handleBehind)
	h.peers.Handle(KindSilence, h.handleSilence)
	return h, nil
}

// Elapsed is the time on the host's clock for the age of state; only
// differences mean something. See [HostConfig].
func (h *Host) Elapsed() time.Duration { return h.elapsed() }

// Open starts a replica of a group. A host has one replica a group at a time.
func (h *Host) Open(c GroupConfig) (*Group, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, stopping()
	}
	if h.groups[c.Replica.Group] != nil {
		h.mu.Unlock()
		return nil, fmt.Errorf("group %d is already open", c.Replica.Group)
	}
	g := newGroup(h, c)
	h.groups[c.Replica.Group] = g // serves nothing before it is ready
	h.mu.Unlock()
	if err := g.start(c); err != nil {
		h.remove(g)
		return nil, fmt.Errorf("opening replica %v: %w", c.Replica, err)
	}
	return g, nil
}

// Group is the open replica of a group.
func (h *Host) Group(id storage.GroupID) (*Group, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	g := h.groups[id]
	return g, g != nil && g.ready.Load()
}

// serving is the replica r if this node has it open, in that generation, and
// it has not failed.
func (h *Host) serving(r storage.Replica) *Group {
	g, ok := h.Group(r.Group)
	if !ok || g.replica != r || g.unusable() != nil {
		return nil
	}
	return g
}

func (h *Host) all() []*Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	groups := make([]*Group, 0, len(h.groups))
	for _, g := range h.groups {
		if g.ready.Load() {
			groups = append(groups, g)
		}
	}
	return groups
}

func (h *Host) remove(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.groups[g.replica.Group] == g {
		delete(h.groups, g.replica.Group)
	}
}

func (h *Host) emit(e Event) {
	if h.events != nil {
		h.events(e)
	}
}

// Close closes all groups, handing leadership away first, and waits for
// everything the host started.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	var wg sync.WaitGroup
	groups := h.all()
	errs := make(chan error, len(groups))
	for _, g := range groups {
		wg.Go(func() { errs <- g.Close() })
	}
	wg.Wait()
	close(errs)
	h.cancel()
	h.mu.RLock()
	askers := make([]*rounds[indexRequest], 0, len(h.askers))
	for _, a := range h.askers {
		askers = append(askers, a)
	}
	h.mu.RUnlock()
	for _, a := range askers {
		a.close()
	}
	h.confirmations.close()
	h.wg.Wait()
	for _, kind := range []uint8{KindConfirm, KindReadIndex, KindNotice, KindBehind, KindSilence} {
		h.peers.Handle(kind, nil)
	}
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}
