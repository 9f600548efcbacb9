package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/capstan-kv/capstan/partition"
)

const (
	// forgetAfter is how long a failed member is shown and tried again: a node that
	// is away for a holiday week comes back by itself.
	forgetAfter = 8 * 24 * time.Hour
	// forgetLeftAfter is how long a member that left is shown: longer than any
	// gossip about it lives.
	forgetLeftAfter = 24 * time.Hour
	// reconnectInterval is how often one failed member is tried again.
	reconnectInterval = 5 * time.Second
	// pushPullInterval is how often the whole state is exchanged with one member.
	// It bounds how long a lost packet can keep a view wrong; small clusters can
	// afford it more often than memberlist's 30 s.
	pushPullInterval = 10 * time.Second
	// broadcastTimeout bounds the wait until others have been told of a new tag or
	// a leave. Gossip goes on after it.
	broadcastTimeout = 2 * time.Second
	// reclaimAfter is how long after its failure a node may come back under another
	// address.
	reclaimAfter = time.Second
	// serfQueue holds all that serf itself may still have queued (1,024 events) when
	// nobody takes it any more, so that Close leaves no goroutine of serf's waiting.
	serfQueue = 2048
	// refusedKept bounds the memory of refusals already told.
	refusedKept = 128
)

// ErrClosed says that the Membership was closed.
var ErrClosed = errors.New("membership is closed")

// Membership is a running member of the gossip. All methods are safe for
// concurrent use.
type Membership struct {
	config    Config
	serf      *serf.Serf
	transport *transport
	events    *events
	changes   chan struct{}
	settled   chan struct{}
	ctx       context.Context // of the tasks
	cancel    context.CancelFunc
	tasks     sync.WaitGroup // drain, join loop, rejoins, a leave
	listening sync.WaitGroup // the delivery of events, ended last
	hush      context.CancelFunc

	announced atomic.Bool // see announce

	// tagging is held by SetClusterID, and by Close. A channel, since a wait for
	// a mutex stops the virtual time that the holder may wait for.
	tagging chan struct{}

	mu        sync.Mutex
	clusterID string
	refused   map[Refused]bool
	leaving   chan struct{} // closed when the leave has gone out
	leaveErr  error
	closed    bool
}

// Open starts to listen and to look for the join addresses; it does not wait for
// them.
func Open(config Config) (*Membership, error) {
	if err := config.defaults(); err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	t, err := listen(config.Network, config.Bind)
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	if err := advertise(t, config); err != nil {
		return nil, errors.Join(fmt.Errorf("membership: %w", err), t.Shutdown())
	}
	m := &Membership{
		config: config, transport: t, events: newEvents(), clusterID: config.ClusterID,
		changes: make(chan struct{}, 1), settled: make(chan struct{}), refused: map[Refused]bool{}, tagging: make(chan struct{}, 1),
	}
	serfEvents := make(chan serf.Event, serfQueue)
	if m.serf, err = serf.Create(m.serfConfig(serfEvents)); err != nil {
		return nil, errors.Join(fmt.Errorf("membership: %w", err), t.Shutdown())
	}
	var eventCtx context.Context
	m.ctx, m.cancel = context.WithCancel(context.Background())
	eventCtx, m.hush = context.WithCancel(context.Background())
	m.listening.Go(func() { m.events.deliver(eventCtx, config.Events) })
	m.tasks.Go(func() { m.drain(m.ctx, serfEvents) })
	m.tasks.Go(func() { m.keepJoining(m.ctx) })
	return m, nil
}

func (m *Membership) serfConfig(serfEvents chan<- serf.Event) *serf.Config {
	logger := log.New(logWriter{m.events}, "", 0)
	list := memberlist.DefaultLANConfig()
	list.Transport = m.transport
	list.Label = m.config.Cluster
	list.Logger, list.LogOutput = logger, nil
	list.TCPTimeout = streamTimeout
	list.PushPullInterval = pushPullInterval
	list.DeadNodeReclaimTime = reclaimAfter
	list.EnableCompression = false // packets are small, and LZW is dear

	c := serf.DefaultConfig()
	c.MemberlistConfig = list
	c.Logger, c.LogOutput = logger, nil
	c.NodeName = string(m.config.NodeID)
	c.ValidateNodeNames = true
	c.Tags = m.config.tags()
	c.EventCh = serfEvents
	c.EnableNameConflictResolution = false
	c.DisableCoordinates = true
	c.ReconnectInterval = reconnectInterval
	c.ReconnectTimeout = m.config.forget
	c.TombstoneTimeout = forgetLeftAfter
	c.BroadcastTimeout = broadcastTimeout
	c.Merge = m
	return c
}

