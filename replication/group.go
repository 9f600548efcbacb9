package replication

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

// Store is a replica's Raft log with its term and vote. It must be durable
// when a call returns, and the vote must never be torn: see raftlog.
type Store interface {
	raft.LogStore
	raft.StableStore
}

// Bootstrapper is a Store that writes the first configuration in one durable
// piece; others are bootstrapped by the library, in several.
type Bootstrapper interface {
	Bootstrap(raft.Configuration) error
}

// Transport carries one replica's Raft requests. Its SetHeartbeatHandler must
// ignore the handler: the library's fast path for heartbeats runs beside its
// main loop and can corrupt the log. A vote request without the candidate's id
// must arrive without one: see patient.RequestVote.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	// Inject hands a request to the replica's own Raft, as if it had come from
	// a peer, and waits for the answer, a bounded time.
	Inject(command any) (response any, err error)
	// Introduce says what the replica's disk held when it was opened, and for whom
	// it voted last. Peers compare it with what the replica has acknowledged to them.
	// It is called once, before Raft is started.
	Introduce(c knowledge.Claim, candidate raft.ServerID)
	// SetContent sets what says whether the data of a command entry may enter the
	// log: an append with one that may not is refused.
	SetContent(check func(data []byte) error)
	// SetFull sets what says whether entries of a leader must be refused for now, as if
	// the inbox were full. It is asked for each append with entries.
	SetFull(full func() bool)
	// LeaderHeard is the highest term that an append or heartbeat of a peer has
	// named, by whom, and when the last one of that term came, whether Raft has
	// turned to it yet or not. Zero if none ever did.
	LeaderHeard() (term uint64, from raft.ServerID, at time.Time)
}

// GroupConfig is one replica: what it is, what it writes to and what it
// talks through.
type GroupConfig struct {
	Replica storage.Replica
	Store   Store
	// Snapshots holds metadata only; the state is the machine's. Its sink
	// expects no data of a snapshot taken here, its reader streams a view of
	// the machine to others, and a snapshot received is installed in the
	// machine when the sink is closed.
	Snapshots raft.SnapshotStore
	Transport Transport
	Machine   Machine
	// Bootstrap is the first configuration, the same on each of its members. It
	// is used only if the store is empty; a replica that joins later has none.
	Bootstrap []Member
	// Campaign makes the replica stand for election at once if it has just been
	// bootstrapped: set it on one of them.
	Campaign bool
	// Stalled is how long the oldest write of the store has been under way; may
	// be nil.
	Stalled func() time.Duration
}

const (
	// maxAppendEntries an append and a batch to the machine: with batches of up
	// to 256 KiB an entry, an append is at most about 16 MiB.
	maxAppendEntries = 64
	// Both channels are drained by goroutines that do nothing long.
	notifyBuffer      = 16
	observationBuffer = 16
)

// Group is one replica of a group.
type Group struct {
	host       *Host
	replica    storage.Replica
	member     Member
	self       raft.ServerID
	opened     time.Time
	transport  Transport
	stalledFor func() time.Duration
	raft       *raft.Raft // set before ready

	fsm     *fsm
	applied *appliedIndex
	// remembered read indexes, for bounded reads.
	remembered remembered
	matched    sync.Map // raft.ServerID -> match
	holds      holds
	unanswered unanswered
	proposer   *proposer
	recent     *recentLog
	backlog    atomic.Int64 // its part of Host.backlog
	learner    *learner

	ready    atomic.Bool
	stall    stall
	caughtUp atomic.Bool
	fellBack chan struct{} // it is not caught up any more
	proven   atomic.Pointer[lead]
	reachAt  atomic.Pointer[reachability]

	succession succession

	torn     time.Time // since when it stands and believes in a leader; the watchdog's
	unproven unproven  // the watchdog's

	leadMu   sync.Mutex
	expected *nonce                   // of the no-op that will prove leadership
	barred   map[raft.ServerID]uint64 // from handing over to, in that term

	notify       chan bool
	observations chan raft.Observation
	nudges       chan struct{}
	stuck        chan struct{} // an entry was not committed in time
	snapshots    chan struct{}

	ctx      context.Context // of the goroutines beside Raft
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	handed   sync.WaitGroup // those that wait for an answer of Raft's
	quiet    chan struct{}  // closed when Raft is about to be stopped
	raftDone chan struct{}  // closed once Raft has stopped
	stopped  chan struct{}  // closed at the end of Close

	mu      sync.Mutex
	sealed  bool          // nothing more is handed to Raft
	moved   chan struct{} // closed and replaced when leadership changes
	closing bool
	failure error
}

