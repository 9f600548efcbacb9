package replication

import (
	"sync"

	"github.com/hashicorp/raft"
)

const (
	// recentEntries stay in memory for followers and the machine to be served
	// from: what is in flight, twice over.
	recentEntries = 2 * maxAppendEntries
	// recentBytes bounds them too, a group: values may be megabytes, and a node
	// has many groups. A batch at full speed fits some dozen times.
	recentBytes = 8 << 20
)

// recentLog is a log store that keeps its last entries in memory, by number
// and by size; the library's own cache knows only the number.
type recentLog struct {
	raft.LogStore

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
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if l.Index != c.next {
			c.clear(l.Index)
		}
		for c.first < c.next && (c.next-c.first == recentEntries || c.bytes+sizeOf(l) > recentBytes) {
			at := c.first % recentEntries
			c.bytes -= sizeOf(c.ring[at])
			c.ring[at] = nil
			c.first++
		}
		c.ring[l.Index%recentEntries] = l
		c.bytes += sizeOf(l)
		c.next++
	}
	return nil
}

func (c *recentLog) DeleteRange(lowest, highest uint64) error {
	c.mu.Lock()
	c.clear(0)
	c.mu.Unlock()
	return c.LogStore.DeleteRange(lowest, highest)
}

// clear forgets all; next is the entry to come. The caller holds mu.
func (c *recentLog) clear(next uint64) {
	clear(c.ring[:])
	c.first, c.next, c.bytes = next, next, 0
}

func sizeOf(l *raft.Log) int { return len(l.Data) + len(l.Extensions) }
