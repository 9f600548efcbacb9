package replication

import (
	"sync"
	"time"
)

// rounds gathers items and works on them a round at a time. An item added
// while rounds are under way waits for the next one: none ever joins a round
// that has begun, which is what makes an answer fetched by a round valid for
// each item in it. Rounds overlap, so that a slow one does not hold up those
// behind it, but no more than maxRounds of them, not counting slow ones.
type rounds[T any] struct {
	run func([]T)

	mu      sync.Mutex
	closed  bool
	waiting []T
	running int // rounds that count
	slow    int // rounds under way for longer than slowRound
	wg      sync.WaitGroup
}

const (
	// maxRounds in flight: enough to keep a connection busy through a round
	// trip, few enough that items gather under load.
	maxRounds = 4
	// slowRound is when a round stops to count: most likely it waits for a peer
	// that is silent, and what it could decide is decided.
	slowRound = 50 * time.Millisecond
	// maxSlowRounds bounds those: at one each 50 ms and place, those of the 1.5 s
	// that a silent peer can hold one up.
	maxSlowRounds = 128
	// maxWaiting items: far above the 1,024 streams a connection, a bound on
	// memory if peers stop answering.
	maxWaiting = 1 << 16
)

// add reports whether there was room; there is none after close. Items added
// together are in one round.
func (r *rounds[T]) add(items ...T) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.waiting)+len(items) > maxWaiting {
		return false
	}
	r.waiting = append(r.waiting, items...)
	r.begin()
	return true
}

// begin starts a worker if there is work and room. It is called with the lock
// held.
func (r *rounds[T]) begin() {
	if len(r.waiting) > 0 && r.running < maxRounds {
		r.running++
		r.wg.Go(r.work)
	}
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
		if !r.do(round) {
			return
		}
	}
}

// do works on one round. It reports whether the worker may go on: not if its
// place was given to another meanwhile.
func (r *rounds[T]) do(round []T) bool {
	finished, yielded := false, false // both under the lock
	late := time.AfterFunc(slowRound, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !finished && r.slow < maxSlowRounds {
			yielded = true
			r.slow++
			r.running--
			r.begin()
		}
	})
	r.run(round)
	late.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	finished = true
	if yielded {
		r.slow--
	}
	return !yielded
}

// close takes nothing more and waits for what is under way.
func (r *rounds[T]) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
