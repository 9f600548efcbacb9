package exchange

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// world is a cluster in one process, under virtual time.
type world struct {
	t      *testing.T
	net    *network
	wg     sync.WaitGroup
	stop   chan struct{}
	groups []*group
	hang   func(id partition.NodeID)

	mu      sync.Mutex
	nodes   map[partition.NodeID]*node
	removed map[partition.NodeID]bool
	events  []Event
}

// node is a process with its disk.
type node struct {
	w        *world
	id       partition.NodeID
	disk     *vfs.MemFS
	end      *end
	log      *storage.Log
	state    *storage.State
	clock    *hlc.Clock
	x        *Exchange
	replicas map[partition.ID]*replica
	limits   storage.TentativeLimits
	stop     chan struct{}
	wg       sync.WaitGroup
	full     atomic.Pointer[replication.Error] // why it has no room, or nil
}

type placement struct{ w *world }

func (p placement) Partitions() int { return len(p.w.groups) }
func (p placement) Replicas(id partition.ID) []partition.NodeID {
	return p.w.groups[id].replicas
}
func (p placement) Nodes() []partition.NodeID { return p.w.ids() }
func (p placement) ReplicationFactor() int    { return len(p.w.groups[0].replicas) }
func (p placement) Removed(id partition.NodeID) bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.removed[id]
}

// options are how a world begins.
type options struct {
	nodes      int
	partitions [][]partition.NodeID // replicas; one partition on n1, n2, n3 by default
	seed       uint64
	limits     storage.TentativeLimits
	leaderless bool // no leader before one is elected
	// hang is called before each sync of a node's log; nil for an ordinary disk.
	hang func(id partition.NodeID)
}

// inWorld runs body in a cluster under virtual time.
func inWorld(t *testing.T, o options, body func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: newNetwork(o.seed), stop: make(chan struct{}), nodes: map[partition.NodeID]*node{}, hang: o.hang}
		if o.partitions == nil {
			o.partitions = [][]partition.NodeID{{"n1", "n2", "n3"}}
		}
		for i, replicas := range o.partitions {
			g := &group{w: w, partition: partition.ID(i), replicas: replicas, grown: make(chan struct{}), promoted: map[storage.Dot]bool{}}
			w.groups = append(w.groups, g)
			if !o.leaderless {
				g.leader, g.term = replicas[0], 1
			}
		}
		for i := range max(o.nodes, 3) {
			id := partition.NodeID(fmt.Sprint("n", i+1))
			w.start(id, vfs.NewCrashableMem(), o.limits)
		}
		time.Sleep(time.Millisecond)
		w.wg.Go(w.tend)
		defer func() {
			close(w.stop)
			w.wg.Wait()
			for _, n := range w.up() {
				w.shut(n)
			}
			w.net.close()
		}()
		body(t, w)
	})
}

func (w *world) tend() {
	for {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-w.stop:
			return
		}
		for _, g := range w.groups {
			g.tend()
		}
	}
}

func (w *world) ids() []partition.NodeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.nodes))
}

// up are the nodes that run.
func (w *world) up() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	var up []*node
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		if n := w.nodes[id]; n.x != nil {
			up = append(up, n)
		}
	}
	return up
}

func (w *world) node(id partition.NodeID) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[id]
}

