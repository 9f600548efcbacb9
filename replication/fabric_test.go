package replication

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

var errCut = errors.New("link is cut")

// fabric is a network of nodes in memory: directed links that can be cut, a
// delay, pings.
type fabric struct {
	delay time.Duration
	stop  chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex
	nodes map[partition.NodeID]*fabricNode
	cuts  map[[2]partition.NodeID]bool
	// before, if set, sees each call before it is delivered, and may block it.
	before func(from, to partition.NodeID, kind uint8)
	// dropNotices drops what Notify sends.
	dropNotices bool
	// deaf nodes get no Raft requests, and theirs get nowhere.
	deaf map[partition.NodeID]bool
}

func newFabric() *fabric {
	f := &fabric{
		delay: time.Millisecond, stop: make(chan struct{}),
		nodes: map[partition.NodeID]*fabricNode{}, cuts: map[[2]partition.NodeID]bool{},
	}
	f.wg.Go(f.ping)
	return f
}

func (f *fabric) close() {
	close(f.stop)
	f.wg.Wait()
}

func (f *fabric) ping() {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		f.mu.Lock()
		for from := range f.nodes {
			for to := range f.nodes {
				f.passes(from, to)
			}
		}
		f.mu.Unlock()
		select {
		case <-tick.C:
		case <-f.stop:
			return
		}
	}
}

// passes reports whether a message gets through now, and lets it be heard.
// The caller holds mu.
func (f *fabric) passes(from, to partition.NodeID) bool {
	n := f.nodes[to]
	if n == nil || f.nodes[from] == nil || f.cuts[[2]partition.NodeID{from, to}] {
		return false
	}
	n.heard[from] = time.Now()
	return true
}

// travel takes a message over the link.
func (f *fabric) travel(from, to partition.NodeID) error {
	if f.delay > 0 {
		time.Sleep(f.delay)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.passes(from, to) {
		return errCut
	}
	return nil
}

func (f *fabric) isolate(id partition.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other := range f.nodes {
		if other != id {
			f.cuts[[2]partition.NodeID{id, other}] = true
			f.cuts[[2]partition.NodeID{other, id}] = true
		}
	}
}

func (f *fabric) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.cuts)
}

func (f *fabric) join(id partition.NodeID) *fabricNode {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &fabricNode{
		fabric: f, id: id,
		handlers: map[uint8]handler{}, heard: map[partition.NodeID]time.Time{},
		rafts: map[raft.ServerAddress]*fabricTransport{},
	}
	f.nodes[id] = n
	return n
}

func (f *fabric) leave(id partition.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.nodes, id)
}

type handler = func(context.Context, partition.NodeID, []byte) ([]byte, error)

// fabricNode is one node's end: its [Peers].
type fabricNode struct {
	fabric   *fabric
	id       partition.NodeID
	handlers map[uint8]handler                       // under fabric.mu
	heard    map[partition.NodeID]time.Time          // under fabric.mu
	rafts    map[raft.ServerAddress]*fabricTransport // under fabric.mu
}

func (n *fabricNode) Handle(kind uint8, fn func(context.Context, partition.NodeID, []byte) ([]byte, error)) {
	n.fabric.mu.Lock()
	defer n.fabric.mu.Unlock()
	n.handlers[kind] = fn
}

func (n *fabricNode) LastHeard(node partition.NodeID) (time.Duration, bool) {
	n.fabric.mu.Lock()
	defer n.fabric.mu.Unlock()
	at, ok := n.heard[node]
	return time.Since(at), ok
}

func (n *fabricNode) Counted(partition.NodeID, storage.Replica) bool { return true }

