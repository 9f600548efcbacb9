package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

// An introduction says what a replica's disk held when it was opened. It is the
// first thing that a connection carries, for all replicas that are open, and the
// first thing that a replica says which is opened later. The receiver compares it
// with what that replica has shown it earlier (package knowledge). If the disk has
// lost something, the receiver refutes the introduction, and nothing that the
// replica says counts there.
//
//	introduction: records of group u32, generation u32, opening u64, term u64,
//	  end's term u64, end's index u64, vote's term u64, voted for the receiver u8
//	refutation: group u32, generation u32, opening u64, and what was shown:
//	  term u64, acked u64, end's term u64, end's index u64, voted u64
const (
	introductionSize = 49
	refutationSize   = 56
	// maxIntroductions are the records of one message: 200 KiB.
	maxIntroductions = 4096
)

// Refuted: Peer knows that the replica here has lost what it had acknowledged: the
// disk is an older copy. Nothing that the replica says counts there, and the node
// must stop.
type Refuted struct {
	Peer    partition.NodeID
	Replica storage.Replica // the one here
	Loss    *knowledge.Loss
}

// Disowned: this node has refuted the replica of Peer.
type Disowned struct {
	Peer    partition.NodeID
	Replica storage.Replica // Peer's
	Loss    *knowledge.Loss
}

// introduced is what a replica here says of itself.
type introduced struct {
	opening   uint64
	claim     knowledge.Claim
	candidate raft.ServerID // that it voted for in claim.VoteTerm
}

// claimTo is the claim as node is told it.
func (i *introduced) claimTo(node partition.NodeID) knowledge.Claim {
	c := i.claim
	voted, _, _ := strings.Cut(string(i.candidate), "/")
	c.Voted = c.VoteTerm > 0 && voted == string(node)
	return c
}

// Introduce says what the replica's disk holds, and for whom it voted last. Call it
// once, before Raft is started on the replica: before that, peers do not hear it.
func (g *GroupTransport) Introduce(c knowledge.Claim, candidate raft.ServerID) {
	g.own.raise(c.Term)
	i := &introduced{opening: rand.Uint64() | 1, claim: c, candidate: candidate}
	g.t.mu.Lock()
	g.introduced.Store(i)
	links := make([]*link, 0, len(g.t.links))
	for l := range g.t.links {
		links = append(links, l)
	}
	g.t.mu.Unlock()
	for _, l := range links {
		o := newOutgoing(msgIntroduce, control, 0)
		o.payload = appendIntroduction(o.payload, g.replica, i, l.peer.id)
		l.insist(o)
	}
}

// insist queues what must not be missing on a connection: without it the
// connection ends.
func (l *link) insist(o *outgoing) {
	if !l.t.allowed(l.t.cfg.Self, l.peer.id) {
		o.free()
		l.fail(ErrCut)
		return
	}
	if ok, _, closed := l.queue.offer(o); !ok {
		o.free()
		if !closed {
			l.fail(ErrBusy)
		}
	}
}

// join adds the link to those that replicas introduce themselves on, and queues the
// introductions of all that are open: each replica is in one or the other.
func (l *link) join() {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.t.links[l] = struct{}{}
	var o *outgoing
	for replica, g := range l.t.groups {
		i := g.introduced.Load()
		if i == nil {
			continue
		}
		if o == nil {
			o = newOutgoing(msgIntroduce, control, 0)
		}
		o.payload = appendIntroduction(o.payload, replica, i, l.peer.id)
		if len(o.payload) == maxIntroductions*introductionSize {
			l.queue.offer(o)
			o = nil
		}
	}
	if o != nil {
		l.queue.offer(o) // the queue is new: there is room
	}
}

func appendIntroduction(b []byte, r storage.Replica, i *introduced, to partition.NodeID) []byte {
	c := i.claimTo(to)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Group))
	b = binary.LittleEndian.AppendUint32(b, r.Generation)
	b = appendUints(b, i.opening, c.Term, c.End.Term, c.End.Index, c.VoteTerm)
	return appendBool(b, c.Voted)
}

func (d *decoder) replica() storage.Replica {
	return storage.Replica{Group: storage.GroupID(d.u32()), Generation: d.u32()}
}

