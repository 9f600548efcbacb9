package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// snapshotChunk is one message and one frame, so that heartbeats and
	// entries go in between.
	snapshotChunk = maxChunk
	// snapshotWindow bounds what one stream has sent and the receiver has not
	// yet taken up: enough for 100 MB/s at 10 ms.
	snapshotWindow = 1 << 20
	// maxIncomingSnapshots bounds those that one node receives at a time: each
	// competes with the groups that work.
	maxIncomingSnapshots = 2
	// snapshotStall ends a transfer in which nothing moved for so long.
	snapshotStall = 30 * time.Second
	// snapshotInstall bounds the time from the last byte to the answer.
	snapshotInstall = 5 * time.Minute
)

// Stager receives the data of a snapshot before Raft hears of it, because
// Raft's main loop stands still while it installs one.
type Stager interface {
	// Wants refuses, before anything is read, a snapshot up to an index that is of no use.
	Wants(index uint64) error
	// Stage reads r to its end. What Raft then gets to read in place of the
	// data is the ticket. abort throws away what was staged; it is called if
	// Raft did not answer with success, perhaps beside a late installation,
	// and then has to leave that alone. r fails when the transfer breaks off,
	// and ctx ends.
	Stage(ctx context.Context, r io.Reader) (ticket []byte, abort func(), err error)
}

// A snapshot travels as an open (envelope and request), data, and an end (the
// total) or an abort, all under the stream's id. The receiver acknowledges how
// much it has taken up, and in the end answers as to any Raft request.

// outgoingSnapshot is the sender's side, and the waiter for the answer.
type outgoingSnapshot struct {
	mu      sync.Mutex
	acked   uint64
	changed chan struct{} // capacity 1
	reply
}

func (s *outgoingSnapshot) ack(n uint64) {
	s.mu.Lock()
	s.acked = max(s.acked, n)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (g *GroupTransport) sendSnapshot(to target, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	l, err := g.t.linkTo(g.closed, to.node)
	if err != nil {
		return err
	}
	s := &outgoingSnapshot{changed: make(chan struct{}, 1), reply: reply{
		ch: make(chan struct{}, 1), asked: asked{l, g, to.replica(g), args},
	}}
	open := g.outgoing(l, to, rpcInstallSnapshot, snapshots)
	open.typ = msgSnapshotOpen
	open.payload = appendRequest(open.payload, args)
	id := open.id
	if err := l.expect(id, s); err != nil {
		open.free()
		return err
	}
	if err := g.stream(l, s, open, data); err != nil {
		if l.forget(id) {
			l.post(newOutgoing(msgSnapshotAbort, snapshots, id))
		}
		return err
	}
	body, err := s.body, s.err
	if err == nil {
		err = answerError(s.code, s.body)
	}
	if err != nil {
		return err
	}
	return g.decode(l, body, resp)
}

// stream sends everything; nil says that the answer has come.
func (g *GroupTransport) stream(l *link, s *outgoingSnapshot, open *outgoing, data io.Reader) error {
	id := open.id
	if err := l.send(open, g.closed); err != nil {
		return err
	}
	timer := time.NewTimer(snapshotStall)
	defer timer.Stop()
	for sent := uint64(0); ; {
		for {
			s.mu.Lock()
			room := sent+snapshotChunk <= s.acked+snapshotWindow
			s.mu.Unlock()
			if room {
				break
			}
			select {
			case <-s.changed:
				timer.Reset(snapshotStall)
			case <-s.ch:
				return nil // an early answer is a refusal
			case <-g.closed:
				return ErrClosed
			case <-timer.C:
				return fmt.Errorf("%w: the snapshot stalled for %v", ErrLost, snapshotStall)
			}
		}
		o := newOutgoing(msgSnapshotData, snapshots, id)
		if cap(o.payload) < snapshotChunk {
			o.payload = make([]byte, 0, snapshotChunk)
		}
		n, err := io.ReadFull(data, o.payload[:snapshotChunk])
		o.payload = o.payload[:n]
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			o.free()
			return fmt.Errorf("reading the snapshot: %w", err)
		}
		sent += uint64(n)
		if n > 0 {
			if err := l.send(o, g.closed); err != nil {
				return err
			}
		} else {
			o.free()
		}
		if last {
			end := newOutgoing(msgSnapshotEnd, snapshots, id)
			end.payload = binary.LittleEndian.AppendUint64(end.payload, sent)
			if err := l.send(end, g.closed); err != nil {
				return err
			}
			break
		}
	}
	timer.Reset(snapshotInstall)
	select {
	case <-s.ch:
		return nil
	case <-g.closed:
		return ErrClosed
	case <-timer.C:
		return fmt.Errorf("%w: the snapshot was not installed within %v", ErrLost, snapshotInstall)
	}
}

