package replication

import (
	"slices"
	"sync"
	"time"
)

// remembered is what a replica knows about its own freshness: read indexes and
// when they were asked for, on the clock of [HostConfig.Elapsed].
//
// A pair (asked, index) says: whatever was acknowledged before asked is at or
// below index. So a replica that has applied index holds a state at most
// now - asked old. Pairs come from each round that gives a read index, whoever
// it was for; asked is read when the round begins, before anything is sent.
// Rounds overlap, so pairs come in any order; each is true on its own.
type remembered struct {
	mu sync.Mutex
	// pairs that say something that no other says better: ascending in both.
	pairs []asking
}

type asking struct {
	asked time.Duration
	index uint64
}

// maxRemembered pairs: one that is applied, and those on the way to be. More
// wait only if the replica is seconds behind, when the newest are no use yet.
const maxRemembered = 16

// add takes up a pair. applied is the replica's.
func (r *remembered) add(p asking, applied uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := len(r.pairs)
	for at > 0 && r.pairs[at-1].asked >= p.asked {
		at--
	}
	for _, later := range r.pairs[at:] {
		if later.index <= p.index {
			return // says more, of a later moment
		}
	}
	// Those asked for earlier, of an index as high or higher, say less than p.
	keep, end := at, at
	if end < len(r.pairs) && r.pairs[end].asked == p.asked {
		end++ // of a higher index
	}
	for keep > 0 && r.pairs[keep-1].index >= p.index {
		keep--
	}
	r.pairs = slices.Replace(r.pairs, keep, end, p)
	r.prune(applied)
	if n := len(r.pairs); n > maxRemembered {
		// The last but one makes room: those before it are reached sooner, the
		// last is the best once the replica has caught up.
		r.pairs = slices.Delete(r.pairs, n-2, n-1)
	}
}

// prune drops what an applied pair has made useless. It is called with the
// lock held.
func (r *remembered) prune(applied uint64) {
	n := 0 // pairs that are applied
	for n < len(r.pairs) && r.pairs[n].index <= applied {
		n++
	}
	if n > 1 {
		r.pairs = slices.Delete(r.pairs, 0, n-1)
	}
}

// newest is when the newest read index that is applied was asked for; false if
// none is.
func (r *remembered) newest(applied uint64) (asked time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prune(applied)
	if len(r.pairs) == 0 || r.pairs[0].index > applied {
		return 0, false
	}
	return r.pairs[0].asked, true
}

// last is when the last read index was asked for, applied or not.
func (r *remembered) last() (asked time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pairs) == 0 {
		return 0, false
	}
	return r.pairs[len(r.pairs)-1].asked, true
}