func (n *fabricNode) Call(ctx context.Context, to partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	n.fabric.wg.Go(func() {
		b, err := n.call(ctx, to, kind, payload)
		done <- result{b, err}
	})
	select {
	case r := <-done:
		if errors.Is(r.err, errCut) { // a cut link is silent
			<-ctx.Done()
		}
		return r.b, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *fabricNode) call(ctx context.Context, to partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
	n.fabric.mu.Lock()
	before := n.fabric.before
	n.fabric.mu.Unlock()
	if before != nil {
		before(n.id, to, kind)
	}
	if err := n.fabric.travel(n.id, to); err != nil {
		return nil, err
	}
	n.fabric.mu.Lock()
	var fn handler
	if peer := n.fabric.nodes[to]; peer != nil {
		fn = peer.handlers[kind]
	}
	n.fabric.mu.Unlock()
	if fn == nil {
		return nil, errors.New("nobody answers")
	}
	b, err := fn(ctx, n.id, payload)
	if err != nil {
		return nil, err
	}
	return b, n.fabric.travel(to, n.id)
}

func (n *fabricNode) Notify(to partition.NodeID, kind uint8, payload []byte) error {
	n.fabric.mu.Lock()
	drop := n.fabric.dropNotices
	n.fabric.mu.Unlock()
	if !drop {
		n.fabric.wg.Go(func() { n.call(context.Background(), to, kind, payload) })
	}
	return nil
}

// fabricTransport is one replica's raft transport over the fabric.
type fabricTransport struct {
	node     *fabricNode
	addr     raft.ServerAddress
	consumer chan raft.RPC
	full     atomic.Pointer[func() bool]
	appends  atomic.Int64 // append requests sent, heartbeats excepted
	// encoding, if set, is called when the library encodes this node's address, on
	// the goroutine that is about to send something.
	encoding atomic.Pointer[func()]
	// sending, if set, sees each append but heartbeats, on the goroutine that sends it.
	sending atomic.Pointer[func(to raft.ServerAddress)]

	heardMu   sync.Mutex
	heardTerm uint64
	heardFrom raft.ServerID
	heardAt   time.Time
}

func (t *fabricTransport) LeaderHeard() (uint64, raft.ServerID, time.Time) {
	t.heardMu.Lock()
	defer t.heardMu.Unlock()
	return t.heardTerm, t.heardFrom, t.heardAt
}

func (t *fabricTransport) hear(args any) {
	a, ok := args.(*raft.AppendEntriesRequest)
	if !ok {
		return
	}
	t.heardMu.Lock()
	defer t.heardMu.Unlock()
	if a.Term >= t.heardTerm {
		t.heardTerm, t.heardFrom, t.heardAt = a.Term, raft.ServerID(a.ID), time.Now()
	}
}

// rpcTimeout is above any fsync in the tests.
const rpcTimeout = time.Second

func (n *fabricNode) transport(m Member) *fabricTransport {
	t := &fabricTransport{node: n, addr: m.address(), consumer: make(chan raft.RPC, 16)}
	n.fabric.mu.Lock()
	defer n.fabric.mu.Unlock()
	n.rafts[t.addr] = t
	return t
}

func (t *fabricTransport) Close() error {
	t.node.fabric.mu.Lock()
	defer t.node.fabric.mu.Unlock()
	if t.node.rafts[t.addr] == t {
		delete(t.node.rafts, t.addr)
	}
	return nil
}

func (t *fabricTransport) rpc(target raft.ServerAddress, args any, r io.Reader) (any, error) {
	m, err := ParseServerID(raft.ServerID(target))
	if err != nil {
		return nil, err
	}
	f := t.node.fabric
	if err := f.travel(t.node.id, m.Node); err != nil {
		time.Sleep(rpcTimeout / 4)
		return nil, err
	}
	f.mu.Lock()
	var to *fabricTransport
	if n := f.nodes[m.Node]; n != nil && !f.deaf[m.Node] && !f.deaf[t.node.id] {
		to = n.rafts[target]
	}
	f.mu.Unlock()
	if to == nil {
		return nil, errors.New("no such replica")
	}
	to.hear(args)
	if a, ok := args.(*raft.AppendEntriesRequest); ok && len(a.Entries) > 0 {
		if full := to.full.Load(); full != nil && (*full)() {
			return nil, errors.New("inbox full")
		}
	}
	timer := time.NewTimer(rpcTimeout)
	defer timer.Stop()
	resp := make(chan raft.RPCResponse, 1)
	select {
	case to.consumer <- raft.RPC{Command: args, Reader: r, RespChan: resp}:
	case <-timer.C:
		return nil, errors.New("timeout")
	}
	select {
	case a := <-resp:
		if err := f.travel(m.Node, t.node.id); err != nil {
			return nil, err
		}
		return a.Response, a.Error
	case <-timer.C:
		return nil, errors.New("timeout")
	}
}

func (t *fabricTransport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if args.PrevLogEntry != 0 || len(args.Entries) != 0 || args.LeaderCommitIndex != 0 {
		t.appends.Add(1)
		if f := t.sending.Load(); f != nil {
			(*f)(to)
		}
	}
	req := *args
	a, err := t.rpc(to, &req, nil)
	if err == nil {
		*resp = *a.(*raft.AppendEntriesResponse)
	}
	return err
}

func (t *fabricTransport) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	a, err := t.rpc(to, args, nil)
	if err == nil {
		*resp = *a.(*raft.RequestVoteResponse)
	}
	return err
}

func (t *fabricTransport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	a, err := t.rpc(to, args, nil)
	if err == nil {
		*resp = *a.(*raft.RequestPreVoteResponse)
	}
	return err
}

func (t *fabricTransport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	a, err := t.rpc(to, args, data)
	if err == nil {
		*resp = *a.(*raft.InstallSnapshotResponse)
	}
	return err
}

func (t *fabricTransport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	a, err := t.rpc(to, args, nil)
	if err == nil {
		*resp = *a.(*raft.TimeoutNowResponse)
	}
	return err
}

func (t *fabricTransport) Inject(command any) (any, error) {
	timer := time.NewTimer(rpcTimeout)
	defer timer.Stop()
	resp := make(chan raft.RPCResponse, 1)
	select {
	case t.consumer <- raft.RPC{Command: command, RespChan: resp}:
	case <-timer.C:
		return nil, errors.New("timeout")
	}
	select {
	case a := <-resp:
		return a.Response, a.Error
	case <-timer.C:
		return nil, errors.New("timeout")
	}
}

func (t *fabricTransport) Introduce(knowledge.Claim, raft.ServerID) {}
func (t *fabricTransport) SetContent(func([]byte) error)            {}
func (t *fabricTransport) SetFull(f func() bool)                    { t.full.Store(&f) }
func (t *fabricTransport) Consumer() <-chan raft.RPC                { return t.consumer }
func (t *fabricTransport) LocalAddr() raft.ServerAddress            { return t.addr }
func (t *fabricTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte {
	if f := t.encoding.Load(); f != nil {
		(*f)()
	}
	return []byte(a)
}
func (t *fabricTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }
func (t *fabricTransport) SetHeartbeatHandler(func(raft.RPC))     {}
func (t *fabricTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}
