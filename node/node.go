package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/api"
	"github.com/capstan-kv/capstan/node/chaos"
	"github.com/capstan-kv/capstan/node/identity"
	"github.com/capstan-kv/capstan/node/membership"
	"github.com/capstan-kv/capstan/node/metrics"
	"github.com/capstan-kv/capstan/node/reports"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

const (
	// shutdownWait bounds how long Close waits for requests under way: longer
	// than a client's default deadline.
	shutdownWait = 6 * time.Second
	// leaveWait bounds the farewell to gossip. Without it the others notice
	// by themselves, some seconds later.
	leaveWait = 2 * time.Second
)

// Node is one running node. All methods are safe for concurrent use.
type Node struct {
	config      Config
	journal     journal
	limits      limits
	budgets     *budgets
	sockets     sockets
	id          partition.NodeID
	incarnation uint64
	addresses   addresses

	identity *identity.Identity
	marks    *storage.Marks
	log      *storage.Log
	state    *storage.State
	clock    *hlc.Clock

	logTrouble, stateTrouble trouble
	damaged                  *damagedTables

	disk      *diskGuard
	fullDisks fullDisks

	cuts      *chaos.Cuts // nil unless Config.EnableChaos
	cutting   sync.Mutex  // one change of them at a time
	transport *transport.Transport
	gate      *startGate
	host      *replication.Host
	exchange  *exchange.Exchange
	sessions  *sessions
	reports   atomic.Pointer[reports.Reporter] // nil until it is open
	members   *membership.Membership
	control   *controlGroup
	replicas  *replicaSet
	comparer  *comparer
	router    *router
	cursors   *cursors
	server    *http.Server
	pprof     *http.Server
	metrics   *metrics.Registry
	controlUp chan struct{} // closed once control is set
	belonging bool          // belong was started
	settled   chan struct{} // closed when belong has ended

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	gossipChanged chan struct{} // wakes the driver
	gossipForming chan struct{} // wakes formation

	failOnce sync.Once
	done     chan struct{}
	err      error

	closeOnce sync.Once
	closeErr  error
	undo      []func() error // what Close has to undo, in order of opening
}

// addresses are those that others are told.
type addresses struct{ api, peer, gossip string }

// Open starts a node. It returns once the node listens and has opened its
// databases; in the background it finds its cluster, registers this start there,
// and only then opens its replicas. ctx
// bounds the opening only. Errors: *ConfigError, [ErrRefused], identity.ErrInUse
// and the other errors of a data directory, and those of listening.
func Open(ctx context.Context, config Config) (_ *Node, err error) {
	config, err = config.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{
		config: config, journal: journal{log: config.Logger, refusals: &seldom{}}, incarnation: randomNumber(),
		cursors: &cursors{}, done: make(chan struct{}), controlUp: make(chan struct{}), settled: make(chan struct{}),
		gossipChanged: make(chan struct{}, 1), gossipForming: make(chan struct{}, 1), damaged: newDamagedTables(),
	}
	n.limits = limitsFor(config.MemoryLimit, config.FileLimit)
	n.budgets = n.limits.budgets()
	n.disk = &diskGuard{fs: config.FS, dir: config.DataDir}
	n.metrics = metrics.New(n.figures)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	// Gossip before the control group: what that starts asks who is alive.
	for _, open := range []func() error{n.listen, n.openDisk, n.openPeers, n.openGossip, n.openControl, n.openReports, n.openAPI} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := open(); err != nil {
			return nil, err
		}
	}
	n.tasks.Go(func() {
		defer close(n.settled)
		n.belong()
	})
	n.belonging = true
	return n, nil
}

func (n *Node) onClose(undo func() error) { n.undo = append(n.undo, undo) }

// background runs something that ends with the node's context, and uses what is
// open by now: Close waits for it before it closes any of that.
func (n *Node) background(run func()) {
	ended := make(chan struct{})
	n.tasks.Go(func() {
		defer close(ended)
		run()
	})
	n.onClose(func() error {
		<-ended
		return nil
	})
}

