package transport

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

func newAnswerChannel() any { return make(chan raft.RPCResponse, 1) }

// lookup finds the addressed replica. A sender generation older than one that
// was heard before belongs to a replica that is no more.
func (l *link) lookup(e envelope) (g *GroupTransport, stale bool) {
	t := l.t
	if !l.mayReplicate(e.group) {
		return nil, false
	}
	from := origin{l.peer.id, e.group}
	t.mu.RLock()
	g = t.groups[storage.Replica{Group: e.group, Generation: e.to}]
	t.mu.RUnlock()
	if g == nil {
		return nil, false
	}
	t.newestMu.Lock()
	defer t.newestMu.Unlock()
	if e.from < t.newest[from] {
		return nil, true
	}
	if t.newest[from] != e.from {
		t.newest[from] = e.from
	}
	return g, false
}

func (l *link) onRaft(m message) error {
	d := decoder{b: m.payload}
	e := d.envelope()
	if d.bad || e.kind == rpcInstallSnapshot {
		return fmt.Errorf("%w: malformed Raft request", ErrProtocol)
	}
	g, stale := l.lookup(e)
	if stale {
		return nil // dropped: nobody waits for the answer
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
	if !g.deliver(request, unanswered{link: l, id: m.id, bytes: len(m.payload)}) {
		l.refuse(msgRaftAnswer, m.id, codeBusy)
	}
	return nil
}

// rejects tells of a request or an answer that was refused, at most once per
// [rejectEvery] and connection: a peer that sends one sends it again.
func (l *link) rejects(replica storage.Replica, err error) {
	now := int64(time.Since(l.t.started)) + 1
	last := l.rejected.Load()
	if (last == 0 || now-last >= int64(rejectEvery)) && l.rejected.CompareAndSwap(last, now) {
		l.t.cfg.Events(Rejected{Peer: l.peer.id, Replica: replica, Err: err})
	}
}

// deliver puts an RPC into the inbox; false if it is full. It never waits.
func (g *GroupTransport) deliver(command any, u unanswered) bool {
	g.heard.note(command)
	if a, ok := command.(*raft.AppendEntriesRequest); ok && len(a.Entries) > 0 {
		if full := g.full.Load(); full != nil && (*full)() {
			u.link.peer.count.queueDrops.Add(1)
			return false
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isClosed || len(g.answering) == cap(g.answering) || g.bytes.Load()+int64(u.bytes) > inboxBytes {
		u.link.peer.count.queueDrops.Add(1)
		return false
	}
	u.ch = g.t.answers.Get().(chan raft.RPCResponse)
	select {
	case g.inbox <- raft.RPC{Command: command, RespChan: u.ch}:
	default:
		g.t.answers.Put(u.ch)
		u.link.peer.count.queueDrops.Add(1)
		return false
	}
	g.bytes.Add(int64(u.bytes))
	g.answering <- u // room was seen under the mutex
	return true
}

// answerLoop sends the main loop's answers back. It answers RPCs in the order
// in which they came, as the main loop does.
func (g *GroupTransport) answerLoop() {
	for {
		var u unanswered
		select {
		case u = <-g.answering:
		case <-g.closed:
			g.answerClosed()
			return
		}
		select {
		case r := <-u.ch:
			g.t.answers.Put(u.ch)
			g.bytes.Add(-int64(u.bytes))
			g.answerOne(u, r)
		case <-g.closed:
			u.link.answerClosed(u)
			g.answerClosed()
			return
		}
	}
}

func (g *GroupTransport) answerClosed() {
	for {
		select {
		case u := <-g.answering:
			u.link.answerClosed(u)
		default:
			return
		}
	}
}

// answerClosed says that an RPC was taken but not seen through.
func (l *link) answerClosed(u unanswered) {
	if u.beat {
		l.answerBeat(u.id, codeNotOpen, nil)
		return
	}
	l.refuse(msgRaftAnswer, u.id, codeNotOpen)
}

func (g *GroupTransport) answerOne(u unanswered, r raft.RPCResponse) {
	g.own.raiseBy(r.Response)
	if u.beat {
		response, ok := r.Response.(*raft.AppendEntriesResponse)
		if r.Error != nil || !ok {
			u.link.answerBeat(u.id, codeHeartbeatE, nil)
		} else {
			u.link.answerBeat(u.id, codeOK, response)
		}
		return
	}
	o := newOutgoing(msgRaftAnswer, control, u.id)
	o.payload = appendOutcome(o.payload, r.Response, r.Error)
	_ = u.link.send(o, g.closed)
}

// appendOutcome encodes a response or an error.
func appendOutcome(b []byte, response any, err error) []byte {
	if err == nil {
		var ok []byte
		if ok, err = appendResponse(append(b, codeOK), response); err == nil {
			return ok
		}
	}
	code, body := errorAnswer(err)
	return append(append(b, code), body...)
}
