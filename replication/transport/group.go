package transport

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// inboxRPCs and inboxBytes bound what waits for one replica's main loop;
	// what comes on top is answered busy.
	inboxRPCs  = 256
	inboxBytes = 32 << 20
)

var (
	_ raft.Transport   = (*GroupTransport)(nil)
	_ raft.WithPreVote = (*GroupTransport)(nil)
	_ raft.WithClose   = (*GroupTransport)(nil)
)

// GroupTransport is the raft.Transport of one replica.
//
// Close fails at once whatever waits for an answer. Raft's own Shutdown waits
// for such requests before it closes its transport: call Close right after
// starting the shutdown.
type GroupTransport struct {
	t          *Transport
	replica    storage.Replica
	local      string
	inbox      chan raft.RPC
	closed     chan struct{}
	introduced atomic.Pointer[introduced]
	content    atomic.Pointer[func(command []byte) error]
	own        ownTerm
	full       atomic.Pointer[func() bool]
	bytes      atomic.Int64 // in the inbox
	targets    sync.Map     // raft.ServerID -> target
	wg         sync.WaitGroup

	mu        sync.Mutex
	isClosed  bool
	answering chan unanswered
	stager    Stager
	receiving *incomingSnapshot

	heard heard
}

// heard is the last sign of a leader.
type heard struct {
	mu   sync.Mutex
	term uint64
	from raft.ServerID
	at   time.Time
}

// note takes note of a request, if it is one of a leader's. What an earlier
// leader still says is no sign of the present one.
func (h *heard) note(command any) {
	a, ok := command.(*raft.AppendEntriesRequest)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.Term >= h.term {
		h.term, h.at = a.Term, time.Now()
		if string(h.from) != string(a.ID) {
			h.from = raft.ServerID(a.ID)
		}
	}
}

// LeaderHeard is the highest term that an append or heartbeat of a peer has
// named, by whom, and when the last one of that term came, whether Raft has
// taken it from the inbox yet or not, and also if there was no room. Zero if
// none ever did.
func (g *GroupTransport) LeaderHeard() (term uint64, from raft.ServerID, at time.Time) {
	g.heard.mu.Lock()
	defer g.heard.mu.Unlock()
	return g.heard.term, g.heard.from, g.heard.at
}

// unanswered is an RPC in the inbox or in the main loop's hands.
type unanswered struct {
	ch    chan raft.RPCResponse
	link  *link
	id    uint64
	beat  bool
	bytes int
}

// ServerID is a replica's Raft server id and address: "<node id>/<generation>".
func ServerID(node partition.NodeID, generation uint32) raft.ServerID {
	return raft.ServerID(string(node) + "/" + strconv.FormatUint(uint64(generation), 10))
}

func parseTarget(id raft.ServerID) (target, error) {
	node, text, ok := strings.Cut(string(id), "/")
	generation, err := strconv.ParseUint(text, 10, 32)
	if !ok || err != nil || node == "" {
		return target{}, fmt.Errorf("transport: server id %q is not of the form node/generation", id)
	}
	return target{partition.NodeID(node), uint32(generation)}, nil
}

// Group opens the transport of one replica of this node. A replica that is
// already open is closed first. After the transport's Close it is born closed.
func (t *Transport) Group(replica storage.Replica) *GroupTransport {
	g := &GroupTransport{
		t: t, replica: replica,
		local:     string(ServerID(t.cfg.Self, replica.Generation)),
		inbox:     make(chan raft.RPC, inboxRPCs),
		closed:    make(chan struct{}),
		answering: make(chan unanswered, inboxRPCs+1),
	}
	t.mu.Lock()
	old, closed := t.groups[replica], t.closed
	if !closed {
		t.groups[replica] = g
		g.wg.Go(g.answerLoop)
	}
	t.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	if closed {
		_ = g.Close()
	}
	return g
}

// Close takes the replica off the network. What waits fails at once.
func (g *GroupTransport) Close() error {
	g.mu.Lock()
	if !g.isClosed {
		g.isClosed = true
		close(g.closed)
		if g.receiving != nil {
			g.receiving.abort(ErrClosed)
		}
	}
	g.mu.Unlock()
	g.t.mu.Lock()
	if g.t.groups[g.replica] == g {
		delete(g.t.groups, g.replica)
	}
	g.t.mu.Unlock()
	g.wg.Wait()
	return nil
}

// SetContent sets what says whether a command in an entry can be applied: an
// append with one that cannot is refused. It is called beside other calls.
func (g *GroupTransport) SetContent(check func(command []byte) error) { g.content.Store(&check) }

// SetFull makes appends with entries answered busy while full returns true.
func (g *GroupTransport) SetFull(full func() bool) { g.full.Store(&full) }

// SetStager sets who receives snapshots; without one they are refused.
func (g *GroupTransport) SetStager(s Stager) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stager = s
}

// Consumer gives the RPCs for this replica, in order per peer and class.
func (g *GroupTransport) Consumer() <-chan raft.RPC { return g.inbox }

// LocalAddr is the replica's server id.
func (g *GroupTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(g.local) }

