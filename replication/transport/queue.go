package transport

import "sync"

// Bounds of one connection's queues: what the writer can drain in well under
// a second on a slow network, and enough that a burst over all groups fits. A
// message is always taken by an empty queue.
var queueBounds = [classes]struct{ bytes, messages int }{
	control:   {4 << 20, 16384},
	bulk:      {16 << 20, 8192},
	snapshots: {1 << 20, 64},
}

const (
	// writeBatch is about how many bytes one write carries. It also bounds
	// what a control message waits for at most.
	writeBatch = 256 << 10
	// snapshotEvery: of so many writes at least one carries a snapshot chunk,
	// so that a steady load does not starve it.
	snapshotEvery = 8
	// keepCapacity is the largest buffer that goes back to the pool.
	keepCapacity = 64 << 10
)

// outgoing is a queued message. Pooled: see newOutgoing.
type outgoing struct {
	typ     messageType
	class   class
	id      uint64
	payload []byte
	off     int // sent so far
}

var outgoingPool = sync.Pool{New: func() any { return new(outgoing) }}

func newOutgoing(typ messageType, c class, id uint64) *outgoing {
	o := outgoingPool.Get().(*outgoing)
	*o = outgoing{typ: typ, class: c, id: id, payload: o.payload[:0]}
	return o
}

func (o *outgoing) free() {
	if cap(o.payload) > keepCapacity {
		o.payload = nil
	}
	outgoingPool.Put(o)
}

// fifo is a ring that keeps its memory.
type fifo struct {
	items []*outgoing
	head  int
	bytes int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(o *outgoing) {
	if f.head > len(f.items)/2 && len(f.items) == cap(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, o)
	f.bytes += len(o.payload)
}

func (f *fifo) pop() {
	o := f.items[f.head]
	f.items[f.head] = nil
	f.bytes -= len(o.payload)
	if f.head++; f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
}

// sendQueue holds what one connection has yet to write.
type sendQueue struct {
	mu       sync.Mutex
	nonEmpty *sync.Cond
	fifos    [classes]fifo
	space    [classes]chan struct{} // closed when room was made; nil: nobody waits
	closed   bool
	round    int
}

func newSendQueue() *sendQueue {
	q := &sendQueue{}
	q.nonEmpty = sync.NewCond(&q.mu)
	return q
}

// offer queues o, or returns a channel to wait on before the next try. closed
// means it never will be queued. o is the queue's from then on if ok.
func (q *sendQueue) offer(o *outgoing) (ok bool, wait <-chan struct{}, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, nil, true
	}
	f, bound := &q.fifos[o.class], queueBounds[o.class]
	if f.len() > 0 && (f.bytes+len(o.payload) > bound.bytes || f.len() >= bound.messages) {
		if q.space[o.class] == nil {
			q.space[o.class] = make(chan struct{})
		}
		return false, q.space[o.class], false
	}
	f.push(o)
	q.nonEmpty.Signal()
	return true, nil, false
}

// chunk is a part of a message on its way into one write.
type chunk struct {
	o        *outgoing
	from, to int
	last     bool
}

// take waits for something to write and appends one write's worth to chunks;
// false once the queue is closed. It does not free messages.
func (q *sendQueue) take(chunks []chunk) ([]chunk, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && q.fifos[control].len()+q.fifos[bulk].len()+q.fifos[snapshots].len() == 0 {
		q.nonEmpty.Wait()
	}
	if q.closed {
		return chunks, false
	}
	room := writeBatch
	for c := range classes {
		if c == snapshots && len(chunks) > 0 && q.round < snapshotEvery {
			break // later: something more urgent is there
		}
		if c == snapshots {
			room = maxChunk
		}
		for f := &q.fifos[c]; f.len() > 0 && room > 0; {
			o := f.items[f.head]
			n := min(maxChunk, len(o.payload)-o.off)
			k := chunk{o: o, from: o.off, to: o.off + n}
			o.off = k.to
			if k.last = o.off == len(o.payload); k.last {
				f.pop()
				if q.space[c] != nil {
					close(q.space[c])
					q.space[c] = nil
				}
			}
			chunks = append(chunks, k)
			room -= frameHeader + n
			if c == snapshots {
				q.round = 0
			}
		}
	}
	if q.fifos[snapshots].len() > 0 {
		q.round++
	}
	return chunks, true
}

// close refuses everything from now on and returns the ids of requests of
// which not one byte was handed to the writer.
func (q *sendQueue) close() (unsent []uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for c := range classes {
		f := &q.fifos[c]
		for _, o := range f.items[f.head:] {
			if o.off > 0 {
				continue
			}
			switch o.typ {
			case msgCall, msgRaft, msgSnapshotOpen:
				unsent = append(unsent, o.id)
			}
		}
		*f = fifo{}
		if q.space[c] != nil {
			close(q.space[c])
			q.space[c] = nil
		}
	}
	q.nonEmpty.Broadcast()
	return unsent
}
