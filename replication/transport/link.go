package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/storage"
)

const readBuffer = 256 << 10 // two frames: one read serves many small ones

// link is one connection, from handshake to failure.
type link struct {
	t      *Transport
	peer   *peer
	conn   net.Conn
	hello  Hello // the other side's
	member atomic.Bool
	dialed bool
	born   time.Time
	at     uint64 // number of the connection to the peer; set before it is read
	queue  *sendQueue
	nextID atomic.Uint64
	heard  atomic.Int64 // since t.started
	sent   atomic.Int64
	// rejected is when a refused request was last told of, since t.started.
	rejected atomic.Int64
	beats    beats
	beaten   beats // answers to heartbeats
	flush    chan struct{}

	mu       sync.Mutex
	err      error // why it ended
	ended    chan struct{}
	pending  map[uint64]waiter             // own requests
	calls    map[uint64]context.CancelFunc // the other side's
	incoming map[uint64]*incomingSnapshot

	theirMu sync.RWMutex
	their   map[storage.Replica]standing // the peer's replicas
}

// waiter takes the answer to one request, exactly once; err is set instead of
// an answer when none will come. It must not block.
type waiter interface {
	answer(code uint8, body []byte, err error)
}

// reply is a waiter for one goroutine.
type reply struct {
	ch   chan struct{}
	code uint8
	body []byte
	err  error
	// asked is set for a Raft request.
	asked
}

// asked is a Raft request on its way to a replica of the peer.
type asked struct {
	link    *link
	group   *GroupTransport
	replica storage.Replica
	request any
}

func newReply() any { return &reply{ch: make(chan struct{}, 1)} }

func (r *reply) answer(code uint8, body []byte, err error) {
	if r.link != nil && err == nil && code == codeOK {
		err = r.link.hearAnswer(r.group, r.replica, r.request, body)
	}
	r.code, r.body, r.err = code, body, err
	r.ch <- struct{}{}
}

// result takes the answer and gives r back to the pool.
func (l *link) result(r *reply) (body []byte, err error) {
	body, err = r.body, r.err
	if err == nil {
		err = answerError(r.code, r.body)
	}
	l.t.free(r)
	return body, err
}

// free gives a reply back to the pool that nobody will answer any more.
func (t *Transport) free(r *reply) {
	r.body, r.err, r.asked = nil, nil, asked{}
	t.replies.Put(r)
}

func newLink(p *peer, conn net.Conn, hello Hello, dialed bool) *link {
	l := &link{
		t: p.t, peer: p, conn: conn, hello: hello, dialed: dialed,
		born: time.Now(), queue: newSendQueue(),
		flush:    make(chan struct{}, 1),
		ended:    make(chan struct{}),
		pending:  map[uint64]waiter{},
		calls:    map[uint64]context.CancelFunc{},
		incoming: map[uint64]*incomingSnapshot{},
		their:    map[storage.Replica]standing{},
	}
	l.join()
	l.hear()
	return l
}

func (l *link) hear() {
	now := int64(time.Since(l.t.started)) + 1
	l.heard.Store(now)
	l.peer.heard.Store(now)
}

func (l *link) start() {
	_ = l.conn.SetDeadline(time.Time{})
	for _, f := range []func(){l.write, l.read, l.keep} {
		if !l.t.spawn(f) {
			l.fail(ErrClosed)
			return
		}
	}
}

// fail ends the link, once.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	close(l.ended)
	pending, calls, incoming := l.pending, l.calls, l.incoming
	l.pending, l.calls, l.incoming = nil, nil, nil
	l.mu.Unlock()
	l.t.mu.Lock()
	delete(l.t.links, l)
	l.t.mu.Unlock()
	l.peer.lost(l, err)
	_ = l.conn.Close()
	for _, id := range l.queue.close() {
		if w := pending[id]; w != nil {
			delete(pending, id)
			w.answer(0, nil, fmt.Errorf("%w: %w", ErrUnreachable, err))
		}
	}
	for _, w := range pending {
		w.answer(0, nil, lostBecause(err))
	}
	for _, cancel := range calls {
		cancel()
	}
	for _, s := range incoming {
		s.abort(fmt.Errorf("%w: %w", ErrLost, err))
	}
}

// lostBecause is the indefinite error of what was sent: of its cause, which may be one of
// the definite errors, only the text is left, but for a deliberate cut.
func lostBecause(cause error) error {
	if errors.Is(cause, ErrCut) {
		return fmt.Errorf("%w: %w", ErrLost, ErrCut)
	}
	return fmt.Errorf("%w: %v", ErrLost, cause) //nolint:errorlint // see above
}

func (l *link) write() {
	var chunks []chunk
	buffer := make([]byte, 0, writeBatch+maxChunk)
	for {
		var ok bool
		if chunks, ok = l.queue.take(chunks[:0]); !ok {
			return
		}
		buffer = buffer[:0]
		for i, k := range chunks {
			var flags uint8
			if k.from == 0 {
				flags |= flagFirst
			}
			if k.last {
				flags |= flagLast
			}
			buffer = appendFrame(buffer, k.o.typ, k.o.class, flags, k.o.id, k.o.payload[k.from:k.to])
			if k.last {
				k.o.free()
			}
			chunks[i].o = nil
		}
		l.sent.Store(int64(time.Since(l.t.started)))
		if _, err := l.conn.Write(buffer); err != nil {
			l.fail(err)
			return
		}
		l.peer.count.writes.Add(1)
		l.peer.count.framesSent.Add(uint64(len(chunks)))
		l.peer.count.bytesSent.Add(uint64(len(buffer)))
	}
}

