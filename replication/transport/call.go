package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// controlKinds: calls of a kind below it overtake bulk traffic. They should be
// small.
const controlKinds = 16

// MaxPayload bounds the payload of a call and of its answer, in bytes.
const MaxPayload = MaxMessage - 1024

var errGivenUp = errors.New("given up")

// Handler answers one kind of call. The payload is the handler's to keep. ctx
// ends with the caller's, with the connection, and when the transport closes.
type Handler func(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error)

// Handle sets the handler of a kind; nil removes it.
func (t *Transport) Handle(kind uint8, h Handler) {
	if h == nil {
		t.handlers[kind].Store(nil)
		return
	}
	t.handlers[kind].Store(&h)
}

func classOf(kind uint8) class {
	if kind < controlKinds {
		return control
	}
	return bulk
}

// Call asks node and waits for its answer or the end of ctx, whose remaining
// time travels along. The payload may be reused when Call returns. A call to
// the node itself runs the handler directly. For errors see the package.
func (t *Transport) Call(ctx context.Context, node partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
	if len(payload) > MaxPayload {
		return nil, ErrTooLarge
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if node == t.cfg.Self {
		return t.callSelf(ctx, kind, payload)
	}
	l, err := t.linkTo(ctx.Done(), node)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	id := l.nextID.Add(1)
	o := newOutgoing(msgCall, classOf(kind), id)
	var left time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), 1)
	}
	o.payload = append(o.payload, kind)
	o.payload = binary.LittleEndian.AppendUint64(o.payload, uint64(left))
	o.payload = append(o.payload, payload...)
	body, err := l.roundTrip(o, ctx.Done())
	if errors.Is(err, errGivenUp) {
		l.post(newOutgoing(msgCallCancel, classOf(kind), id))
		return nil, fmt.Errorf("%w: %w", ErrLost, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

func (t *Transport) callSelf(ctx context.Context, kind uint8, payload []byte) ([]byte, error) {
	h := t.handlers[kind].Load()
	if h == nil {
		return nil, ErrNoHandler
	}
	body, err := (*h)(ctx, t.cfg.Self, append([]byte(nil), payload...))
	if err != nil {
		return nil, answerError(errorAnswer(err))
	}
	return body, nil
}

// Notify sends without waiting: not for a connection, nor for room, nor for an
// answer. Nil says that it was queued. Notifications may overtake each other.
func (t *Transport) Notify(node partition.NodeID, kind uint8, payload []byte) error {
	if len(payload) > MaxPayload {
		return ErrTooLarge
	}
	p := t.peer(node)
	if p == nil {
		return ErrClosed
	}
	l := p.link.Load()
	if l == nil {
		if l, _ = p.connect(closedChannel); l == nil {
			return fmt.Errorf("%w: no connection to %s yet", ErrUnreachable, node)
		}
	}
	o := newOutgoing(msgNotify, classOf(kind), 0)
	o.payload = append(append(o.payload, kind), payload...)
	if !l.post(o) {
		return ErrBusy
	}
	return nil
}

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Backlog is how many bytes of answers to a node's calls have no place in its queue yet.
func (t *Transport) Backlog(node partition.NodeID) int64 {
	if node == t.cfg.Self {
		return 0
	}
	if p := t.peer(node); p != nil {
		return p.answers.Load()
	}
	return 0
}

func (l *link) onCall(m message) error {
	d := decoder{b: m.payload}
	kind, left := d.u8(), time.Duration(d.u64())
	if d.bad || left < 0 {
		return fmt.Errorf("%w: malformed call", ErrProtocol)
	}
	h := l.t.handlers[kind].Load()
	if h == nil || !l.mayCall(kind) {
		l.refuse(msgCallAnswer, m.id, codeNoHandler)
		return nil
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if left > 0 {
		ctx, cancel = context.WithTimeout(l.t.ctx, left)
	} else {
		ctx, cancel = context.WithCancel(l.t.ctx)
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		cancel()
		return nil //nolint:nilerr // the reader ends by the link's own error
	}
	l.calls[m.id] = cancel
	l.mu.Unlock()
	if !l.handle(kind, func() {
		defer l.onCallCancel(m.id)
		body, err := (*h)(ctx, l.peer.id, d.b)
		if err == nil && len(body) > MaxPayload {
			err = ErrTooLarge
		}
		code := uint8(codeOK)
		if err != nil {
			code, body = errorAnswer(err)
		}
		o := newOutgoing(msgCallAnswer, classOf(kind), m.id)
		o.payload = append(append(o.payload, code), body...)
		l.peer.answers.Add(int64(len(body)))
		_ = l.send(o, ctx.Done()) // no handler waits to answer a caller that has gone
		l.peer.answers.Add(-int64(len(body)))
	}) {
		l.onCallCancel(m.id)
		l.refuse(msgCallAnswer, m.id, codeBusy)
	}
	return nil
}

// handle runs a handler, unless too many of its class run, for this peer or for all:
// forwarded operations that wait for one group must not keep any group from confirming
// its term, nor one peer's any other peer's from being handled.
func (l *link) handle(kind uint8, f func()) bool {
	running, ofPeer := &l.t.running[classOf(kind)], &l.peer.handlers[classOf(kind)]
	done := func() {
		running.Add(-1)
		ofPeer.Add(-1)
	}
	node, own := running.Add(1), ofPeer.Add(1)
	if node > maxHandlers || own > maxPeerHandlers || !l.t.spawn(func() {
		defer done()
		defer func() {
			if p := recover(); p != nil {
				l.fail(l.panicked(fmt.Sprintf("call of kind %d", kind), p))
			}
		}()
		f()
	}) {
		done()
		l.peer.count.queueDrops.Add(1)
		return false
	}
	return true
}

func (l *link) onCallCancel(id uint64) {
	l.mu.Lock()
	cancel := l.calls[id]
	delete(l.calls, id)
	l.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (l *link) onNotify(m message) error {
	if len(m.payload) == 0 {
		return fmt.Errorf("%w: malformed notification", ErrProtocol)
	}
	if h := l.t.handlers[m.payload[0]].Load(); h != nil && l.mayCall(m.payload[0]) {
		l.handle(m.payload[0], func() { _, _ = (*h)(l.t.ctx, l.peer.id, m.payload[1:]) })
	}
	return nil
}

// refuse answers without a body and without waiting.
func (l *link) refuse(typ messageType, id uint64, code uint8) {
	o := newOutgoing(typ, control, id)
	o.payload = append(o.payload, code)
	l.post(o)
}
