package replication

import "sync"

// rounds gathers items and works on them a round at a time. An item added
// while rounds are under way waits for the next one: none ever joins a round
// that has begun, which is what makes an answer fetched by a round valid for
// each item in it. Rounds overlap, so that a slow one does not hold up those
// behind it, but no more than maxRounds of them.
type rounds[T any] struct {
	run func([]T)

	mu      sync.Mutex
	closed  bool
	waiting []T
	running int
	wg      sync.WaitGroup
}

const (
	// maxRounds in flight: enough to keep a connection busy through a round
	// trip, few enough that items gather under load.
	maxRounds = 4
	// maxWaiting items: far above the 1,024 streams a connection, a bound on
	// memory if peers stop answering.
	maxWaiting = 1 << 16
)

// add reports whether there was room; there is none after close.
func (r *rounds[T]) add(item T) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.waiting) >= maxWaiting {
		return false
	}
	r.waiting = append(r.waiting, item)
	if r.running < maxRounds {
		r.running++
		r.wg.Go(r.work)
	}
	return true
}

func (r *rounds[T]) work() {
	for {
		r.mu.Lock()
		round := r.waiting
		r.waiting = nil
		if len(round) == 0 {
			r.running--
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		r.run(round)
	}
}

// close takes nothing more and waits for what is under way.
func (r *rounds[T]) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