func (l *link) read() {
	a := assembler{r: bufio.NewReaderSize(l.conn, readBuffer), heard: func(bytes int) bool {
		if !l.t.allowed(l.peer.id, l.t.cfg.Self) {
			return false
		}
		l.hear()
		l.peer.count.framesReceived.Add(1)
		l.peer.count.bytesReceived.Add(uint64(bytes))
		return true
	}}
	for {
		m, err := a.next()
		if err == nil {
			err = l.contain(m)
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// keep pings, watches for silence and sends gathered heartbeats. It never
// waits for the network.
func (l *link) keep() {
	tick := time.NewTicker(PingEvery / 2)
	defer tick.Stop()
	for {
		select {
		case <-l.ended:
			return
		case <-l.flush:
			window := time.NewTimer(HeartbeatWindow)
			select {
			case <-l.ended:
				window.Stop()
				return
			case <-window.C:
			}
			l.sendBeats()
		case <-tick.C:
		}
		now := int64(time.Since(l.t.started))
		if now-l.heard.Load() > int64(DeadAfter) {
			l.fail(errSilent)
			return
		}
		if now-l.sent.Load() >= int64(PingEvery) {
			l.post(newOutgoing(msgPing, control, 0))
		}
	}
}

// post queues without waiting; false if there is no room or the link ended.
func (l *link) post(o *outgoing) bool {
	if !l.t.allowed(l.t.cfg.Self, l.peer.id) {
		o.free() // a cut: it vanishes on the way
		return true
	}
	ok, _, closed := l.queue.offer(o)
	if !ok {
		if !closed {
			l.peer.count.queueDrops.Add(1)
		}
		o.free()
	}
	return ok
}

// send queues, waiting for room until done.
func (l *link) send(o *outgoing, done <-chan struct{}) error {
	if !l.t.allowed(l.t.cfg.Self, l.peer.id) {
		o.free()
		return nil
	}
	for {
		ok, wait, closed := l.queue.offer(o)
		if ok {
			return nil
		}
		if closed {
			o.free()
			return fmt.Errorf("%w: the connection ended", ErrUnreachable)
		}
		select {
		case <-wait:
		case <-done:
			o.free()
			l.peer.count.queueDrops.Add(1)
			return fmt.Errorf("%w: the queue to %s is full", ErrBusy, l.peer.id)
		}
	}
}

// expect registers a request.
func (l *link) expect(id uint64, w waiter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, l.err)
	}
	l.pending[id] = w
	return nil
}

// forget takes a request back; false if its answer has come or is coming.
func (l *link) forget(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[id]
	delete(l.pending, id)
	return ok
}

func (l *link) answered(id uint64, code uint8, body []byte) {
	l.mu.Lock()
	w := l.pending[id]
	delete(l.pending, id)
	l.mu.Unlock()
	if w != nil {
		w.answer(code, body, nil)
	}
}

// roundTrip sends a request and waits for its answer, at most until done.
func (l *link) roundTrip(o *outgoing, done <-chan struct{}) ([]byte, error) {
	id, r := o.id, l.t.replies.Get().(*reply)
	if err := l.expect(id, r); err != nil {
		o.free()
		l.t.free(r)
		return nil, err
	}
	if err := l.send(o, done); err != nil {
		if l.forget(id) {
			l.t.free(r)
			return nil, err
		}
		<-r.ch
		_, _ = l.result(r)
		return nil, err
	}
	select {
	case <-r.ch:
		return l.result(r)
	case <-done:
		if !l.forget(id) {
			<-r.ch
			return l.result(r)
		}
		l.t.free(r)
		return nil, errGivenUp
	}
}

// contain dispatches a message. A panic ends the connection, not the process:
// what runs here decodes, and hands on to queues that are whole at each step.
func (l *link) contain(m message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = l.panicked(fmt.Sprintf("message of type %d", m.typ), p)
		}
	}()
	return l.dispatch(m)
}

// panicked tells of a panic that was recovered from.
func (l *link) panicked(doing string, value any) error {
	l.t.cfg.Events(Panicked{Peer: l.peer.id, Doing: doing, Value: value, Stack: debug.Stack()})
	return fmt.Errorf("%w: %s panicked: %v", ErrProtocol, doing, value)
}

// dispatch hands one message on. It never waits. An error ends the link.
func (l *link) dispatch(m message) error {
	switch m.typ {
	case msgPing:
		return nil
	case msgCall:
		return l.onCall(m)
	case msgCallCancel:
		l.onCallCancel(m.id)
		return nil
	case msgNotify:
		return l.onNotify(m)
	case msgCallAnswer, msgRaftAnswer:
		if len(m.payload) == 0 {
			return fmt.Errorf("%w: empty answer", ErrProtocol)
		}
		l.answered(m.id, m.payload[0], m.payload[1:])
		return nil
	case msgRaft:
		return l.onRaft(m)
	case msgHeartbeats:
		return l.onHeartbeats(m.payload)
	case msgHeartbeatAnswers:
		return l.onHeartbeatAnswers(m.payload)
	case msgSnapshotOpen:
		return l.onSnapshotOpen(m)
	case msgSnapshotData, msgSnapshotEnd, msgSnapshotAbort:
		return l.onSnapshotPart(m)
	case msgSnapshotAck:
		return l.onSnapshotAck(m)
	case msgIntroduce:
		return l.onIntroduce(m.payload)
	case msgRefute:
		return l.onRefute(m.payload)
	}
	return fmt.Errorf("%w: message type %d", ErrProtocol, m.typ)
}