// NotifyMerge is serf's question whether to let members in. It is asked for the
// whole list of a join, and for each of it and each later news one by one: so a
// list is refused only when nobody in it is ours, and its foreigners one by one.
func (m *Membership) NotifyMerge(members []*serf.Member) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	for _, member := range members {
		theirs := member.Tags[tagCluster]
		if !foreign(m.clusterID, theirs) {
			if member.Name != string(m.config.NodeID) {
				return nil
			}
			continue
		}
		err = fmt.Errorf("%s belongs to cluster %s, this node to %s", member.Name, theirs, m.clusterID)
		refusal := Refused{partition.NodeID(member.Name), theirs}
		if !m.refused[refusal] && len(m.refused) < refusedKept {
			m.refused[refusal] = true
			m.events.send(refusal)
		}
	}
	return err
}

// Members are all that are known, this node included, sorted by id, without those
// of other clusters.
func (m *Membership) Members() []Member {
	ours := m.ClusterID()
	var members []Member
	for _, known := range m.serf.Members() {
		if member := memberOf(known); member.Name != "" && !foreign(ours, member.ClusterID) {
			members = append(members, member)
		}
	}
	sortMembers(members)
	return members
}

// Changes gets a value after Members has changed, one for many changes. It has
// one reader.
func (m *Membership) Changes() <-chan struct{} { return m.changes }

// Settled is closed once every join address has been tried.
func (m *Membership) Settled() <-chan struct{} { return m.settled }

// Addr is the gossip address that others are told.
func (m *Membership) Addr() string {
	return net.JoinHostPort(m.transport.ip.String(), strconv.Itoa(m.transport.port))
}

// ClusterID is what this node says it belongs to.
func (m *Membership) ClusterID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clusterID
}

// SetClusterID tells the others which cluster the node belongs to. It waits
// shortly until somebody has been told; gossip does the rest. Members of other
// clusters are no longer shown.
func (m *Membership) SetClusterID(id string) error {
	if len(id) > maxClusterIDBytes {
		return fmt.Errorf("membership: cluster id of %d bytes, %d are allowed", len(id), maxClusterIDBytes)
	}
	m.tagging <- struct{}{}
	defer func() { <-m.tagging }()
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return ErrClosed
	}
	m.clusterID = id
	m.mu.Unlock()
	next := m.config.tags()
	next[tagCluster] = id
	if err := m.serf.SetTags(next); err != nil {
		// The tag is set; only nobody has confirmed to have been sent it yet.
		m.events.send(Logged{"WARN", "cluster id: " + err.Error()})
	}
	m.changed()
	return nil
}

// Leave tells the others that this node goes on purpose; they show it as left.
// It returns when that has gone out, or ctx ends. Close is still to be called.
func (m *Membership) Leave(ctx context.Context) error {
	m.mu.Lock()
	switch {
	case m.closed:
		m.mu.Unlock()
		return ErrClosed
	case m.leaving == nil:
		done := make(chan struct{})
		m.leaving = done
		m.tasks.Go(func() {
			m.leaveErr = m.serf.Leave() // bounded by broadcastTimeout, twice, and a second
			close(done)
		})
	}
	done := m.leaving
	m.mu.Unlock()
	select {
	case <-done:
		return m.leaveErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops all gossip: to the others this node has failed, unless it has left.
// It waits for a leave under way. A second Close does nothing.
func (m *Membership) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	leaving := m.leaving
	m.mu.Unlock()
	if leaving != nil {
		<-leaving
	}
	m.tagging <- struct{}{}
	defer func() { <-m.tagging }()
	err := m.serf.Shutdown()
	m.cancel()
	m.tasks.Wait()
	m.hush()
	m.listening.Wait()
	return err
}

// drain takes serf's events as they come.
func (m *Membership) drain(ctx context.Context, serfEvents <-chan serf.Event) {
	for {
		select {
		case event := <-serfEvents:
			if e, ok := event.(serf.MemberEvent); ok {
				for _, member := range e.Members {
					m.events.send(MemberChanged{memberOf(member)})
				}
				m.changed()
			}
		case <-ctx.Done():
			return
		}
	}
}

func (m *Membership) changed() {
	select {
	case m.changes <- struct{}{}:
	default: // one is waiting
	}
}
