package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// testGroup is the group that most tests use.
const testGroup storage.GroupID = 1

// cluster is a few nodes over a fabric. Node i is "n<i>".
type cluster struct {
	t       testing.TB
	fabric  *fabric
	nodes   []*testNode
	members []Member
	events  func(Event)
	timing  Timing
	// proposals bounds the writes on their way at each node, in bytes; 0: nothing does.
	proposals int64
	start     time.Time    // of the nodes' clocks
	asleep    atomic.Int64 // nanoseconds by which those are ahead of the test's time
}

// testNode is one node: what survives a restart (store, snapshots, machine),
// and what does not.
type testNode struct {
	cluster   *cluster
	id        partition.NodeID
	gen       uint32
	store     *hangingStore
	snapshots *mapSnapshots
	machine   *mapMachine
	transport *fabricTransport
	peers     *fabricNode
	host      *Host
	group     *Group
}

// hangingStore can be made to hang in StoreLogs, and to fail.
type hangingStore struct {
	*raft.InmemStore
	broken atomic.Bool // it takes nothing any more
	mu     sync.Mutex
	gate   chan struct{}
	since  time.Time
	fsync  atomic.Int64 // nanoseconds
}

func (s *hangingStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *hangingStore) StoreLogs(logs []*raft.Log) error {
	if d := s.fsync.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	s.mu.Lock()
	gate := s.gate
	s.since = time.Now()
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	s.mu.Lock()
	s.since = time.Time{}
	s.mu.Unlock()
	if s.broken.Load() {
		return errBroken
	}
	return s.InmemStore.StoreLogs(logs)
}

var errBroken = errors.New("the disk is broken")

func (s *hangingStore) SetUint64(key []byte, n uint64) error {
	if s.broken.Load() {
		return errBroken
	}
	return s.InmemStore.SetUint64(key, n)
}

func (s *hangingStore) hang() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	}
}

func (s *hangingStore) oldest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return 0
	}
	return time.Since(s.since)
}

// newCluster starts n voters; the test closes it.
func newCluster(t testing.TB, n int, options ...func(*cluster)) *cluster {
	c := &cluster{t: t, fabric: newFabric(), start: time.Now()}
	for i := range n {
		c.members = append(c.members, Member{Node: nodeName(i), Generation: 1})
	}
	for _, o := range options {
		o(c)
	}
	for i := range n {
		c.add(nodeName(i), 1).open(c.members)
	}
	return c
}

func (c *cluster) budget() *budget.Budget {
	if c.proposals == 0 {
		return nil
	}
	return budget.New("writes", budget.Limits{Bytes: c.proposals})
}

func nodeName(i int) partition.NodeID { return partition.NodeID(fmt.Sprintf("n%d", i)) }

func (c *cluster) add(id partition.NodeID, gen uint32) *testNode {
	n := &testNode{cluster: c, id: id, gen: gen, machine: newMapMachine(),
		store: &hangingStore{InmemStore: raft.NewInmemStore()}}
	n.snapshots = &mapSnapshots{node: n}
	c.nodes = append(c.nodes, n)
	return n
}

func (n *testNode) member() Member { return Member{Node: n.id, Generation: n.gen} }

func (n *testNode) open(bootstrap []Member) {
	n.cluster.t.Helper()
	n.peers = n.cluster.fabric.join(n.id)
	var err error
	n.host, err = NewHost(HostConfig{Self: n.id, Peers: n.peers, Timing: n.cluster.timing, Events: n.cluster.events, Elapsed: n.cluster.elapsed,
		Proposals: n.cluster.budget()})
	if err != nil {
		n.cluster.t.Fatal(err)
	}
	n.transport = n.peers.transport(n.member())
	n.group, err = n.host.Open(GroupConfig{
		Replica: storage.Replica{Group: testGroup, Generation: n.gen},
		Store:   n.store, Snapshots: n.snapshots, Transport: n.transport, Machine: n.machine,
		Bootstrap: bootstrap, Campaign: n.id == nodeName(0), Stalled: n.store.oldest,
	})
	if err != nil {
		n.cluster.t.Fatal(err)
	}
}

func (n *testNode) close() {
	n.cluster.t.Helper()
	if n.host == nil {
		return
	}
	if err := n.host.Close(); err != nil {
		n.cluster.t.Error(err)
	}
	n.cluster.fabric.leave(n.id)
	n.host, n.group = nil, nil
}

// kill stops the node without giving it a chance to say so to anybody.
func (n *testNode) kill() {
	n.cluster.fabric.leave(n.id)
	n.close()
}

func (c *cluster) close() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.close()
	}
	c.fabric.close()
	// The library does not wait for the request that tells an heir to stand, if
	// leadership ended before its answer; this fabric, unlike the transport, has
	// nothing that would end it.
	time.Sleep(rpcTimeout)
}

// elapsed is the clock of every node.
func (c *cluster) elapsed() time.Duration {
	return time.Since(c.start) + time.Duration(c.asleep.Load())
}

// eventually waits, in steps of virtual time.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, n := range c.nodes {
		if n.group != nil {
			c.t.Logf("%s: %+v", n.id, n.group.Status())
		}
	}
	c.t.Fatalf("never: %s", what)
}

// leader waits for one replica among those given, or all, that has proven to
// lead in the highest term.
func (c *cluster) leader(among ...*testNode) *testNode {
	c.t.Helper()
	if len(among) == 0 {
		among = c.nodes
	}
	var leader *testNode
	c.eventually("a leader", func() bool {
		for _, n := range among {
			if n.group != nil && n.group.Leads() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// caughtUp waits until no replica asks for a read index of its own accord.
func (c *cluster) caughtUp() {
	c.t.Helper()
	c.eventually("all have caught up", func() bool {
		for _, n := range c.nodes {
			if n.group != nil && !n.group.caughtUp.Load() {
				return false
			}
		}
		return true
	})
}

func (c *cluster) others(than *testNode) []*testNode {
	var others []*testNode
	for _, n := range c.nodes {
		if n != than && n.group != nil {
			others = append(others, n)
		}
	}
	return others
}

func (n *testNode) put(k, v string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	old, err := n.group.Propose(ctx, []byte(k+"="+v))
	if err != nil {
		return "", err
	}
	return old.(string), nil
}

func (n *testNode) mustPut(k, v string) {
	n.cluster.t.Helper()
	if _, err := n.put(k, v); err != nil {
		n.cluster.t.Fatalf("put %s=%s at %s: %v", k, v, n.id, err)
	}
}

// get is a linearizable read at this node.
func (n *testNode) get(k string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	index, err := n.group.ReadIndex(ctx)
	if err != nil {
		return "", err
	}
	if err := n.group.WaitApplied(ctx, index); err != nil {
		return "", err
	}
	return n.machine.get(k), nil
}

func (n *testNode) mustGet(k, want string) {
	n.cluster.t.Helper()
	got, err := n.get(k, 5*time.Second)
	if err != nil || got != want {
		n.cluster.t.Fatalf("get %s at %s: %q, %v; want %q", k, n.id, got, err, want)
	}
}

func asError(t testing.TB, err error) *Error {
	t.Helper()
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		t.Fatalf("not a *replication.Error: %v", err)
	}
	return e
}
