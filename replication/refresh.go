package replication

import (
	"context"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// refresher asks for read indexes ahead of bounded reads, for all groups that
// have some, in one call to each leader's node. It stops when the reads stop.
type refresher struct {
	host *Host
	wake chan struct{}

	mu   sync.Mutex
	warm map[*Group]*demand
}

// demand is what the bounded reads of a group have asked for lately.
type demand struct {
	// tightest bound that a read asked for at tightAt or since; reads with wider
	// ones are served by it.
	tightest time.Duration
	tightAt  time.Duration
	// tried is when the refresher last asked, and answer where that answer comes.
	tried  time.Duration
	leader Member
	answer chan indexResult
}

const (
	// refreshesABound: one may be lost and the next still comes in time.
	refreshesABound = 3
	// leastRefresh is the shortest pause between two askings. Reads with a bound
	// below leastBound ask for themselves, and share rounds.
	leastRefresh = 10 * time.Millisecond
	leastBound   = refreshesABound * leastRefresh
	// keepBounds is for how many of its bounds a group is kept fresh after its
	// last read with that bound; at most keepAtMost. Without a read in that time
	// it is cheaper to ask when one comes.
	keepBounds = 2
	keepAtMost = 30 * time.Second
)

func newRefresher(h *Host) *refresher {
	return &refresher{host: h, wake: make(chan struct{}, 1), warm: map[*Group]*demand{}}
}

// want notes a bounded read.
func (r *refresher) want(g *Group, bound, now time.Duration) {
	if bound < leastBound {
		return
	}
	r.mu.Lock()
	d := r.warm[g]
	news := d == nil || bound < d.tightest
	switch {
	case d == nil:
		// The read that brings it asks for itself, if it has to.
		r.warm[g] = &demand{tightest: bound, tightAt: now, tried: now}
	case bound <= d.tightest || d.cold(now):
		d.tightest, d.tightAt = bound, now
	}
	r.mu.Unlock()
	if news {
		signal(r.wake)
	}
}

// cold: no read with the tightest bound came lately.
func (d *demand) cold(now time.Duration) bool {
	return now-d.tightAt > min(keepBounds*d.tightest, keepAtMost)
}

func (d *demand) interval() time.Duration { return d.tightest / refreshesABound }

func (r *refresher) run(ctx context.Context) {
	timer := time.NewTimer(0)
	<-timer.C
	for {
		if next, busy := r.refresh(); busy {
			timer.Reset(max(next, leastRefresh))
		}
		select {
		case <-timer.C:
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

// refresh asks for all groups whose turn it is, and says when to come again;
// false if nobody reads.
func (r *refresher) refresh() (next time.Duration, busy bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.host.elapsed()
	var led []confirmation
	followed := map[partition.NodeID][]indexRequest{}
	for g, d := range r.warm {
		if d.cold(now) || g.unusable() != nil {
			delete(r.warm, g)
			continue
		}
		since := d.tried
		if last, ok := g.remembered.last(); ok {
			since = max(since, last)
		}
		wait := since + d.interval() - now
		// What is half due comes along: so groups with one bound end up with the
		// same turns, and share a call.
		if wait <= d.interval()/2 {
			r.ask(g, d, &led, followed)
			d.tried, wait = now, d.interval()
		}
		if !busy || wait < next {
			next, busy = wait, true
		}
	}
	if len(led) > 0 && !r.host.confirmations.add(led...) {
		for _, c := range led {
			c.answer <- indexResult{err: errUnconfirmed}
		}
	}
	for node, requests := range followed {
		if r.host.asker(node).add(requests...) {
			continue
		}
		for _, q := range requests { // the reads ask for themselves
			q.answer <- indexResult{err: errUnconfirmed}
		}
	}
	return next, busy
}

// ask adds the group to those that are asked for in this turn, unless there is
// nobody to ask, or the same leader still owes an answer.
func (r *refresher) ask(g *Group, d *demand, led *[]confirmation, followed map[partition.NodeID][]indexRequest) {
	leader := g.leader()
	if g.lead() != nil {
		leader = g.member
	} else if leader.Node == "" || leader.ServerID() == g.self || !r.host.heard(leader.Node) {
		return
	}
	if d.answer != nil && leader == d.leader {
		select {
		case <-d.answer:
		default:
			return
		}
	}
	d.leader, d.answer = leader, make(chan indexResult, 1)
	if leader == g.member {
		*led = append(*led, confirmation{g, d.answer})
		return
	}
	followed[leader.Node] = append(followed[leader.Node], g.indexRequest(leader, d.answer))
}