func (l *link) onSnapshotAck(m message) error {
	if len(m.payload) != 8 {
		return fmt.Errorf("%w: malformed acknowledgement", ErrProtocol)
	}
	l.mu.Lock()
	s, _ := l.pending[m.id].(*outgoingSnapshot)
	l.mu.Unlock()
	if s != nil {
		s.ack(binary.LittleEndian.Uint64(m.payload))
	}
	return nil
}

// incomingSnapshot is the receiver's side: an io.Reader for the stager.
type incomingSnapshot struct {
	g      *GroupTransport
	link   *link
	id     uint64
	cancel context.CancelFunc

	mu       sync.Mutex
	more     *sync.Cond
	chunks   [][]byte
	buffered int
	received uint64
	taken    uint64
	ended    bool
	err      error
}

func (l *link) onSnapshotOpen(m message) error {
	d := decoder{b: m.payload}
	e := d.envelope()
	if d.bad || e.kind != rpcInstallSnapshot {
		return fmt.Errorf("%w: malformed snapshot", ErrProtocol)
	}
	g, stale := l.lookup(e)
	if stale {
		return nil
	}
	if g == nil {
		l.refuse(msgRaftAnswer, m.id, codeNoReplica)
		return nil
	}
	request, err := d.request(e.kind, string(ServerID(l.peer.id, e.from)))
	if err != nil {
		return err
	}
	if err := g.checkRequest(request); err != nil {
		l.rejects(g.replica, err)
		l.refuse(msgRaftAnswer, m.id, codeRefused)
		return nil
	}
	counted, err := l.hearRequest(e.sender(), request)
	if err != nil {
		return err
	}
	if !counted {
		l.refuse(msgRaftAnswer, m.id, codeNoReplica)
		return nil
	}
	if !g.receive(l, m.id, request.(*raft.InstallSnapshotRequest)) {
		l.refuse(msgRaftAnswer, m.id, codeBusy)
	}
	return nil
}

// receive begins to take a snapshot; false if there is no place for it.
func (g *GroupTransport) receive(l *link, id uint64, request *raft.InstallSnapshotRequest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isClosed || g.stager == nil || g.receiving != nil {
		return false
	}
	if g.t.installing.Add(1) > maxIncomingSnapshots {
		g.t.installing.Add(-1)
		return false
	}
	ctx, cancel := context.WithCancel(g.t.ctx)
	s := &incomingSnapshot{g: g, link: l, id: id, cancel: cancel}
	s.more = sync.NewCond(&s.mu)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		g.t.installing.Add(-1)
		cancel()
		return false
	}
	l.incoming[id] = s
	l.mu.Unlock()
	g.receiving = s
	stager := g.stager
	g.wg.Go(func() {
		response, err := s.install(ctx, stager, request)
		s.abort(ErrClosed) // what still comes is not for anybody
		cancel()
		l.mu.Lock()
		delete(l.incoming, id)
		l.mu.Unlock()
		g.mu.Lock()
		g.receiving = nil
		g.mu.Unlock()
		g.t.installing.Add(-1)
		o := newOutgoing(msgRaftAnswer, control, id)
		o.payload = appendOutcome(o.payload, response, err)
		_ = l.send(o, g.closed)
	})
	return true
}