// EncodePeer and DecodePeer are the identity: addresses are server ids.
func (g *GroupTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

// DecodePeer is the inverse of EncodePeer.
func (g *GroupTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler does nothing, for safety: see the package.
func (g *GroupTransport) SetHeartbeatHandler(func(raft.RPC)) {}

// Inject puts a command of this node's own into the consumer, as if a peer had
// sent it, and waits for the answer, at most [RaftTimeout].
func (g *GroupTransport) Inject(command any) (any, error) {
	timeout := time.NewTimer(RaftTimeout)
	defer timeout.Stop()
	ch := make(chan raft.RPCResponse, 1)
	return g.inject(raft.RPC{Command: command, RespChan: ch}, ch, timeout.C)
}

func (g *GroupTransport) inject(rpc raft.RPC, ch <-chan raft.RPCResponse, timeout <-chan time.Time) (any, error) {
	select {
	case <-g.closed:
		return nil, ErrClosed
	default:
	}
	select {
	case g.inbox <- rpc:
	case <-g.closed:
		return nil, ErrClosed
	case <-timeout:
		return nil, ErrBusy
	}
	select {
	case r := <-ch:
		return r.Response, r.Error
	case <-g.closed:
		return nil, fmt.Errorf("%w: the replica closed", ErrLost)
	case <-timeout:
		return nil, fmt.Errorf("%w: for %v", ErrLost, RaftTimeout)
	}
}

func (g *GroupTransport) target(id raft.ServerID) (target, error) {
	if v, ok := g.targets.Load(id); ok {
		return v.(target), nil
	}
	to, err := parseTarget(id)
	if err == nil {
		g.targets.Store(id, to)
	}
	return to, err
}

// replica is the target in g's group.
func (to target) replica(g *GroupTransport) storage.Replica {
	return storage.Replica{Group: g.replica.Group, Generation: to.generation}
}

// outgoing begins a request to a replica.
func (g *GroupTransport) outgoing(l *link, to target, kind rpcKind, c class) *outgoing {
	o := newOutgoing(msgRaft, c, l.nextID.Add(1))
	o.payload = appendEnvelope(o.payload, envelope{g.replica.Group, g.replica.Generation, to.generation, kind})
	return o
}

// request is a round trip that ends early when the group closes.
func (g *GroupTransport) request(id raft.ServerID, kind rpcKind, c class, args any, encode func([]byte) []byte, response any) error {
	to, err := g.target(id)
	if err != nil {
		return err
	}
	select {
	case <-g.closed:
		return ErrClosed
	default:
	}
	timer := time.NewTimer(RaftTimeout)
	defer timer.Stop()
	l, err := g.t.linkTo(g.closed, to.node)
	if err != nil {
		return err
	}
	o := g.outgoing(l, to, kind, c)
	o.payload = encode(o.payload)
	r := l.t.replies.Get().(*reply)
	r.asked = asked{l, g, to.replica(g), args}
	body, err := l.await(o, r, g.closed, timer.C)
	if err != nil {
		return err
	}
	return g.decode(l, body, response)
}

// decode reads a peer's answer, and refuses one that no replica gives.
func (g *GroupTransport) decode(l *link, body []byte, response any) error {
	err := decodeResponse(body, response)
	if err == nil {
		if err = g.checkResponse(response); err != nil {
			l.rejects(g.replica, err)
		}
	}
	return err
}

// await is roundTrip with two reasons to give up.
func (l *link) await(o *outgoing, r *reply, closed <-chan struct{}, timeout <-chan time.Time) ([]byte, error) {
	id := o.id
	if err := l.expect(id, r); err != nil {
		o.free()
		l.t.free(r)
		return nil, err
	}
	if err := l.send(o, closed); err != nil {
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
	case <-closed:
	case <-timeout:
	}
	if !l.forget(id) {
		<-r.ch
		return l.result(r)
	}
	l.t.free(r)
	return nil, fmt.Errorf("%w: given up after at most %v", ErrLost, RaftTimeout)
}

// AppendEntries implements raft.Transport. Of entries over [MaxMessage] it
// sends, and leaves in args, the first ones: Raft sends the rest next. The commit index
// is then at most that of the last entry sent: a follower must not commit entries that
// the request does not compare with its log.
func (g *GroupTransport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	g.own.raise(args.Term)
	if isHeartbeat(args) {
		return g.heartbeat(id, args, resp)
	}
	n, err := fitting(args.Entries)
	if err != nil {
		return err
	}
	if n < len(args.Entries) {
		args.Entries = args.Entries[:n]
		args.LeaderCommitIndex = min(args.LeaderCommitIndex, args.PrevLogEntry+uint64(n))
	}
	return g.request(id, rpcAppendEntries, bulk, args, func(b []byte) []byte { return appendAppendEntries(b, args) }, resp)
}

// AppendEntriesPipeline is refused. In its pipeline mode the library sends one
// append of at most MaxAppendEntries for each new entry, and goes on with a
// backlog only after CommitTimeout: a follower that was away stays behind. In
// the plain mode it goes on until the follower has everything; what gathers
// meanwhile shares the next append, and its fsync.
func (g *GroupTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// fitting is how many of the entries fit into one message.
func fitting(entries []*raft.Log) (int, error) {
	room := MaxMessage - appendHeader
	for i, e := range entries {
		if room -= entrySize(e); room < 0 {
			if i == 0 {
				return 0, fmt.Errorf("%w: entry %d of %d bytes", ErrTooLarge, e.Index, len(e.Data))
			}
			return i, nil
		}
	}
	return len(entries), nil
}

// RequestVote implements raft.Transport.
func (g *GroupTransport) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	g.own.raise(args.Term)
	return g.request(id, rpcRequestVote, control, args, func(b []byte) []byte { return appendRequest(b, args) }, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (g *GroupTransport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return g.request(id, rpcRequestPreVote, control, args, func(b []byte) []byte { return appendRequest(b, args) }, resp)
}

// TimeoutNow implements raft.Transport.
func (g *GroupTransport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return g.request(id, rpcTimeoutNow, control, args, func(b []byte) []byte { return appendRequest(b, args) }, resp)
}

// InstallSnapshot implements raft.Transport; data is read to its end, whatever
// args.Size says.
func (g *GroupTransport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	to, err := g.target(id)
	if err != nil {
		return err
	}
	g.own.raise(args.Term)
	return g.sendSnapshot(to, args, resp, data)
}
