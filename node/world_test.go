package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/memnet"
)

// world is a few machines on one in-memory network, all in one synctest
// bubble: no sockets, no files, and nobody waits for a real clock.
type world struct {
	t       *testing.T
	net     *memnet.Network
	rng     *mathrand.Rand
	seed    uint64
	expect  int
	options []func(*Config)
	journal *syncBuffer

	mu       sync.Mutex
	machines []*machine
	zombies  sync.WaitGroup // processes whose power was cut, ending unheard
}

// machine is a computer: it has an address and a disk, and may run a process.
type machine struct {
	world *world
	name  string
	host  string

	mu      sync.Mutex
	disk    *vfs.MemFS
	process *process // once open
	last    *process // also while it opens
}

// process is one start of a node.
type process struct {
	*Node
	machine *machine
	dead    atomic.Bool // its power was cut: whatever it still says was never heard
}

// seeds is how many random runs a test makes: a few, or CAPSTAN_SEEDS.
func seeds(few int) int {
	if n, err := strconv.Atoi(os.Getenv("CAPSTAN_SEEDS")); err == nil && n > 0 {
		return n
	}
	return few
}

// firstSeed lets one failed run be tried again alone, with CAPSTAN_SEEDS=1.
func firstSeed() uint64 {
	n, _ := strconv.ParseUint(os.Getenv("CAPSTAN_FIRST_SEED"), 10, 64)
	return n
}

// forSeeds runs a test of random schedules in a bubble each.
func forSeeds(t *testing.T, few int, test func(t *testing.T, seed uint64)) {
	for i := range seeds(few) {
		seed := firstSeed() + uint64(i)
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, seed) })
		})
	}
}

// newWorld makes n machines, n1 at 10.0.0.1 and so on, all switched off. The
// network takes 0.2 ms each way.
func newWorld(t *testing.T, n int, seed uint64, options ...func(*Config)) *world {
	w := &world{
		t: t, net: memnet.NewSeeded(seed + 1), rng: mathrand.New(mathrand.NewPCG(seed, 7)), seed: seed,
		expect: n, options: options, journal: &syncBuffer{},
	}
	w.net.SetConditionsEverywhere(memnet.Conditions{Latency: 200 * time.Microsecond, Jitter: 100 * time.Microsecond})
	for range n {
		w.addMachine()
	}
	return w
}

func (w *world) addMachine() *machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.machines) + 1
	m := &machine{world: w, name: fmt.Sprint("n", i), host: fmt.Sprint("10.0.0.", i), disk: vfs.NewCrashableMem()}
	w.machines = append(w.machines, m)
	return m
}

// gossipTail is how long memberlist's last probes and pings outlive it: its
// longest probe interval. Virtual time stands still once a test has returned,
// so it has to pass before; what is left after it is a leak, and synctest says so.
const gossipTail = 15 * time.Second

// close stops everything, and tells what the nodes logged if the test failed.
func (w *world) close() {
	w.net.Heal()
	w.stopAll()
	w.zombies.Wait()
	time.Sleep(gossipTail)
	if w.t.Failed() && os.Getenv("CAPSTAN_TEST_LOG") != "" {
		w.t.Logf("seed %d\n%s", w.seed, w.journal.String())
	}
}

func (w *world) stopAll() {
	var stopping sync.WaitGroup
	for _, m := range w.machines {
		stopping.Go(m.stop)
	}
	stopping.Wait()
}

func (w *world) startAll() {
	for _, m := range w.machines {
		m.start()
	}
}

// formed starts all machines and waits for them to serve.
func (w *world) formed() *world {
	w.t.Helper()
	w.startAll()
	w.awaitReady(w.machines...)
	return w
}

// config is how the machine's node is started.
func (m *machine) config(p *processNetwork) Config {
	c := Config{
		Name: m.name, DataDir: "data", BootstrapExpect: m.world.expect, Partitions: 4,
		Listen: m.host + ":7820", ListenPeer: m.host + ":7821", ListenGossip: m.host + ":7822",
		Elapsed: func() time.Duration { return time.Duration(time.Now().UnixNano()) }, // as time goes in the bubble
		FS:      m.disk, Network: p, Logger: slog.New(slog.NewTextHandler(m.world.journal, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.String("at", a.Value.Time().Format("05.000000"))
				}
				return a
			},
		})).With("on", m.name),
	}
	for i := 1; i <= len(m.world.machines); i++ {
		c.Join = append(c.Join, fmt.Sprintf("10.0.0.%d", i))
	}
	for _, o := range m.world.options {
		o(&c)
	}
	return c
}