// install stages the stream and hands Raft the ticket.
func (s *incomingSnapshot) install(ctx context.Context, stager Stager, request *raft.InstallSnapshotRequest) (response any, err error) {
	if err := stager.Wants(request.LastLogIndex); err != nil {
		return nil, err
	}
	ticket, abort, err := s.stage(ctx, stager)
	defer func() {
		if r, ok := response.(*raft.InstallSnapshotResponse); abort != nil && (err != nil || !ok || !r.Success) {
			abort()
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("staging a snapshot: %w", err)
	}
	// The stager may have stopped at the end of the data; the end of the
	// stream has to be there, too.
	if n, err := io.Copy(io.Discard, s); err != nil {
		return nil, fmt.Errorf("staging a snapshot: %w", err)
	} else if n > 0 {
		return nil, fmt.Errorf("staging a snapshot: %d bytes too many", n)
	}
	request.Size = int64(len(ticket))
	ch := make(chan raft.RPCResponse, 1)
	timer := time.NewTimer(snapshotInstall)
	defer timer.Stop()
	return s.g.inject(raft.RPC{Command: request, Reader: bytes.NewReader(ticket), RespChan: ch}, ch, timer.C)
}

// stage contains a panic of the stager: nothing is installed yet.
func (s *incomingSnapshot) stage(ctx context.Context, stager Stager) (ticket []byte, abort func(), err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.link.panicked("staging a snapshot", p)
			s.link.fail(err)
		}
	}()
	return stager.Stage(ctx, s)
}

// Read implements io.Reader for the stager.
func (s *incomingSnapshot) Read(p []byte) (int, error) {
	s.mu.Lock()
	for {
		if s.err != nil {
			s.mu.Unlock()
			return 0, s.err
		}
		if len(s.chunks) > 0 {
			break
		}
		if s.ended {
			s.mu.Unlock()
			return 0, io.EOF
		}
		s.more.Wait()
	}
	n := copy(p, s.chunks[0])
	s.chunks[0] = s.chunks[0][n:]
	s.buffered -= n
	s.taken += uint64(n)
	taken, whole := s.taken, len(s.chunks[0]) == 0
	if whole {
		s.chunks = s.chunks[1:]
	}
	s.mu.Unlock()
	if whole {
		o := newOutgoing(msgSnapshotAck, control, s.id)
		o.payload = binary.LittleEndian.AppendUint64(o.payload, taken)
		_ = s.link.send(o, s.g.closed)
	}
	return n, nil
}

func (s *incomingSnapshot) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.chunks = nil
		s.cancel()
		s.more.Broadcast()
	}
}

func (l *link) onSnapshotPart(m message) error {
	l.mu.Lock()
	s := l.incoming[m.id]
	l.mu.Unlock()
	if s == nil {
		return nil // refused, or ended early
	}
	if m.typ == msgSnapshotAbort {
		s.abort(fmt.Errorf("%w: the sender gave up", ErrLost))
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil
	}
	switch {
	case s.ended:
		return fmt.Errorf("%w: snapshot data after its end", ErrProtocol)
	case m.typ == msgSnapshotEnd:
		if len(m.payload) != 8 || binary.LittleEndian.Uint64(m.payload) != s.received {
			return fmt.Errorf("%w: snapshot of a wrong length", ErrProtocol)
		}
		s.ended = true
	case s.buffered+len(m.payload) > snapshotWindow:
		return fmt.Errorf("%w: snapshot beyond its window", ErrProtocol)
	case len(m.payload) > 0:
		s.chunks = append(s.chunks, m.payload)
		s.buffered += len(m.payload)
		s.received += uint64(len(m.payload))
	}
	s.more.Broadcast()
	return nil
}
