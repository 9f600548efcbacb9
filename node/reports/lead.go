package reports

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// askedAtOnce is how many partitions a member answers for side by side, so
	// that their fsyncs are one.
	askedAtOnce = 32
	// proposedAtOnce bounds the partitions that a leader proposes for side by side.
	proposedAtOnce = 8
	// raisesAtOnce bounds the commands of one poll for one floor, of which each
	// collects a bounded number of tombstones.
	raisesAtOnce = 64
)

// waiting is a partition that this node leads and that waits for a poll.
type waiting struct {
	partition partition.ID
	replica   Replica
	tombstone bool
	removed   []partition.NodeID // not forfeited yet
}

// waiting lists what there is to poll about, at most MaxPolled partitions, and
// next time those that follow.
func (r *Reporter) waiting(ring *control.State) (all []waiting) {
	r.mu.Lock()
	first := r.after + 1
	r.mu.Unlock()
	removed := ring.Removed()
	n := len(ring.Partitions)
	for i := range n {
		id := partition.ID((int(first) + i) % n)
		replica := r.c.Replica(id)
		if replica == nil || !replica.Leads() {
			continue
		}
		w := waiting{partition: id, replica: replica, tombstone: replica.Collectable(replica.Applied())}
		for _, left := range removed {
			if !replica.Forfeited(left.Node) {
				w.removed = append(w.removed, left.Node)
			}
		}
		if !w.tombstone && len(w.removed) == 0 {
			continue
		}
		if all = append(all, w); len(all) == MaxPolled {
			break
		}
	}
	if len(all) > 0 {
		r.mu.Lock()
		r.after = all[len(all)-1].partition
		r.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b waiting) int { return int(a.partition) - int(b.partition) })
	return all
}

// poll polls the members about all that waits, and proposes what they permit.
func (r *Reporter) poll(ctx context.Context) {
	ring := r.c.Ring()
	if !ring.Placed() {
		return
	}
	all := r.waiting(ring)
	var partitions []partition.ID
	var removed []partition.NodeID
	for _, w := range all {
		partitions = append(partitions, w.partition)
		removed = append(removed, w.removed...)
	}
	slices.Sort(removed)
	removed = slices.Compact(removed)
	poll := NewPoll(ring, partitions, removed[:min(len(removed), MaxRemoved)])
	if len(all) > 0 {
		r.ask(ctx, poll)
	}
	if ctx.Err() != nil {
		return
	}
	if slices.Equal(poll.Members, r.c.Ring().Members()) { // else somebody was not asked
		var proposals sync.WaitGroup
		room := make(chan struct{}, proposedAtOnce)
		for _, w := range all {
			room <- struct{}{}
			proposals.Go(func() {
				defer func() { <-room }()
				r.propose(ctx, poll, w)
			})
		}
		proposals.Wait()
	}
	r.noteHeldBack(poll, all)
}

// ask has the members answer, round after round.
func (r *Reporter) ask(ctx context.Context, poll *Poll) {
	alive := r.c.Alive()
	alive[r.c.Self] = true
	for again := poll.Reach(func(member partition.NodeID) bool { return alive[member] }); again; again = poll.Next() {
		var mu sync.Mutex
		var calls sync.WaitGroup
		question := poll.Question
		for _, member := range poll.Members {
			calls.Go(func() {
				answer, err := r.askOne(ctx, member, question)
				if err != nil {
					return // it holds the floor back
				}
				mu.Lock()
				defer mu.Unlock()
				poll.Take(member, answer)
			})
		}
		calls.Wait()
	}
}

func (r *Reporter) askOne(ctx context.Context, member partition.NodeID, q Question) (Answer, error) {
	if member == r.c.Self {
		return r.answer(q), nil
	}
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	data, err := r.c.Peers.Call(ctx, member, Kind, q.encode())
	if err != nil {
		return Answer{}, err
	}
	return decodeAnswer(q, data)
}

// answer answers for this member.
func (r *Reporter) answer(q Question) Answer {
	ring := r.c.Ring() // before anything is looked at: what is found is at least as new
	if ring.Epoch < q.Epoch {
		return Answer{}
	}
	bases := make([]*Base, len(q.Partitions))
	var asked sync.WaitGroup
	room := make(chan struct{}, askedAtOnce)
	for i, p := range q.Partitions {
		if int(p) >= len(ring.Partitions) {
			continue
		}
		room <- struct{}{}
		asked.Go(func() {
			defer func() { <-room }()
			bases[i] = r.base(p, q.Removed)
		})
	}
	asked.Wait()
	var a Answer
	for _, b := range bases {
		if b != nil {
			a.Bases = append(a.Bases, *b)
		}
	}
	return a
}

// base is nil if nothing can be promised.
func (r *Reporter) base(p partition.ID, removed []partition.NodeID) *Base {
	t, err := r.c.Tentative(p)
	if err != nil {
		return nil
	}
	if replica := r.c.Replica(p); replica != nil {
		t.Hear(replica.Applied())
	}
	b := &Base{Partition: p}
	if b.Undecided, err = t.UndecidedBase(); err != nil {
		return nil
	}
	if len(removed) > 0 {
		t.Held(func(d storage.Dot) bool {
			if i, ok := slices.BinarySearch(removed, d.Node); ok {
				b.Holds |= 1 << i
			}
			return false // none is to be listed
		})
	}
	return b
}

// propose does what the poll permits for one partition.
func (r *Reporter) propose(ctx context.Context, poll *Poll, w waiting) {
	ctx, cancel := context.WithTimeout(ctx, PollEvery)
	defer cancel()
	for _, node := range w.removed {
		if !poll.Forfeitable(w.partition, node) || w.replica.Forfeited(node) {
			continue
		}
		if err := w.replica.Forfeit(ctx, node); err != nil {
			r.c.Events(Failed{Partition: w.partition, Err: err})
			return
		}
		r.c.Events(Forfeited{Partition: w.partition, Node: node})
	}
	floor, _ := poll.Floor(w.partition)
	raised := false
	for range raisesAtOnce {
		if floor < w.replica.Floor() || !w.replica.Collectable(floor) {
			break
		}
		if err := w.replica.RaiseFloor(ctx, floor); err != nil {
			r.c.Events(Failed{Partition: w.partition, Err: err})
			break
		}
		raised = true
	}
	if raised {
		r.c.Events(FloorRaised{Partition: w.partition, Floor: floor})
	}
}

func (r *Reporter) noteHeldBack(poll *Poll, all []waiting) {
	now := time.Now()
	next := map[holdKey]uint64{}
	for _, w := range all {
		if !w.tombstone || !w.replica.Collectable(w.replica.Applied()) {
			continue // nothing waits any more
		}
		floor, by := poll.Floor(w.partition)
		for _, node := range by {
			next[holdKey{node, w.partition}] = floor
		}
	}
	r.mu.Lock()
	r.held.set(now, next, func(p partition.ID) bool {
		// Not asked about this time, but still led and waiting: nothing new.
		_, asked := slices.BinarySearchFunc(all, p, func(w waiting, p partition.ID) int { return int(w.partition) - int(p) })
		if asked {
			return false
		}
		replica := r.c.Replica(p)
		return replica != nil && replica.Leads() && replica.Collectable(replica.Applied())
	})
	due := r.held.due(now)
	r.mu.Unlock()
	for _, h := range due {
		r.c.Events(h)
	}
}