// start opens the node, which must work.
func (m *machine) start(options ...func(*Config)) *process {
	m.world.t.Helper()
	p, err := m.tryStart(options...)
	if err != nil {
		m.world.t.Fatalf("start of %s: %v", m.name, err)
	}
	return p
}

// startRegistered opens the node and returns the moment after the cluster has
// registered the start.
func (m *machine) startRegistered(options ...func(*Config)) *process {
	m.world.t.Helper()
	p := m.start(options...)
	select {
	case <-p.gate.opened:
	case <-p.Done():
		m.world.t.Fatalf("%s ended: %v", m.name, p.Err())
	case <-time.After(time.Minute):
		m.world.t.Fatalf("the start of %s was not registered", m.name)
	}
	return p
}

func (m *machine) tryStart(options ...func(*Config)) (*process, error) {
	p := &process{machine: m}
	m.mu.Lock()
	m.last = p
	m.mu.Unlock()
	config := m.config(&processNetwork{host: m.world.net.Host(m.host), dead: &p.dead})
	for _, o := range options {
		o(&config)
	}
	var err error
	if p.Node, err = Open(context.Background(), config); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.process = p
	m.mu.Unlock()
	return p, nil
}

// running is the machine's process, or nil.
func (m *machine) running() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

// stop is a graceful end.
func (m *machine) stop() {
	m.mu.Lock()
	p := m.process
	m.process = nil
	m.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.Close(); err != nil {
		m.world.t.Errorf("close of %s: %v", m.name, err)
	}
}

// crash cuts the machine's power: nothing more leaves it, and of what it did
// not sync its disk keeps keepPercent, by chance. The process itself cannot be
// stopped between two instructions; it goes on with a disk and a network of
// which nobody hears again.
func (m *machine) crash(keepPercent int) {
	m.mu.Lock()
	p := m.process
	m.process = nil
	if p != nil {
		p.dead.Store(true)
		m.world.net.Crash(m.host)
	}
	m.disk = m.world.image(m.disk, keepPercent)
	m.mu.Unlock()
	if p != nil {
		m.world.zombies.Go(func() { _ = p.Close() })
	}
}

// image is what a power cut leaves of a disk.
func (w *world) image(disk *vfs.MemFS, keepPercent int) *vfs.MemFS {
	w.mu.Lock()
	defer w.mu.Unlock()
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keepPercent, RNG: mathrand.New(mathrand.NewPCG(w.rng.Uint64(), 1))})
}