// standing is what became of the introduction of one of the peer's replicas on
// this connection.
type standing struct {
	opening uint64
	counted bool
}

// standingOf is false for a replica that has not introduced itself here.
func (l *link) standingOf(r storage.Replica) (standing, bool) {
	l.theirMu.RLock()
	defer l.theirMu.RUnlock()
	s, ok := l.their[r]
	return s, ok
}

func (l *link) setStanding(r storage.Replica, s standing) {
	l.theirMu.Lock()
	l.their[r] = s
	l.theirMu.Unlock()
}

func (l *link) onIntroduce(b []byte) error {
	if len(b) == 0 || len(b)%introductionSize != 0 || len(b) > maxIntroductions*introductionSize {
		return fmt.Errorf("%w: malformed introduction", ErrProtocol)
	}
	for ; len(b) > 0; b = b[introductionSize:] {
		d := decoder{b: b[:introductionSize]}
		r, opening := d.replica(), d.u64()
		c := knowledge.Claim{Term: d.u64(), End: knowledge.Entry{Term: d.u64(), Index: d.u64()}, VoteTerm: d.u64(), Voted: d.bool()}
		if err := d.finish(); err != nil || opening == 0 {
			return fmt.Errorf("%w: malformed introduction", ErrProtocol)
		}
		if !l.mayReplicate(r.Group) {
			continue
		}
		err := l.t.cfg.Book.Judge(knowledge.Key{Node: l.peer.id, Replica: r}, l.at, opening, c)
		loss := (*knowledge.Loss)(nil)
		switch {
		case errors.As(err, &loss):
			l.disown(r, loss)
		case err == nil:
			l.setStanding(r, standing{opening, true})
		}
	}
	return nil
}

// disown counts a replica of the peer no longer, and tells it why.
func (l *link) disown(r storage.Replica, loss *knowledge.Loss) {
	l.setStanding(r, standing{opening: loss.Opening})
	o := newOutgoing(msgRefute, control, 0)
	o.payload = binary.LittleEndian.AppendUint32(o.payload, uint32(r.Group))
	o.payload = binary.LittleEndian.AppendUint32(o.payload, r.Generation)
	s := loss.Shown
	o.payload = appendUints(o.payload, loss.Opening, s.Term, s.Acked, s.End.Term, s.End.Index, s.Voted)
	l.insist(o)
	l.t.cfg.Events(Disowned{Peer: l.peer.id, Replica: r, Loss: loss})
}

// onRefute hears that a replica here has lost something. It is believed from a
// member, which may have opened no replica of its own yet, about the claim that the
// replica has really made.
func (l *link) onRefute(b []byte) error {
	d := decoder{b: b}
	r, opening := d.replica(), d.u64()
	s := knowledge.Shown{Term: d.u64(), Acked: d.u64(), End: knowledge.Entry{Term: d.u64(), Index: d.u64()}, Voted: d.u64()}
	if err := d.finish(); err != nil {
		return err
	}
	l.t.mu.RLock()
	g := l.t.groups[r]
	l.t.mu.RUnlock()
	if g == nil || !l.isMember() {
		return nil
	}
	i := g.introduced.Load()
	if i == nil || i.opening != opening {
		return nil // of an earlier opening
	}
	if loss := s.Lacks(i.claimTo(l.peer.id)); loss != nil {
		loss.Opening = opening
		l.t.cfg.Events(Refuted{Peer: l.peer.id, Replica: r, Loss: loss})
	}
	return nil
}

// Counted reports whether what a replica of node says counts: it has introduced
// itself on the present connection, and was not refuted. This node's own do.
func (t *Transport) Counted(node partition.NodeID, r storage.Replica) bool {
	if node == t.cfg.Self {
		return true
	}
	t.mu.RLock()
	p := t.peers[node]
	t.mu.RUnlock()
	if p == nil {
		return false
	}
	l := p.link.Load()
	if l == nil {
		return false
	}
	s, _ := l.standingOf(r)
	return s.counted
}

