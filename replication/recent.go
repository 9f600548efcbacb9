package replication

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// recentEntries stay in memory for followers and the machine to be served
	// from: what is in flight, twice over.
	recentEntries = 2 * maxAppendEntries
	// recentBytes bounds them too, per group: values may be megabytes. A batch at full
	// speed fits some dozen times.
	recentBytes = 8 << 20
	// recentIdle is how long the entries of a group that is not written to stay: its
	// followers have them by then. At most twice as long passes.
	recentIdle = 2 * time.Second
	// defaultRecent bounds the entries of all groups, in bytes, where nobody says.
	defaultRecent = 64 << 20
)

// recentBudget bounds what the recentLogs of a node hold together.
type recentBudget struct {
	limit int64
	held  atomic.Int64
}

// recentLog is a log store that keeps its last entries in memory, by number
// and by size; the library's own cache knows only the number.
type recentLog struct {
	raft.LogStore
	budget *recentBudget
	used   atomic.Bool  // since the last look
	size   atomic.Int64 // of an entry, about

	mu    sync.RWMutex
	ring  [recentEntries]*raft.Log // entry i at i modulo the length
	first uint64                   // kept are [first, next); equal: none
	next  uint64
	bytes int
}

// IsMonotonic tells the library whether gaps in the log must be avoided.
func (c *recentLog) IsMonotonic() bool {
	store, ok := c.LogStore.(raft.MonotonicLogStore)
	return ok && store.IsMonotonic()
}

func (c *recentLog) GetLog(index uint64, into *raft.Log) error {
	c.mu.RLock()
	if index >= c.first && index < c.next {
		*into = *c.ring[index%recentEntries]
		c.mu.RUnlock()
		c.touch()
		return nil
	}
	c.mu.RUnlock()
	return c.LogStore.GetLog(index, into)
}

func (c *recentLog) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

func (c *recentLog) StoreLogs(logs []*raft.Log) error {
	if err := c.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	c.touch()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if l.Index != c.next {
			c.clear(l.Index)
		}
		size := sizeOf(l)
		c.size.Store((7*c.size.Load() + int64(size)) / 8)
		for c.first < c.next && (c.next-c.first == recentEntries || c.bytes+size > recentBytes || c.budget.held.Load()+int64(size) > c.budget.limit) {
			c.dropFirst()
		}
		c.next++
		if c.budget.held.Load()+int64(size) > c.budget.limit {
			c.first = c.next // other groups have it all
			continue
		}
		c.ring[l.Index%recentEntries] = l
		c.hold(size)
	}
	return nil
}

func (c *recentLog) DeleteRange(lowest, highest uint64) error {
	c.mu.Lock()
	c.clear(0)
	c.mu.Unlock()
	return c.LogStore.DeleteRange(lowest, highest)
}

// touch says that the entries are of use.
func (c *recentLog) touch() {
	if !c.used.Load() {
		c.used.Store(true)
	}
}

// dropIdle forgets all if they were of no use since the last call.
func (c *recentLog) dropIdle() {
	if c.used.Swap(false) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear(c.next)
}

// close gives back what the entries take up.
func (c *recentLog) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear(c.next)
}

// dropFirst forgets the oldest entry. The caller holds mu, here and below.
func (c *recentLog) dropFirst() {
	at := c.first % recentEntries
	c.hold(-sizeOf(c.ring[at]))
	c.ring[at] = nil
	c.first++
}

// clear forgets all; next is the entry to come.
func (c *recentLog) clear(next uint64) {
	clear(c.ring[:])
	c.hold(-c.bytes)
	c.first, c.next = next, next
}

func (c *recentLog) hold(bytes int) {
	c.bytes += bytes
	c.budget.held.Add(int64(bytes))
}

func sizeOf(l *raft.Log) int { return len(l.Data) + len(l.Extensions) }

// watchRecent drops entries that are of no use any more.
func (h *Host) watchRecent() {
	ticker := time.NewTicker(recentIdle)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, g := range h.all() {
				g.recent.dropIdle()
			}
		case <-h.ctx.Done():
			return
		}
	}
}
