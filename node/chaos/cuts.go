package chaos

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// ErrCut is the error of a dial across a cut.
var ErrCut = errors.New("cut off deliberately")

// ErrSelf says that a node was to be cut off from itself.
var ErrSelf = errors.New("a node cannot be cut off from itself")

// Cuts is from whom one node is cut off. All methods are safe for concurrent use.
type Cuts struct {
	self partition.NodeID
	now  atomic.Pointer[state] // read by every frame and packet, without a lock

	mu      sync.Mutex // held to change state, and for the rest
	open    map[*stream]struct{}
	changed chan struct{} // closed and replaced by Set
}

// state is never changed, only replaced.
type state struct {
	nodes map[partition.NodeID]bool // those cut off
	since time.Time                 // when the first of them was; zero if there is none
	book  book
}

// New is a node that is cut off from nobody.
func New(self partition.NodeID) *Cuts {
	c := &Cuts{self: self, open: map[*stream]struct{}{}, changed: make(chan struct{})}
	c.now.Store(&state{})
	return c
}

// Set cuts this node off from these nodes and from no others, and says for which
// of them that is new, and which were cut off before and are not any more. When it
// returns nothing of gossip goes across the cut. The same nodes again change
// nothing. Its only error is [ErrSelf], and nothing has changed then.
func (c *Cuts) Set(nodes []partition.NodeID, now time.Time) (cut, healed []partition.NodeID, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.now.Load()
	after := &state{nodes: make(map[partition.NodeID]bool, len(nodes)), since: before.since, book: before.book}
	for _, node := range nodes {
		if node == c.self {
			return nil, nil, ErrSelf
		}
		after.nodes[node] = true
	}
	for node := range after.nodes {
		if !before.nodes[node] {
			cut = append(cut, node)
		}
	}
	for node := range before.nodes {
		if !after.nodes[node] {
			healed = append(healed, node)
		}
	}
	if len(cut)+len(healed) == 0 {
		return nil, nil, nil
	}
	switch {
	case len(after.nodes) == 0:
		after.since = time.Time{}
	case len(before.nodes) == 0:
		after.since = now
	}
	slices.Sort(cut)
	slices.Sort(healed)
	c.replaceLocked(after)
	close(c.changed)
	c.changed = make(chan struct{})
	return cut, healed, nil
}

// Learn is told where gossip reaches every node that is known, this one
// included, as host:port. It forgets what it was told before.
func (c *Cuts) Learn(addresses map[partition.NodeID]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.now.Load()
	c.replaceLocked(&state{nodes: before.nodes, since: before.since, book: newBook(addresses)})
}

// replaceLocked resets the streams that the new state forbids.
func (c *Cuts) replaceLocked(after *state) {
	c.now.Store(after)
	for s := range c.open {
		if s.across(after) {
			delete(c.open, s)
			reset(s.Conn)
		}
	}
}

// Cut is from whom this node is cut off, in order, and since when it has been cut off
// from anybody; none and the zero time if it is not.
func (c *Cuts) Cut() (nodes []partition.NodeID, since time.Time) {
	now := c.now.Load()
	return slices.Sorted(maps.Keys(now.nodes)), now.since
}

// Changed is closed when Set next changes anything.
func (c *Cuts) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// IsCut tells whether this node is cut off from another.
func (c *Cuts) IsCut(node partition.NodeID) bool { return c.now.Load().nodes[node] }

// Allow tells whether traffic may pass from one node to the other. Of two others it
// knows nothing, and allows it.
func (c *Cuts) Allow(from, to partition.NodeID) bool {
	now := c.now.Load()
	switch {
	case len(now.nodes) == 0:
		return true
	case from == c.self:
		return !now.nodes[to]
	case to == c.self:
		return !now.nodes[from]
	}
	return true
}