// sockets are listened on before anything is written, so that a port in use
// costs nothing.
type sockets struct{ api, peer net.Listener }

func (n *Node) listen() error {
	apiListener, err := n.config.Network.Listen(n.config.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	n.sockets.api = apiListener
	n.onClose(closeListener(apiListener))
	peerListener, err := n.config.Network.Listen(n.config.ListenPeer)
	if err != nil {
		return fmt.Errorf("--listen-peer: %w", err)
	}
	n.sockets.peer = peerListener
	n.onClose(closeListener(peerListener))
	if n.addresses.api, err = advertised(n.config.Advertise, apiListener.Addr()); err != nil {
		return fmt.Errorf("--advertise: %w", err)
	}
	if n.addresses.peer, err = advertised(n.config.AdvertisePeer, peerListener.Addr()); err != nil {
		return fmt.Errorf("--advertise-peer: %w", err)
	}
	return nil
}

// closeListener closes a listener that a server may have closed already.
func closeListener(l net.Listener) func() error {
	return func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

func (n *Node) openDisk() (err error) {
	if n.identity, err = identity.Open(n.config.FS, n.config.DataDir, n.config.Name); err != nil {
		return fmt.Errorf("data directory %s: %w", n.config.DataDir, err)
	}
	n.onClose(n.identity.Close)
	if err := n.identity.BindLabel(n.config.Cluster); err != nil {
		return fmt.Errorf("--cluster: %w", err)
	}
	n.id = n.identity.NodeID()
	n.clock = hlc.New(n.config.Now, n.config.MaxClockOffset)
	if err := n.openMarks(); err != nil {
		return fmt.Errorf("data directory %s: %w", n.config.DataDir, err)
	}
	if n.log, err = storage.OpenLog(storage.LogOptions{
		FS: n.config.FS, Dir: filepath.Join(n.config.DataDir, "log"), NodeID: n.id,
		Marks:      n.marks,
		CacheBytes: n.limits.logCache, MemTableBytes: n.limits.logTable, MaxOpenFiles: n.limits.logFiles,
		MustExist: n.identity.Initialised(), Events: n.onLogEvent,
	}); err != nil {
		return fmt.Errorf("data directory %s: %w", n.config.DataDir, err)
	}
	n.onClose(n.log.Close)
	if n.state, err = storage.OpenState(storage.StateOptions{
		FS: n.config.FS, Dir: n.stateDir(), Events: n.onStateEvent,
		NodeID: n.id, Marks: n.marks,
		CacheBytes: n.limits.stateCache, MemTableBytes: n.limits.stateTable, MaxOpenFiles: n.limits.stateFiles,
	}); err != nil {
		return fmt.Errorf("data directory %s: %w", n.config.DataDir, err)
	}
	n.onClose(n.state.Close)
	return nil
}

func (n *Node) stateDir() string { return filepath.Join(n.config.DataDir, "state") }

func (n *Node) onLogEvent(e storage.LogEvent) {
	n.journal.logDatabase(e)
	switch e := e.(type) {
	case storage.LogWriteStall:
		if !e.Ended {
			n.logTrouble.stalls.Add(1)
		}
	case storage.LogDiskSlow:
		n.logTrouble.slow.Add(1)
	case storage.LogFailed:
		n.fail(fmt.Errorf("log database: %w", e.Err))
	}
}

func (n *Node) onStateEvent(e storage.Event) {
	n.journal.state(e)
	switch e := e.(type) {
	case storage.EventWriteStallBegin:
		n.stateTrouble.stalls.Add(1)
	case storage.EventDiskSlow:
		n.stateTrouble.slow.Add(1)
	case storage.EventCorruption:
		n.damaged.add(e)
	case storage.EventReplicaDamaged:
		n.replicas.fail(e.Replica, e.Err)
	case storage.EventFatal:
		n.fail(fmt.Errorf("%s database: %w", e.Database, e.Err))
	}
}

func (n *Node) openPeers() (err error) {
	var allow func(from, to partition.NodeID) bool
	if n.config.EnableChaos {
		n.cuts = chaos.New(n.id)
		allow = n.cuts.Allow
		n.tasks.Go(n.remindOfCut)
	}
	book, err := openBook(n.log)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", n.config.DataDir, err)
	}
	if n.transport, err = transport.New(transport.Config{
		Book: book,
		Self: n.id, Cluster: n.identity.ClusterID, Start: n.presented,
		Listener: n.sockets.peer, Dial: n.config.Network.Dial, Resolve: n.resolve, Admit: n.admit, Allow: allow,
		Member: n.isMember, GuestKinds: []uint8{kindControl, kindPromise}, Guest: n.hearsGuests,
		Events: n.onTransportEvent,
	}); err != nil {
		return err
	}
	keeper := &bookKeeper{book: book, log: n.log, journal: n.journal}
	n.onClose(keeper.close)
	n.onClose(n.transport.Close)
	n.background(func() { keeper.run(n.ctx, n.gone) })
	n.gate = newGate(peers{n.transport})
	if n.host, err = replication.NewHost(replication.HostConfig{
		Self: n.id, Peers: peers{n.transport}, Events: n.onReplication, Elapsed: n.config.Elapsed,
		Proposals: n.budgets.proposals, Recent: n.limits.recent,
	}); err != nil {
		return err
	}
	n.replicas = &replicaSet{self: n.id, name: n.config.Name, state: n.state, log: n.config.Logger, clock: n.clock, room: n.roomFor, beforeApply: n.config.beforeApply}
	n.router = newRouter(n.id, n.ring, transportHopper{n.transport}, n.replicas)
	n.comparer = newComparer(n)
	n.replicas.comparer = n.comparer
	// The exchange asks for both as soon as it is open.
	if err := n.openExchange(); err != nil {
		return err
	}
	n.onClose(n.exchange.Close)
	n.sessions = n.router.sessions
	n.sessions.exists, n.sessions.decided, n.sessions.reached = n.exists, n.exchange.Decided, n.reached
	relayed := n.sessions.relayed()
	n.replicas.exchange, n.replicas.sessions = n.exchange, n.sessions
	n.replicas.opener = &groupOpener{
		self: n.id, dir: n.config.DataDir, onDisk: onDisk(n.config.FS),
		marks: n.marks, log: n.log, host: n.host, transport: n.transport, failed: n.fail,
	}
	n.onClose(n.replicas.close)
	n.onClose(n.closeControl)
	n.onClose(n.host.Close) // hands leadership of all groups away, side by side
	n.router.exchange, n.router.closing, n.router.refuses = n.exchange, n.ctx.Done(), n.gate.refusal
	n.cursors.token = relayed.token
	n.router.scans = n.budgets.scans
	hops := &hopServer{local: n.replicas, cursors: n.cursors, budget: n.budgets.forwarded, backlog: n.transport.Backlog, mostBacklog: n.limits.fromPeer,
		count: func() int { return len(n.ring().Partitions) }, sessions: relayed}
	n.serving().Handle(kindHop, hops.handle)
	n.transport.Handle(kindStatus, n.handleStatus)
	n.transport.Handle(kindDiskLow, n.handleDiskLow)
	n.transport.Handle(kindCompare, n.comparer.handle)
	n.onClose(func() error { n.cursors.close(); return nil })
	return nil
}

// serving is the transport as those use it who serve partitions.
func (n *Node) serving() gated { return gated{peers{n.transport}, n.gate} }

func (n *Node) closeControl() error {
	if n.belonging {
		<-n.settled // it may be opening the control group just now
	}
	if n.control == nil {
		return nil
	}
	return n.control.close()
}

func (n *Node) openGossip() (err error) {
	var network membership.Network = n.config.Network
	if n.cuts != nil {
		network = n.cuts.Gossip(network)
	}
	if n.members, err = membership.Open(membership.Config{
		NodeID: n.id, Name: n.config.Name, Cluster: n.config.Cluster, ClusterID: n.identity.ClusterID(),
		APIAddr: n.addresses.api, PeerAddr: n.addresses.peer, Zone: n.config.Zone, Version: Version(),
		Expect: n.config.BootstrapExpect, Network: network, Bind: n.config.ListenGossip,
		Advertise: n.config.AdvertiseGossip, Join: n.config.Join, Events: n.journal.membership,
	}); err != nil {
		return fmt.Errorf("--listen-gossip: %w", err)
	}
	n.addresses.gossip = n.members.Addr()
	n.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
		defer cancel()
		if err := n.members.Leave(ctx); err != nil {
			n.journal.log.Debug("gossip was not told of the stop", "err", err)
		}
		return n.members.Close()
	})
	n.tasks.Go(n.watchGossip)
	n.background(n.settle)
	n.background(n.watchDisk)
	return nil
}