func newGroup(h *Host, c GroupConfig) *Group {
	g := &Group{
		host: h, replica: c.Replica, opened: time.Now(),
		member:    Member{Node: h.self, Generation: c.Replica.Generation},
		transport: c.Transport, stalledFor: c.Stalled,
		applied:      &appliedIndex{},
		notify:       make(chan bool, notifyBuffer),
		observations: make(chan raft.Observation, observationBuffer),
		nudges:       make(chan struct{}, 1),
		stuck:        make(chan struct{}, 1),
		snapshots:    make(chan struct{}, 1),
		fellBack:     make(chan struct{}, 1),
		quiet:        make(chan struct{}),
		raftDone:     make(chan struct{}),
		stopped:      make(chan struct{}),
		moved:        make(chan struct{}),
	}
	g.self = g.member.ServerID()
	g.proposer = &proposer{group: g}
	g.recent = &recentLog{budget: &h.recent} // over the store that start opens
	g.learner = newLearner(g)
	g.fsm = &fsm{machine: c.Machine, applied: g.applied,
		onNoop: g.noopApplied, onFailed: g.fail, onApplied: g.onApplied}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

func (g *Group) start(c GroupConfig) error {
	g.applied.advance(c.Machine.Applied())
	c.Transport.SetFull(g.full)
	fresh, err := g.bootstrap(c)
	if err != nil {
		return err
	}
	c.Transport.SetContent(contentCheck(c.Machine))
	claim, candidate, err := claimOf(c.Store, c.Snapshots)
	if err != nil {
		return err
	}
	c.Transport.Introduce(claim, candidate)
	checked := &checkedLog{LogStore: c.Store}
	g.recent.LogStore = checked
	g.raft, err = checked.open(func() (*raft.Raft, error) {
		return raft.NewRaft(g.raftConfig(), g.fsm, endingLog{observedLog{g.recent, g.learner.onStored, g.fail}, g}, endingStable{c.Store, g}, freshSnapshots{c.Snapshots, g}, patient{c.Transport, g})
	})
	if err != nil {
		return err
	}
	g.raft.RegisterObserver(raft.NewObserver(g.observations, false, func(o *raft.Observation) bool {
		switch data := o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		case raft.RequestVoteRequest:
			g.succession.candidacy(data.Term, time.Now())
		case raft.ResumedHeartbeatObservation:
			g.nudge() // a follower is back, and may lack entries
		}
		return false
	}))
	g.ready.Store(true)
	g.wg.Go(g.watchLeadership)
	g.wg.Go(g.watchLeader)
	g.wg.Go(g.catchUp)
	g.wg.Go(func() { g.learner.run(g.ctx) })
	g.wg.Go(func() { g.compact(g.ctx) })
	g.broadcast() // Raft may have known a leader before the observer was there
	if fresh && c.Campaign || g.alone() {
		g.Campaign()
	}
	return nil
}

// bootstrap writes the first configuration into an empty store.
func (g *Group) bootstrap(c GroupConfig) (bool, error) {
	if len(c.Bootstrap) == 0 {
		return false, nil
	}
	exists, err := raft.HasExistingState(c.Store, c.Store, c.Snapshots)
	if err != nil || exists {
		return false, err
	}
	configuration := configurationOf(c.Bootstrap)
	if b, ok := c.Store.(Bootstrapper); ok {
		return true, b.Bootstrap(configuration)
	}
	return true, raft.BootstrapCluster(g.raftConfig(), c.Store, c.Store, c.Snapshots, c.Transport, configuration)
}

