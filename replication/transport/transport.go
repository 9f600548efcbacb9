package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

// Transport is one node's end of all its connections. All methods are safe
// for concurrent use.
type Transport struct {
	cfg     Config
	started time.Time // LastHeard is measured from here, monotonically
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	handlers   [256]atomic.Pointer[Handler]
	running    [classes]atomic.Int64 // handlers
	shaking    atomic.Int64          // incoming handshakes
	installing atomic.Int64          // incoming snapshots

	// Pools of this transport alone, because they hold channels, which must
	// not travel from one synctest bubble to another.
	replies sync.Pool // *reply
	answers sync.Pool // chan raft.RPCResponse with room for one

	mu     sync.RWMutex
	closed bool
	peers  map[partition.NodeID]*peer
	groups map[storage.Replica]*GroupTransport
	links  map[*link]struct{} // from handshake to failure
	// newest is the highest generation that each peer's replica of a group was
	// heard under: what an older one still says is dropped.
	newestMu sync.Mutex
	newest   map[origin]uint32
}

type origin struct {
	node  partition.NodeID
	group storage.GroupID
}

// New starts to take connections.
func New(cfg Config) (*Transport, error) {
	if cfg.Self == "" || len(cfg.Self) > maxName {
		return nil, fmt.Errorf("transport: node id %q: 1 to %d bytes are needed", cfg.Self, maxName)
	}
	if cfg.Dial == nil || cfg.Resolve == nil {
		return nil, errors.New("transport: Dial and Resolve are needed")
	}
	if cfg.Start == nil {
		cfg.Start = func() (number, incarnation uint64) { return 0, 0 }
	}
	if cfg.Cluster == nil {
		cfg.Cluster = func() string { return "" }
	}
	if cfg.Book == nil {
		cfg.Book = knowledge.NewBook(nil)
	}
	if cfg.Events == nil {
		cfg.Events = func(Event) {}
	}
	t := &Transport{
		cfg:     cfg,
		started: time.Now(),
		peers:   map[partition.NodeID]*peer{},
		groups:  map[storage.Replica]*GroupTransport{},
		links:   map[*link]struct{}{},
		newest:  map[origin]uint32{},
	}
	t.replies.New = newReply
	t.answers.New = newAnswerChannel
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if cfg.Listener != nil {
		t.spawn(t.acceptLoop)
	}
	return t, nil
}

// Close ends all connections and groups and waits for everything that the
// transport started, running handlers included: their contexts end.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	peers := make([]*peer, 0, len(t.peers))
	for _, p := range t.peers {
		peers = append(peers, p)
	}
	groups := make([]*GroupTransport, 0, len(t.groups))
	for _, g := range t.groups {
		groups = append(groups, g)
	}
	t.mu.Unlock()
	t.cancel()
	var err error
	if t.cfg.Listener != nil {
		if err = t.cfg.Listener.Close(); errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	for _, p := range peers {
		p.close()
	}
	for _, g := range groups {
		_ = g.Close()
	}
	t.wg.Wait()
	return err
}

// spawn runs f in a goroutine that Close waits for; false once closed.
func (t *Transport) spawn(f func()) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

func (t *Transport) allowed(from, to partition.NodeID) bool {
	return t.cfg.Allow == nil || t.cfg.Allow(from, to)
}

// cutFrom tells whether a deliberate cut, of either direction, lies between
// this node and another.
func (t *Transport) cutFrom(node partition.NodeID) bool {
	return !t.allowed(node, t.cfg.Self) || !t.allowed(t.cfg.Self, node)
}

// peer is the state of that peer, made if it is new; nil once closed.
func (t *Transport) peer(node partition.NodeID) *peer {
	t.mu.RLock()
	p, closed := t.peers[node], t.closed
	t.mu.RUnlock()
	if closed {
		return nil
	}
	if p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if p = t.peers[node]; p == nil {
		p = newPeer(t, node)
		t.peers[node] = p
	}
	return p
}

// linkTo is a live connection to node, dialed if need be. While a peer does
// not answer its dials this fails at once. Its errors are definite.
func (t *Transport) linkTo(done <-chan struct{}, node partition.NodeID) (*link, error) {
	p := t.peer(node)
	if p == nil {
		return nil, ErrClosed
	}
	return p.connect(done)
}

// LastHeard tells how long ago anything was heard from a node, by the
// monotonic clock; false if nothing ever was.
func (t *Transport) LastHeard(node partition.NodeID) (ago time.Duration, ok bool) {
	t.mu.RLock()
	p := t.peers[node]
	t.mu.RUnlock()
	if p == nil || p.heard.Load() == 0 {
		return 0, false
	}
	return time.Since(t.started) - time.Duration(p.heard.Load()), true
}

// Connected tells whether there is a connection to node now.
func (t *Transport) Connected(node partition.NodeID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.peers[node]
	return p != nil && p.link.Load() != nil
}

// Kick forgets earlier failures to reach node: there is news that it is back.
func (t *Transport) Kick(node partition.NodeID) {
	t.mu.RLock()
	p := t.peers[node]
	t.mu.RUnlock()
	if p != nil {
		p.kick()
	}
}

// Sever ends the connection to node and the attempt to make one: Config.Allow
// has begun to forbid it. Without it the connection falls silent, and is given
// up after [DeadAfter].
func (t *Transport) Sever(node partition.NodeID) {
	t.mu.RLock()
	p := t.peers[node]
	t.mu.RUnlock()
	if p != nil {
		p.sever(ErrCut)
	}
}

// Reconnect dials node now, whatever has failed before, and does not wait for
// the outcome: Config.Allow permits it again.
func (t *Transport) Reconnect(node partition.NodeID) {
	if p := t.peer(node); p != nil && node != t.cfg.Self {
		p.kick()
		_, _ = p.connect(closedChannel)
	}
}

// Readmit judges every open connection by Config.Admit once more, and ends those
// that it refuses: what it decides by has changed.
func (t *Transport) Readmit() {
	t.mu.RLock()
	peers := make([]*peer, 0, len(t.peers))
	for _, p := range t.peers {
		peers = append(peers, p)
	}
	t.mu.RUnlock()
	for _, p := range peers {
		if l := p.link.Load(); l != nil {
			if err := t.judge(l.hello); err != nil {
				p.sever(err)
			}
		}
	}
}

// judge is Config.Admit as an error of this package.
func (t *Transport) judge(h Hello) error {
	if t.cfg.Admit == nil {
		return nil
	}
	if err := t.cfg.Admit(h); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	return nil
}

// Metrics counts per peer since the start.
func (t *Transport) Metrics() map[partition.NodeID]PeerMetrics {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make(map[partition.NodeID]PeerMetrics, len(t.peers))
	for node, p := range t.peers {
		all[node] = p.count.read()
	}
	return all
}

type counters struct {
	framesSent, framesReceived, bytesSent, bytesReceived      atomic.Uint64
	writes, connects, queueDrops, heartbeats, heartbeatFrames atomic.Uint64
}

func (c *counters) read() PeerMetrics {
	return PeerMetrics{
		FramesSent: c.framesSent.Load(), FramesReceived: c.framesReceived.Load(),
		BytesSent: c.bytesSent.Load(), BytesReceived: c.bytesReceived.Load(),
		Writes: c.writes.Load(), Connects: c.connects.Load(), QueueDrops: c.queueDrops.Load(),
		Heartbeats: c.heartbeats.Load(), HeartbeatFrames: c.heartbeatFrames.Load(),
	}
}