func (n *Node) openAPI() error {
	var cuts api.Chaos
	if n.cuts != nil {
		cuts = chaosService{n}
	}
	handler := api.NewHandler(api.Config{
		Chaos: cuts, KV: n.router, Cluster: clusterService{n}, Health: health{n}, MaxValueSize: n.config.MaxValueSize,
		Version: Version(), Metrics: n.metrics.Handler(), Observer: n.metrics, APIAddress: n.apiAddress,
		Budgets: &n.budgets.clients,
		Panicked: func(method string, value any, stack []byte) {
			n.journal.log.Error("a request panicked", "method", method, "panic", value, "stack", string(stack))
		},
	})
	n.server = api.NewServer(api.Local(handler, hostOnly(n.config.Advertise)))
	n.tasks.Go(func() {
		if err := n.server.Serve(n.budgets.connections.Listen(n.sockets.api)); !errors.Is(err, http.ErrServerClosed) {
			n.fail(fmt.Errorf("client API: %w", err))
		}
	})
	n.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownWait)
		defer cancel()
		err := n.server.Shutdown(ctx)
		if err != nil {
			err = n.server.Close() // somebody holds on to a connection
		}
		n.router.scanning.Wait() // cut off, if need be: their requests have ended
		return err
	})
	return n.openPprof()
}