func (g *Group) raftConfig() *raft.Config {
	t := g.host.timing
	c := raft.DefaultConfig()
	c.LocalID = g.self
	c.HeartbeatTimeout, c.ElectionTimeout = t.library(), t.library()
	c.LeaderLeaseTimeout, c.CommitTimeout = t.Lease, t.Commit
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true // appends of several entries
	c.ShutdownOnRemove = false
	// The machine is durable up to the snapshot before that counts as taken,
	// and skips what it has: nothing to restore.
	c.NoSnapshotRestoreOnStart = true
	c.SnapshotThreshold = math.MaxInt64 // compact.go decides when
	c.TrailingLogs = maxTrailingEntries
	c.NoLegacyTelemetry = true
	c.NotifyCh = g.notify
	c.LogLevel = "WARN"
	c.LogOutput = lineEvents{g.replica, g.host.emit}
	return c
}

// Replica is which replica this is.
func (g *Group) Replica() storage.Replica { return g.replica }

func (g *Group) configuration() raft.Configuration { return g.raft.GetConfiguration().Configuration() }

// Leads reports whether the replica leads its group, provenly so in its
// current term; a later term may have begun elsewhere.
func (g *Group) Leads() bool {
	lead := g.lead()
	return lead != nil && lead.term == g.raft.CurrentTerm() && g.raft.State() == raft.Leader
}

// Leader is the member that leads, as far as the replica knows.
func (g *Group) Leader() (Member, bool) {
	m := g.leader()
	return m, m != Member{}
}

func (g *Group) onApplied(uint64, uint64) {
	if g.lead() != nil {
		g.host.notices.mark(g)
	}
	if g.fsm.due() {
		signal(g.snapshots)
	}
	if g.backlog.Load() > 0 {
		g.full() // counts again
	}
}

// changed gives a channel that is closed at the next change of leadership.
// Take it before looking.
func (g *Group) changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.moved
}

func (g *Group) broadcast() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.moved)
	g.moved = make(chan struct{})
}

// Err is why the replica failed, or nil.
func (g *Group) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}

// unusable says why the replica serves nothing any more, or nil.
func (g *Group) unusable() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.failure != nil:
		return failedReplica(g.failure)
	case g.closing:
		return stopping()
	}
	return nil
}

// Fail stops the replica for good, as an error of its machine does: it has been
// found wrong. It serves nothing from then on. It hands leadership over if it leads,
// and then neither votes nor acknowledges; [Group.Close] waits for that. Err gives
// cause, unless the replica has failed before.
func (g *Group) Fail(cause error) { g.fail(cause) }

// fail stops the replica for good. It is called on Raft's goroutines: the rest
// happens beside it.
func (g *Group) fail(cause error) {
	g.mu.Lock()
	first := g.failure == nil
	if first {
		g.failure = cause
	}
	g.mu.Unlock()
	if !first {
		return
	}
	g.applied.close(failedReplica(cause))
	g.broadcast()
	g.host.emit(ReplicaFailed{Replica: g.replica, Err: cause})
	g.host.wg.Go(func() { _ = g.stop() }) // Close tells the error again
}

// Close hands leadership away if there is somebody to take it, answers what is
// under way, and stops the replica. It takes a few election timeouts at most,
// unless a write to the store hangs: Raft can not be stopped in the middle of
// one. Closing again waits for the first.
func (g *Group) Close() error {
	return g.stop()
}

func (g *Group) stop() error {
	g.mu.Lock()
	again := g.closing
	g.closing = true
	g.mu.Unlock()
	if again {
		<-g.stopped
		return nil
	}
	defer close(g.stopped)
	g.applied.close(stopping())
	g.proposer.close()
	g.broadcast()
	// A leader without a quorum gives up after its lease at the latest, which
	// answers everything; with one, entries commit.
	g.drain(2*g.host.timing.Election + 2*g.host.timing.Lease)
	g.bequeath()
	close(g.quiet)
	shutdown := g.raft.Shutdown()
	// Raft waits for its requests to peers before it closes the transport:
	// closing it now fails them at once.
	var err error
	if closer, ok := g.transport.(raft.WithClose); ok {
		err = closer.Close()
	}
	err = errors.Join(shutdown.Error(), err)
	close(g.raftDone)
	g.recent.close()
	g.noteBacklog(0)
	g.cancel()
	g.wg.Wait()
	g.host.remove(g)
	if err != nil {
		return fmt.Errorf("closing replica %v: %w", g.replica, err)
	}
	return nil
}
