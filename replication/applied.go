package replication

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
)

// appliedIndex is how far a replica has applied, and who waits for more. A
// waiter is woken once, when its index is reached.
type appliedIndex struct {
	index atomic.Uint64 // written under mu

	mu      sync.Mutex
	term    uint64
	waiters waitHeap
	closed  error
}

// advance is called after the machine has taken up an entry.
func (a *appliedIndex) advance(index, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.index.Load() {
		return
	}
	a.index.Store(index)
	a.term = term
	for len(a.waiters) > 0 && a.waiters[0].index <= index {
		close(heap.Pop(&a.waiters).(*appliedWaiter).done)
	}
}

// last is the last entry applied.
func (a *appliedIndex) last() (index, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index.Load(), a.term
}

// wait returns once index is applied; or the error of ctx; or that of close.
func (a *appliedIndex) wait(ctx context.Context, index uint64) error {
	if a.index.Load() >= index {
		return nil
	}
	a.mu.Lock()
	if a.index.Load() >= index {
		a.mu.Unlock()
		return nil
	}
	if a.closed != nil {
		a.mu.Unlock()
		return a.closed
	}
	w := &appliedWaiter{index: index, done: make(chan struct{})}
	heap.Push(&a.waiters, w)
	a.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.at >= 0 {
		heap.Remove(&a.waiters, w.at)
		return ctx.Err()
	}
	return w.err // reached or closed in the meantime
}

// close fails those who wait and will wait.
func (a *appliedIndex) close(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed != nil {
		return
	}
	a.closed = err
	for _, w := range a.waiters {
		w.err, w.at = err, -1
		close(w.done)
	}
	a.waiters = nil
}

type appliedWaiter struct {
	index uint64
	at    int // position in the heap, -1 once out of it
	done  chan struct{}
	err   error // set before done is closed
}

// waitHeap has the lowest index on top.
type waitHeap []*appliedWaiter

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *waitHeap) Push(x any) {
	w := x.(*appliedWaiter)
	w.at = len(*h)
	*h = append(*h, w)
}
func (h *waitHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.at = -1
	return w
}