// Addr is where clients, other nodes and gossip reach this node.
func (n *Node) Addr() (api, peer, gossip string) {
	return n.addresses.api, n.addresses.peer, n.addresses.gossip
}

// ID is the node's id.
func (n *Node) ID() partition.NodeID { return n.id }

// Done is closed when the node can not go on; Err then says why. It still has
// to be closed.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is why the node can not go on; nil while it can.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// ErrRefused says that the cluster refuses this node's data directory for good:
// this start ends, and so does every later one until the directory is emptied.
var ErrRefused = identity.ErrRefused

// refuse stores the refusal in the data directory and ends the node. by is the
// node that reported it, reason completes the sentence of [ErrRefused].
func (n *Node) refuse(by partition.NodeID, reason string) { n.fail(n.refusal(by, reason)) }

// refusal stores the refusal and is the error to end with.
func (n *Node) refusal(by partition.NodeID, reason string) error {
	return fmt.Errorf("data directory %s: %w", n.config.DataDir, n.identity.Refuse(by, reason))
}

func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.journal.log.Error("the node can not go on", "err", err)
		n.err = err
		close(n.done)
	})
}

// Close answers what is under way, hands leadership away, and closes all that
// Open opened, in reverse. Closing again returns the first close's error.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.cancel()
		var errs []error
		for i := len(n.undo) - 1; i >= 0; i-- {
			errs = append(errs, n.undo[i]())
		}
		n.tasks.Wait()
		n.closeErr = errors.Join(errs...)
	})
	return n.closeErr
}

func randomNumber() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v
		}
	}
}
