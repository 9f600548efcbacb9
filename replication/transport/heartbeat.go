package transport

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// Heartbeats of many groups share a frame, and so do the answers:
//
//	heartbeat: id u64, group u32, from u32, to u32, term u64, protocol u8
//	answer:    id u64, code u8, protocol u8, term u64, last log u64, success u8, no backoff u8
const (
	beatSize       = 29
	beatAnswerSize = 28
	// maxBeats bounds what one frame gathers; more go out at once.
	maxBeats = 4096
)

// beats gathers records for one frame.
type beats struct {
	mu  sync.Mutex
	buf []byte
}

// isHeartbeat: Raft's heartbeats say nothing but who leads in which term.
func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return len(r.Entries) == 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && r.LeaderCommitIndex == 0
}

func (g *GroupTransport) heartbeat(id raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	to, err := g.target(id)
	if err != nil {
		return err
	}
	select {
	case <-g.closed:
		return ErrClosed
	default:
	}
	l, err := g.t.linkTo(g.closed, to.node)
	if err != nil {
		return err
	}
	r := l.t.replies.Get().(*reply)
	r.asked = asked{l, g, to.replica(g), args}
	beat := l.nextID.Add(1)
	if err := l.expect(beat, r); err != nil {
		l.t.free(r)
		return err
	}
	var record [beatSize]byte
	b := binary.LittleEndian.AppendUint64(record[:0], beat)
	b = binary.LittleEndian.AppendUint32(b, uint32(g.replica.Group))
	b = binary.LittleEndian.AppendUint32(b, g.replica.Generation)
	b = binary.LittleEndian.AppendUint32(b, to.generation)
	b = binary.LittleEndian.AppendUint64(b, args.Term)
	b = append(b, byte(args.ProtocolVersion))
	l.gather(&l.beats, b)
	l.peer.count.heartbeats.Add(1)
	timer := time.NewTimer(RaftTimeout)
	defer timer.Stop()
	select {
	case <-r.ch:
	case <-timer.C:
		if l.forget(beat) {
			l.t.free(r)
			return fmt.Errorf("%w: given up after %v", ErrLost, RaftTimeout)
		}
		<-r.ch
	case <-g.closed:
		if l.forget(beat) {
			l.t.free(r)
			return ErrClosed
		}
		<-r.ch
	}
	body, err := l.result(r)
	if err != nil {
		return err
	}
	return g.decode(l, body, resp)
}

// gather adds a record to the next frame of its sort.
func (l *link) gather(b *beats, record []byte) {
	b.mu.Lock()
	b.buf = append(b.buf, record...)
	full := len(b.buf) >= maxBeats*len(record)
	b.mu.Unlock()
	if full {
		l.sendBeats()
		return
	}
	select {
	case l.flush <- struct{}{}:
	default:
	}
}

func (l *link) sendBeats() {
	for _, part := range []struct {
		b   *beats
		typ messageType
	}{{&l.beats, msgHeartbeats}, {&l.beaten, msgHeartbeatAnswers}} {
		part.b.mu.Lock()
		if len(part.b.buf) == 0 {
			part.b.mu.Unlock()
			continue
		}
		o := newOutgoing(part.typ, control, 0)
		o.payload = append(o.payload, part.b.buf...)
		part.b.buf = part.b.buf[:0]
		part.b.mu.Unlock()
		if l.post(o) && part.typ == msgHeartbeats {
			l.peer.count.heartbeatFrames.Add(1)
		}
	}
}

func (l *link) onHeartbeats(b []byte) error {
	if len(b)%beatSize != 0 {
		return fmt.Errorf("%w: malformed heartbeats", ErrProtocol)
	}
	for ; len(b) > 0; b = b[beatSize:] {
		d := decoder{b: b[:beatSize]}
		id := d.u64()
		var e envelope
		e.group, e.from, e.to = storage.GroupID(d.u32()), d.u32(), d.u32()
		g, stale := l.lookup(e)
		if stale {
			continue
		}
		if g == nil {
			l.answerBeat(id, codeNoReplica, nil)
			continue
		}
		from := []byte(ServerID(l.peer.id, e.from))
		request := &raft.AppendEntriesRequest{Term: d.u64(), Leader: from}
		request.RPCHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(d.u8()), ID: from, Addr: from}
		if err := g.checkRequest(request); err != nil {
			l.rejects(g.replica, err)
			l.answerBeat(id, codeRefused, nil)
			continue
		}
		counted, err := l.hearRequest(e.sender(), request)
		if err != nil {
			return err
		}
		if !counted {
			l.answerBeat(id, codeNoReplica, nil)
			continue
		}
		if !g.deliver(request, unanswered{link: l, id: id, beat: true, bytes: beatSize}) {
			l.answerBeat(id, codeBusy, nil)
		}
	}
	return nil
}

func (l *link) answerBeat(id uint64, code uint8, r *raft.AppendEntriesResponse) {
	if r == nil {
		r = &raft.AppendEntriesResponse{}
	}
	var record [beatAnswerSize]byte
	b := binary.LittleEndian.AppendUint64(record[:0], id)
	b = append(b, code)
	b, _ = appendResponse(b, r)
	l.gather(&l.beaten, b)
}

func (l *link) onHeartbeatAnswers(b []byte) error {
	if len(b)%beatAnswerSize != 0 {
		return fmt.Errorf("%w: malformed heartbeat answers", ErrProtocol)
	}
	for ; len(b) > 0; b = b[beatAnswerSize:] {
		l.answered(binary.LittleEndian.Uint64(b), b[8], b[9:beatAnswerSize:beatAnswerSize])
	}
	return nil
}