// random is a number below n. Safe for concurrent use.
func (w *world) random(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

func (w *world) randomTime(d time.Duration) time.Duration { return time.Duration(w.random(int(d))) }

// wipe gives the machine an empty disk.
func (m *machine) wipe() { m.disk = vfs.NewCrashableMem() }

// awaitReady waits until the machines say that they serve linearizably.
func (w *world) awaitReady(machines ...*machine) {
	w.t.Helper()
	const patience = time.Minute
	for _, m := range machines {
		w.eventually(patience, m.name+" is ready", func() error {
			p := m.running()
			if p == nil {
				return errors.New("not running")
			}
			return health{p.Node}.Ready(context.Background(), capstanv1.Consistency_CONSISTENCY_LINEARIZABLE)
		})
	}
}

// eventually polls in virtual time.
func (w *world) eventually(patience time.Duration, what string, check func() error) {
	w.t.Helper()
	began := time.Now()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			w.t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// machineOf is the machine that runs the node of that id, or nil.
func (w *world) machineOf(id partition.NodeID) *machine {
	for _, m := range w.machines {
		if p := m.running(); p != nil && p.id == id {
			return m
		}
	}
	return nil
}

// leaderOf waits for a proven leader of the partition among the machines that
// can be heard, and returns it.
func (w *world) leaderOf(p partition.ID, among ...*machine) *machine {
	w.t.Helper()
	if len(among) == 0 {
		among = w.machines
	}
	var leader *machine
	w.eventually(time.Minute, fmt.Sprintf("partition %d has a leader", p), func() error {
		var best uint64
		leader = nil
		for _, m := range among {
			process := m.running()
			if process == nil {
				continue
			}
			here := process.replicas.replica(p)
			if here == nil || !here.group.Leads() {
				continue
			}
			if term := here.group.Status().Term; term > best {
				best, leader = term, m
			}
		}
		if leader == nil {
			return errors.New("none")
		}
		return nil
	})
	return leader
}

// others are all machines but these.
func (w *world) others(not ...*machine) []*machine {
	var out []*machine
next:
	for _, m := range w.machines {
		for _, n := range not {
			if m == n {
				continue next
			}
		}
		out = append(out, m)
	}
	return out
}

// keyIn is a key of that partition, the i-th.
func keyIn(p partition.ID, count, i int) string {
	for n := 0; ; n++ {
		key := fmt.Sprintf("{t%d}k%d", n, i)
		if partition.Of([]byte(key), count) == p {
			return key
		}
	}
}

// processNetwork is a host's network as one process has it: with the process's
// end it ends too.
type processNetwork struct {
	host *memnet.Host
	dead *atomic.Bool
}

var errPowerOff = errors.New("the power is off")

func (n *processNetwork) IP() net.IP { return n.host.IP() }

func (n *processNetwork) Listen(addr string) (net.Listener, error) {
	if n.dead.Load() {
		return nil, errPowerOff
	}
	return n.host.Listen(addr)
}

func (n *processNetwork) ListenPacket(addr string) (net.PacketConn, error) {
	if n.dead.Load() {
		return nil, errPowerOff
	}
	return n.host.ListenPacket(addr)
}

func (n *processNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if n.dead.Load() {
		return nil, errPowerOff
	}
	conn, err := n.host.Dial(ctx, addr)
	if err == nil && n.dead.Load() {
		_ = conn.Close()
		return nil, errPowerOff
	}
	return conn, err
}

// syncBuffer keeps the end of what was logged.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const keptLog = 1 << 20

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() > keptLog {
		b.buf.Next(keptLog / 2)
	}
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// What became of an operation, as a client may tell.
type fate uint8

const (
	done    fate = iota
	refused      // definitely not applied
	unknown
)

// requestTime is the deadline of a client that names none.
const requestTime = 5 * time.Second

// fateOf judges an error as a client has to.
func (p *process) fateOf(err error) fate {
	if p.dead.Load() {
		return unknown // nobody heard the answer
	}
	var e *replication.Error
	switch {
	case err == nil:
		return done
	case errors.As(err, &e) && e.Outcome == replication.NotApplied:
		return refused
	}
	return unknown
}

// put writes through the node of m.
func (m *machine) put(key, value string) (fate, error) { return m.putWithin(requestTime, key, value) }

func (m *machine) putWithin(d time.Duration, key, value string) (fate, error) {
	p := m.running()
	if p == nil {
		return refused, errPowerOff
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, err := p.router.Put(ctx, &capstanv1.PutRequest{Key: []byte(key), Value: []byte(value)})
	return p.fateOf(err), err
}

// get reads through the node of m; an absent key is "".
func (m *machine) get(key string) (string, fate, error) { return m.getWithin(requestTime, key) }

func (m *machine) getWithin(d time.Duration, key string) (string, fate, error) {
	p := m.running()
	if p == nil {
		return "", refused, errPowerOff
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	resp, err := p.router.Get(ctx, &capstanv1.GetRequest{Key: []byte(key)})
	return string(resp.GetValue()), p.fateOf(err), err
}

func (m *machine) mustPut(key, value string) {
	m.world.t.Helper()
	if _, err := m.put(key, value); err != nil {
		m.world.t.Fatalf("put %s=%s at %s: %v", key, value, m.name, err)
	}
}

func (m *machine) mustGet(key, want string) {
	m.world.t.Helper()
	if got, _, err := m.get(key); err != nil || got != want {
		m.world.t.Fatalf("get %s at %s: %q, %v; want %q", key, m.name, got, err, want)
	}
}

// records are all that a machine's replica of a partition has applied,
// versions and tombstones included, in key order.
func (m *machine) records(p partition.ID) (applied uint64, all []byte, err error) {
	here := m.running().replicas.replica(p)
	if here == nil {
		return 0, nil, errors.New("no replica")
	}
	view, err := here.state.View()
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	applied, _ = view.Applied()
	var stream bytes.Buffer
	_, err = view.WriteTo(&stream)
	return applied, stream.Bytes(), err
}

// compareReplicas waits until the replicas of every partition on the machines
// hold the same, byte for byte.
func (w *world) compareReplicas(machines ...*machine) {
	w.t.Helper()
	for p := range machines[0].running().ring().Partitions {
		w.eventually(time.Minute, fmt.Sprintf("replicas of partition %d are equal", p), func() error {
			index, want, err := machines[0].records(partition.ID(p))
			if err != nil {
				return err
			}
			for _, m := range machines[1:] {
				i, got, err := m.records(partition.ID(p))
				switch {
				case err != nil:
					return err
				case i != index:
					return fmt.Errorf("%s has applied %d, %s %d", machines[0].name, index, m.name, i)
				case !bytes.Equal(got, want):
					w.t.Fatalf("partition %d: %s and %s have both applied entry %d and hold different records", p, machines[0].name, m.name, index)
				}
			}
			return nil
		})
	}
}
