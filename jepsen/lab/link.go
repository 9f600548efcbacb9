package lab

import (
	"bytes"
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// maxWaitingBytes bounds what waits on one link. It is the product of a second
// of delay and 16 MiB/s.
const maxWaitingBytes = 16 << 20

// link carries frames one way by its rule. Frames are delivered with the lock
// held: once shape has returned, nothing follows the old rule, but for the
// delay of what was already on its way.
type link struct {
	deliver func(frame []byte) bool // false: the host takes no more

	mu      sync.Mutex
	rule    Rule
	random  *rand.Rand
	free    time.Time
	waiting waiting
	bytes   int // waiting
	order   uint64
	timer   *time.Timer // runs when the first waiting frame arrives
	traffic Traffic
	closed  bool
}

func newLink(random *rand.Rand, deliver func(frame []byte) bool) *link {
	return &link{random: random, deliver: deliver}
}

func (l *link) shape(rule Rule) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rule = rule
	l.free = time.Time{}
	if rule.Cut {
		l.traffic.Cut += uint64(len(l.waiting))
		l.drop()
	}
}

// drop forgets what is on its way.
func (l *link) drop() {
	l.waiting, l.bytes = nil, 0
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l *link) counted() Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.traffic
	t.Waiting = uint64(len(l.waiting))
	return t
}

// carry takes a frame, which is the caller's again after it.
func (l *link) carry(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.traffic.Sent++
	if l.rule == (Rule{}) {
		l.arrive(frame)
		return
	}
	now := time.Now()
	p := l.rule.pass(now, l.free, len(frame), l.random)
	l.free = p.free
	switch {
	case p.cut:
		l.traffic.Cut++
	case p.lost:
		l.traffic.Lost++
	case p.overflowed:
		l.traffic.Overflowed++
	}
	for i := range p.copies {
		if i > 0 {
			l.traffic.Duplicated++
		}
		if p.arrive[i].After(now) {
			l.wait(p.arrive[i], frame)
		} else {
			l.arrive(frame)
		}
	}
}

func (l *link) arrive(frame []byte) {
	if !l.deliver(frame) {
		l.traffic.Overflowed++
		return
	}
	l.traffic.Delivered++
	l.traffic.Bytes += uint64(len(frame))
}

func (l *link) wait(until time.Time, frame []byte) {
	if l.bytes+len(frame) > maxWaitingBytes {
		l.traffic.Overflowed++
		return
	}
	l.order++
	heap.Push(&l.waiting, waitingFrame{until, l.order, bytes.Clone(frame)})
	l.bytes += len(frame)
	if l.waiting[0].order == l.order {
		l.schedule()
	}
}

// schedule has the timer run when the first frame is due.
func (l *link) schedule() {
	in := time.Until(l.waiting[0].at)
	if l.timer == nil {
		l.timer = time.AfterFunc(in, l.due)
	} else {
		l.timer.Reset(in)
	}
}

// due delivers what has been on its way long enough.
func (l *link) due() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for now := time.Now(); len(l.waiting) > 0 && !l.waiting[0].at.After(now); {
		next := heap.Pop(&l.waiting).(waitingFrame)
		l.bytes -= len(next.frame)
		l.arrive(next.frame)
	}
	if len(l.waiting) > 0 {
		l.schedule()
	}
}

// close has the link deliver nothing any more.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.drop()
}

type waitingFrame struct {
	at    time.Time
	order uint64 // of two for one moment the first goes first
	frame []byte
}

// waiting is a heap, the first to arrive on top.
type waiting []waitingFrame

func (w waiting) Len() int      { return len(w) }
func (w waiting) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w waiting) Less(i, j int) bool {
	if !w[i].at.Equal(w[j].at) {
		return w[i].at.Before(w[j].at)
	}
	return w[i].order < w[j].order
}
func (w *waiting) Push(x any) { *w = append(*w, x.(waitingFrame)) }
func (w *waiting) Pop() any {
	last := len(*w) - 1
	x := (*w)[last]
	(*w)[last] = waitingFrame{}
	*w = (*w)[:last]
	return x
}
