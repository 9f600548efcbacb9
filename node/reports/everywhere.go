package reports

import (
	"slices"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

// everywhereAge is how long what was found to be applied everywhere is used,
// although more was told since: each answer to a client asks, and members tell
// something each second, times their number.
const everywhereAge = 100 * time.Millisecond

// everywhere is what all replicas have applied for good, by partition, as of one
// ring and one moment. It does not change.
type everywhere struct {
	ring  *control.State
	told  uint64 // Reporter.told at that moment
	at    time.Time
	index []uint64
}

// AppliedEverywhere is the index of a partition that all its replicas have
// applied for good, and all other members have heard of for good, as far as they
// have told; 0 if one of them has not, or if the ring that is known here does not
// have this member. It may go back when a replica restarts or is added. It takes no
// lock as a rule.
func (r *Reporter) AppliedEverywhere(p partition.ID) uint64 {
	ring := r.c.Ring()
	known := r.everywhere.Load()
	// A replica can only be added by another ring. Among the same ones an index
	// that was applied for good stays so: an older answer is true, too.
	if known == nil || known.ring != ring || known.told != r.told.Load() && time.Since(known.at) >= everywhereAge {
		known = r.findEverywhere(ring)
	}
	if int(p) >= len(known.index) {
		return 0
	}
	return known.index[p]
}

func (r *Reporter) findEverywhere(ring *control.State) *everywhere {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := &everywhere{ring: ring, told: r.told.Load(), at: time.Now(), index: make([]uint64, len(ring.Partitions))}
	for p := range found.index {
		if !slices.Contains(ring.Members(), r.c.Self) {
			break // an old ring, which does not have those either who joined since
		}
		found.index[p] = r.table.appliedEverywhere(ring, partition.ID(p))
	}
	r.everywhere.Store(found)
	return found
}