// note keeps what a replica of the peer has shown.
func (l *link) note(r storage.Replica, opening uint64, s knowledge.Shown) {
	if s == (knowledge.Shown{}) {
		return
	}
	loss := l.t.cfg.Book.Note(knowledge.Key{Node: l.peer.id, Replica: r}, opening, s)
	if loss == nil {
		return
	}
	// The replica has been opened again meanwhile, on a disk that lacks this.
	if now := l.peer.link.Load(); now != nil {
		now.disown(r, loss)
	}
}

// shownByRequest is what a request shows of its sender: a leader has on its disk
// what it sends, and each has its term there.
func shownByRequest(request any) knowledge.Shown {
	switch r := request.(type) {
	case *raft.AppendEntriesRequest:
		if isHeartbeat(r) {
			return knowledge.Shown{Term: r.Term}
		}
		return knowledge.Shown{Term: r.Term, Acked: r.Term, End: reached(r)}
	case *raft.RequestVoteRequest:
		return knowledge.Shown{Term: r.Term}
	case *raft.InstallSnapshotRequest:
		return knowledge.Shown{Term: r.Term, Acked: r.Term, End: knowledge.Entry{Term: r.LastLogTerm, Index: r.LastLogIndex}}
	}
	return knowledge.Shown{} // a pre-vote names a term that the sender may never enter
}

// reached is the last entry that an append vouches for.
func reached(r *raft.AppendEntriesRequest) knowledge.Entry {
	if n := len(r.Entries); n > 0 {
		return knowledge.Entry{Term: r.Entries[n-1].Term, Index: r.Entries[n-1].Index}
	}
	return knowledge.Entry{Term: r.PrevLogTerm, Index: r.PrevLogEntry}
}

// shownByAnswer is what the answer to a request shows of who gave it.
func shownByAnswer(request any, body []byte) knowledge.Shown {
	switch r := request.(type) {
	case *raft.AppendEntriesRequest:
		var a raft.AppendEntriesResponse
		if decodeResponse(body, &a) != nil {
			return knowledge.Shown{}
		}
		if isHeartbeat(r) || !a.Success || a.Term != r.Term {
			return knowledge.Shown{Term: a.Term}
		}
		return knowledge.Shown{Term: a.Term, Acked: r.Term, End: reached(r)}
	case *raft.RequestVoteRequest:
		var a raft.RequestVoteResponse
		if decodeResponse(body, &a) != nil {
			return knowledge.Shown{}
		}
		if a.Granted && a.Term == r.Term {
			return knowledge.Shown{Term: a.Term, Voted: r.Term}
		}
		return knowledge.Shown{Term: a.Term}
	case *raft.InstallSnapshotRequest:
		var a raft.InstallSnapshotResponse
		if decodeResponse(body, &a) != nil {
			return knowledge.Shown{}
		}
		if a.Success && a.Term == r.Term {
			return knowledge.Shown{Term: a.Term, Acked: r.Term, End: knowledge.Entry{Term: r.LastLogTerm, Index: r.LastLogIndex}}
		}
		return knowledge.Shown{Term: a.Term}
	}
	return knowledge.Shown{} // a pre-vote's answer repeats the term that was asked for
}

// errNotCounted is the error of a request whose answer does not count.
var errNotCounted = fmt.Errorf("%w: it has not said what its disk holds, or has lost something", ErrNoReplica)

// hearAnswer takes the answer of the peer's replica r to a request, on the reader's
// goroutine: what it shows is kept before anybody acts on it. An error says that the
// answer does not count. A term out of bounds shows nothing.
func (l *link) hearAnswer(g *GroupTransport, r storage.Replica, request any, body []byte) error {
	s, known := l.standingOf(r)
	if !known || !s.counted {
		return errNotCounted
	}
	if shown := shownByAnswer(request, body); g.own.check(shown.Term) == nil {
		l.note(r, s.opening, shown)
	}
	return nil
}

// hearRequest keeps what a request of the peer's replica shows of its sender. It is
// false if the sender does not count.
func (l *link) hearRequest(r storage.Replica, request any) (counted bool, err error) {
	s, known := l.standingOf(r)
	if !known {
		return false, fmt.Errorf("%w: replica %v speaks before it has introduced itself", ErrProtocol, r)
	}
	if s.counted {
		l.note(r, s.opening, shownByRequest(request))
	}
	return s.counted, nil
}