// start runs a node on a disk.
func (w *world) start(id partition.NodeID, disk *vfs.MemFS, limits storage.TentativeLimits) *node {
	w.t.Helper()
	n := &node{w: w, id: id, disk: disk, limits: limits, stop: make(chan struct{}), replicas: map[partition.ID]*replica{}}
	var err error
	fs := vfs.FS(disk)
	if w.hang != nil {
		fs = errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if isSync(op) {
				w.hang(id)
			}
			return nil
		}))
	}
	if n.log, err = storage.OpenLog(storage.LogOptions{FS: fs, Dir: "log", NodeID: id, MemTableBytes: 8 << 20, DiskSlowAfter: -1}); err != nil {
		w.t.Fatal(err)
	}
	n.log.LimitTentative(limits)
	if n.state, err = storage.OpenState(storage.StateOptions{FS: disk, Dir: "state", CacheBytes: 1 << 20, MemTableBytes: 8 << 20}); err != nil {
		w.t.Fatal(err)
	}
	n.clock = hlc.New(time.Now, 500*time.Millisecond)
	n.end = w.net.join(id)
	for _, g := range w.groups {
		if slices.Contains(g.replicas, id) {
			w.open(n, g)
		}
	}
	n.x, err = New(Config{
		Self: id, Log: n.log, Clock: n.clock, Peers: n.end,
		Ring: func() Placement { return placement{w} },
		Replica: func(p partition.ID) Replica {
			w.mu.Lock()
			defer w.mu.Unlock()
			if r := n.replicas[p]; r != nil {
				return r
			}
			return nil
		},
		Leader: func(p partition.ID) partition.NodeID {
			leader := w.groups[p].leads()
			if ago, ok := n.end.LastHeard(leader); leader == id || ok && ago < time.Second {
				return leader
			}
			return ""
		},
		Room: func(bool) error {
			if full := n.full.Load(); full != nil {
				return full
			}
			return nil
		},
		Events: func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.nodes[id] = n
	w.mu.Unlock()
	for _, r := range n.replicas {
		n.x.Recover(r.group.partition)
		n.wg.Go(func() { r.follow(n.stop) })
	}
	return n
}

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

func (w *world) open(n *node, g *group) *replica {
	state, err := n.state.Replica(storage.Replica{Group: storage.GroupOf(g.partition), Generation: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	r := &replica{group: g, node: n, state: state, applied: make(chan struct{}), results: map[uint64]storage.CommandResult{}}
	n.replicas[g.partition] = r
	return r
}

// shut stops a node in good order.
func (w *world) shut(n *node) {
	w.t.Helper()
	if w.net.runs(n.end) {
		w.net.leave(n.end)
	}
	close(n.stop)
	n.wg.Wait()
	w.mu.Lock()
	x := n.x
	n.x = nil
	w.mu.Unlock()
	if err := errors.Join(x.Close(), n.log.Close(), n.state.Close()); err != nil {
		w.t.Error(err)
	}
}

// crash is a power cut: what was not synced is lost. The disk is what is left.
// Nobody hears of what the process does after that.
func (w *world) crash(n *node) *vfs.MemFS {
	w.net.leave(n.end)
	disk := n.disk.CrashClone(vfs.CrashCloneCfg{})
	w.shut(n)
	return disk
}

func (w *world) restart(n *node) *node {
	return w.start(n.id, w.crash(n), n.limits)
}

// drop takes a node's replica away: it becomes a holder of hints.
func (n *node) drop(p partition.ID) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	delete(n.replicas, p)
}

func (n *node) tentative(p partition.ID) *storage.TentativeLog {
	log, err := n.x.Tentative(p)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return log
}

func (n *node) accept(w Write) (Accepted, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return n.x.Accept(ctx, w)
}

// mustAccept accepts a write of one key to partition 0.
func (n *node) mustAccept(key, value string, acks int) Accepted {
	n.w.t.Helper()
	a, err := n.accept(Write{Key: []byte(key), Value: []byte(value), Acks: acks})
	if err != nil {
		n.w.t.Fatalf("%s: %v", n.id, err)
	}
	return a
}

// put is a linearizable write through the leader.
func (w *world) put(p partition.ID, key, value string) storage.Version {
	w.t.Helper()
	v, err := w.tryPut(context.Background(), p, key, value)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) tryPut(ctx context.Context, p partition.ID, key, value string) (storage.Version, error) {
	n := w.node(w.groups[p].leads())
	if n == nil {
		return storage.Version{}, errNoLeader
	}
	command, err := storage.AppendCommand(nil, storage.Command{
		Kind: storage.CommandPut, Level: storage.LevelLinearizable, Timestamp: n.clock.Now(), Node: n.id,
		Key: []byte(key), Value: []byte(value),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	answer, err := n.replicas[p].Propose(ctx, command)
	if err != nil {
		return storage.Version{}, err
	}
	return answer.(storage.CommandResult).Version, nil
}

// propose commits a command at the leader.
func (w *world) propose(p partition.ID, command []byte) {
	w.t.Helper()
	if _, err := w.node(w.groups[p].leads()).replicas[p].Propose(context.Background(), command); err != nil {
		w.t.Fatal(err)
	}
}

// quiet waits until no node holds a tentative write, at most d.
func (w *world) quiet(d time.Duration) {
	w.t.Helper()
	began := time.Now()
	for {
		busy := ""
		for _, n := range w.up() {
			for p, b := range n.x.Backlog() {
				if b.Count > 0 {
					busy += fmt.Sprintf(" %s holds %d of partition %d", n.id, b.Count, p)
				}
			}
		}
		if busy == "" {
			return
		}
		if time.Since(began) > d {
			w.t.Fatalf("after %v:%s\n%+v", d, busy, w.events[len(w.events)-3:])
		}
		time.Sleep(time.Millisecond)
	}
}

// caughtUp waits until all replicas have applied all there is, and checks that
// they are equal.
func (w *world) caughtUp() {
	w.t.Helper()
	for _, g := range w.groups {
		var first string
		for _, n := range w.up() {
			r := n.replicas[g.partition]
			if r == nil {
				continue
			}
			g.mu.Lock()
			end := uint64(len(g.log))
			g.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := r.WaitApplied(ctx, end); err != nil {
				w.t.Errorf("%s has not applied %d of partition %d", n.id, end, g.partition)
			}
			cancel()
			if got := r.contents(); first == "" {
				first = got
			} else if got != first {
				w.t.Errorf("partition %d is not the same at %s:\n%q\n%q", g.partition, n.id, first, got)
			}
		}
	}
}

// contents is all of a replica's state, the ledger of promotions included.
func (r *replica) contents() string {
	view, err := r.state.View()
	if err != nil {
		r.node.w.t.Fatal(err)
	}
	defer view.Close()
	var b strings.Builder
	if _, err := view.WriteTo(&b); err != nil {
		r.node.w.t.Fatal(err)
	}
	return b.String()
}

func (n *node) value(p partition.ID, key string) string {
	v, found, err := n.replicas[p].state.Get([]byte(key))
	if err != nil {
		n.w.t.Fatal(err)
	}
	if !found || v.Tombstone {
		return ""
	}
	return string(v.Bytes)
}

func (w *world) fate(p partition.ID, d storage.Dot) storage.Fate {
	w.t.Helper()
	f, err := w.node(w.groups[p].leads()).replicas[p].state.Fate(d)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func count[E Event](w *world) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if _, ok := e.(E); ok {
			n++
		}
	}
	return n
}

func each[E Event](w *world, f func(E)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e, ok := e.(E); ok {
			f(e)
		}
	}
}

func reasonOf(err error) (replication.Reason, replication.Outcome) {
	var e *replication.Error
	if !errors.As(err, &e) {
		return 0, 0
	}
	return e.Reason, e.Outcome
}

func ids(n ...partition.NodeID) []partition.NodeID { return n }

// cleanCopy copies what is synced.
var cleanCopy = vfs.CrashCloneCfg{}
