package reports

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// world is some members in one bubble, with one or more partitions.
type world struct {
	t     *testing.T
	ring  atomic.Pointer[control.State]
	mu    sync.Mutex
	nodes map[partition.NodeID]*member
	calls int // that were made
	log   []Event
}

// member is one process and its disk.
type member struct {
	w     *world
	id    partition.NodeID
	start uint64
	ring  *control.State // what it knows of the ring; nil: the newest
	up    bool
	// diskFailed makes saving what was heard of fail.
	diskFailed bool

	reporter *Reporter
	handler  func(context.Context, partition.NodeID, []byte) ([]byte, error)
	stop     func()

	tentative map[partition.ID]*tentative
	replicas  map[partition.ID]*replicaState
}

// tentative is a tentative log: its methods lock the world.
type tentative struct {
	w           *world
	heard, base uint64 // base: of the one write that is held; 0: none
	saved       uint64 // of heard, what a crash leaves
	covers      bool
	node        partition.NodeID
	failing     bool
}

// partitionState is what a partition's replicas agree on.
type replicaState struct {
	w                       *world
	of                      *member
	generation              uint32
	leads                   bool
	applied, durable, floor uint64
	tombstones              []uint64
	forfeited               []partition.NodeID
	failing                 bool
	raises                  int
}

func (l *tentative) Heard() uint64 { l.w.mu.Lock(); defer l.w.mu.Unlock(); return l.heard }
func (l *tentative) Saved() (uint64, bool) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.saved, l.covers
}

func (l *tentative) Hear(index uint64) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.heard = max(l.heard, index)
}

func (l *tentative) UndecidedBase() (uint64, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.failing {
		return 0, errors.New("disk full")
	}
	if l.base > 0 {
		return min(l.base, l.heard), nil
	}
	return l.heard, nil
}

func (l *tentative) Held(in func(storage.Dot) bool) []storage.Dot {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.base > 0 && in(storage.Dot{Node: l.node, Incarnation: 1, Sequence: 1}) {
		return []storage.Dot{{Node: l.node}}
	}
	return nil
}

func (r *replicaState) lock() func()       { r.w.mu.Lock(); return r.w.mu.Unlock }
func (r *replicaState) Generation() uint32 { defer r.lock()(); return r.generation }
func (r *replicaState) Leads() bool        { defer r.lock()(); return r.leads }
func (r *replicaState) Applied() uint64    { defer r.lock()(); return r.applied }
func (r *replicaState) Durable() uint64    { defer r.lock()(); return r.durable }
func (r *replicaState) Floor() uint64      { defer r.lock()(); return r.floor }
func (r *replicaState) Forfeited(n partition.NodeID) bool {
	defer r.lock()()
	return slices.Contains(r.forfeited, n)
}

func (r *replicaState) Collectable(floor uint64) bool {
	defer r.lock()()
	return len(r.tombstones) > 0 && r.tombstones[0] <= floor
}

// RaiseFloor collects two tombstones a command.
func (r *replicaState) RaiseFloor(_ context.Context, floor uint64) error {
	defer r.lock()()
	if r.failing {
		return errors.New("no quorum")
	}
	r.raises++
	r.applied++
	r.floor = max(r.floor, floor)
	for i := 0; i < 2 && len(r.tombstones) > 0 && r.tombstones[0] <= r.floor; i++ {
		r.tombstones = r.tombstones[1:]
	}
	return nil
}

func (r *replicaState) Forfeit(_ context.Context, node partition.NodeID) error {
	defer r.lock()()
	if r.failing {
		return errors.New("no quorum")
	}
	r.applied++
	r.forfeited = append(r.forfeited, node)
	return nil
}

// Call and Handle make a member its own Peers.
func (m *member) Call(ctx context.Context, to partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
	time.Sleep(time.Millisecond)
	m.w.mu.Lock()
	m.w.calls++
	other := m.w.nodes[to]
	handler := other.handler
	reached := kind == Kind && m.up && other.up && handler != nil
	m.w.mu.Unlock()
	if !reached {
		return nil, errors.New("unreachable")
	}
	return handler(ctx, m.id, payload)
}

func (m *member) Handle(_ uint8, fn func(context.Context, partition.NodeID, []byte) ([]byte, error)) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.handler = fn
}

// newWorld places two partitions on the first three of the members; the first
// leads both.
func newWorld(t *testing.T, names ...partition.NodeID) *world {
	w := &world{t: t, nodes: map[partition.NodeID]*member{}}
	ring := ringOf(names...)
	for p := range 2 {
		var part control.Partition
		for i, name := range names {
			if w.nodes[name] == nil {
				w.nodes[name] = &member{w: w, id: name, tentative: map[partition.ID]*tentative{}, replicas: map[partition.ID]*replicaState{}}
			}
			m := w.nodes[name]
			m.tentative[partition.ID(p)] = &tentative{w: w}
			if i < 3 {
				part.Replicas = append(part.Replicas, control.Replica{Node: name, Generation: 1, Voter: true})
				m.replicas[partition.ID(p)] = &replicaState{w: w, of: m, generation: 1, leads: i == 0}
			}
		}
		ring.Partitions = append(ring.Partitions, part)
	}
	w.ring.Store(ring)
	for _, name := range names {
		w.nodes[name].begin()
	}
	return w
}

func (m *member) begin() {
	m.start++
	m.w.do(func() { m.up = true })
	var err error
	m.reporter, err = New(Config{
		Self: m.id, Start: func() uint64 { return m.start }, Peers: m,
		Ring: func() *control.State {
			m.w.mu.Lock()
			defer m.w.mu.Unlock()
			if m.ring != nil {
				return m.ring
			}
			return m.w.ring.Load()
		},
		Alive: func() map[partition.NodeID]bool {
			m.w.mu.Lock()
			defer m.w.mu.Unlock()
			alive := map[partition.NodeID]bool{}
			for id, other := range m.w.nodes {
				alive[id] = other.up
			}
			return alive
		},
		Tentative: func(p partition.ID) (Tentative, error) { return m.tentative[p], nil },
		SaveHeard: m.saveHeard,
		Replica: func(p partition.ID) Replica {
			if r := m.replicas[p]; r != nil {
				return r
			}
			return nil
		},
		Events: func(e Event) {
			m.w.mu.Lock()
			defer m.w.mu.Unlock()
			m.w.log = append(m.w.log, e)
		},
	})
	if err != nil {
		m.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.reporter.Run(ctx)
	}()
	m.stop = func() { cancel(); <-ended }
}

func (m *member) saveHeard(covers bool) error {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if m.diskFailed {
		return errors.New("disk failed")
	}
	for _, l := range m.tentative {
		l.saved, l.covers = l.heard, l.covers || covers
	}
	return nil
}

// crash ends the process: what was not saved is forgotten.
func (m *member) crash() {
	m.end()
	m.w.do(func() {
		for _, l := range m.tentative {
			l.heard = l.saved
		}
	})
}

func (m *member) end() {
	m.w.do(func() { m.up = false })
	m.stop()
	m.stop = func() {}
}

func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) close() {
	for _, m := range w.nodes {
		m.stop()
	}
}

// commits has the replicas of partition 0 apply up to index, with a tombstone there.
func (w *world) commits(index uint64, tombstone bool) {
	w.do(func() {
		for _, m := range w.nodes {
			if r := m.replicas[0]; r != nil && m.up {
				r.applied = max(r.applied, index)
				if tombstone && r.leads {
					r.tombstones = append(r.tombstones, index)
				}
			}
		}
	})
}

func (w *world) count(of func(Event) bool) (n int) {
	w.do(func() {
		for _, e := range w.log {
			if of(e) {
				n++
			}
		}
	})
	return n
}

// idles sees to it that nobody says anything.
func (w *world) idles(d time.Duration) {
	w.t.Helper()
	var before, after int
	w.do(func() { before = w.calls })
	time.Sleep(d)
	w.do(func() { after = w.calls })
	if before != after {
		w.t.Errorf("%d messages in %v of peace", after-before, d)
	}
}

func (w *world) removes(name partition.NodeID) {
	ring := *w.ring.Load()
	ring.Nodes = slices.Clone(ring.Nodes)
	ring.Epoch++
	for i := range ring.Nodes {
		if ring.Nodes[i].ID == name {
			ring.Nodes[i].State, ring.Nodes[i].RemovedEpoch = control.Left, ring.Epoch
		}
	}
	w.ring.Store(&ring)
}

func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c", "d")
		defer w.close()
		test(t, w)
	})
}

func TestEverybodyHears(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.commits(100, false)
		w.do(func() { w.nodes["d"].tentative[1].heard = 7 })
		heard := func(p partition.ID, want uint64) {
			t.Helper()
			time.Sleep(3 * TellEvery) // who has started again tells, and is told then
			for id, m := range w.nodes {
				if got := m.tentative[p].Heard(); m.up && got != want {
					t.Errorf("%s has heard of %d of partition %d, want %d", id, got, p, want)
				}
			}
		}
		heard(0, 100)
		heard(1, 7)

		// Nothing changes, nothing is said.
		w.idles(time.Hour)

		// One that was away, or has started again, is told what it missed.
		w.nodes["d"].end()
		w.commits(200, false)
		time.Sleep(time.Minute)
		w.nodes["d"].begin()
		heard(0, 200)
		d := w.nodes["d"]
		time.Sleep(2 * TellEvery)
		w.idles(time.Minute)
		d.end()
		w.do(func() { *d.tentative[0] = tentative{w: w} }) // it had not made it durable
		d.begin()
		heard(0, 200)

		for _, durable := range []uint64{150, 160} { // what was found before is not kept
			w.do(func() {
				for _, name := range []partition.NodeID{"a", "b", "c"} {
					w.nodes[name].replicas[0].durable = durable
				}
			})
			time.Sleep(2 * TellEvery)
			for id, m := range w.nodes {
				if got := m.reporter.AppliedEverywhere(0); got != durable {
					t.Errorf("%s knows of %d that all have applied, not %d", id, got, durable)
				}
			}
		}
	})
}

func TestTheFloorIsRaised(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.nodes["a"].replicas[0]
		for i := range uint64(5) {
			w.commits(100+i, true)
		}
		time.Sleep(2 * PollEvery)
		w.do(func() {
			if a.floor < 104 || len(a.tombstones) > 0 || a.raises != 3 {
				t.Errorf("floor %d, tombstones %v, after %d commands", a.floor, a.tombstones, a.raises)
			}
		})
		if n := w.count(func(e Event) bool { return e == any(FloorRaised{0, 104}) }); n != 1 {
			t.Errorf("told %d times: %v", n, w.log)
		}
		time.Sleep(2 * TellEvery)
		w.idles(time.Hour)

		// An undecided write anywhere holds it back, and nobody raises it beyond.
		w.do(func() { l := w.nodes["d"].tentative[0]; l.base, l.node = 103, "d" })
		w.commits(110, true)
		time.Sleep(5 * time.Minute)
		if a.Floor() >= 110 {
			t.Errorf("floor %d, and a write with base 103 is undecided", a.Floor())
		}
		if held := w.nodes["a"].reporter.HeldBack(); len(held) != 1 || held[0].Node != "d" || held[0].Partitions != 1 || held[0].Since < time.Minute {
			t.Errorf("held back by %+v", held)
		}
		if n := w.count(func(e Event) bool { h, ok := e.(HeldBack); return ok && h.Node == "d" }); n != 1 {
			t.Errorf("told %d times", n)
		}
		w.do(func() { w.nodes["d"].tentative[0].base = 0 })
		time.Sleep(2 * PollEvery)
		if a.Floor() < 110 || len(a.tombstones) > 0 {
			t.Errorf("floor %d, tombstones %v, once it is decided", a.Floor(), a.tombstones)
		}
		if held := w.nodes["a"].reporter.HeldBack(); len(held) > 0 {
			t.Errorf("held back by %+v", held)
		}
	})
}

// What members tell is durable: whatever of it others act upon, a crash does not
// take it back.
func TestOnlyWhatIsDurableIsTold(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		d := w.nodes["d"]
		durable := func(index uint64) {
			w.commits(index, false)
			w.do(func() {
				for _, name := range []partition.NodeID{"a", "b", "c"} {
					w.nodes[name].replicas[0].durable = index
				}
			})
		}
		// d has no replica: it has heard of what the others tell.
		durable(100)
		time.Sleep(4 * TellEvery)
		if got := w.nodes["a"].reporter.AppliedEverywhere(0); got != 100 {
			t.Fatalf("a knows of %d", got)
		}
		w.do(func() { d.diskFailed = true })
		durable(200)
		time.Sleep(time.Minute)
		if got := d.tentative[0].Heard(); got != 200 {
			t.Fatalf("d has heard of %d", got)
		}
		known := w.nodes["a"].reporter.AppliedEverywhere(0)
		d.crash()
		if got := d.tentative[0].Heard(); got < known || known < 100 {
			t.Errorf("all have heard of %d, a was told, and d comes back with %d", known, got)
		}
	})
}

// A member that joins covers what tokens leave out only once all others know of it:
// until then they drop indexes without it.
func TestAJoinerCoversWhatItHasHeardFromAll(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := w.ring.Load()
		commit := func(index uint64) {
			w.commits(index, false)
			w.do(func() {
				for _, name := range []partition.NodeID{"a", "b", "c"} {
					w.nodes[name].replicas[0].durable = index
				}
			})
			time.Sleep(5 * TellEvery)
		}
		commit(100)
		// b knows of e last, and drops meanwhile what e has not heard of.
		w.do(func() { w.nodes["b"].ring = before })
		now := *before
		now.Nodes = append(slices.Clone(before.Nodes), control.Node{ID: "e", State: control.Alive})
		now.Epoch++
		w.ring.Store(&now)
		e := &member{w: w, id: "e", tentative: map[partition.ID]*tentative{0: {w: w}, 1: {w: w}}, replicas: map[partition.ID]*replicaState{}}
		w.do(func() { w.nodes["e"] = e })
		e.begin()
		commit(150)
		w.do(func() { e.up = false }) // it is cut off
		commit(200)
		left := w.nodes["b"].reporter.AppliedEverywhere(0)
		index, covers := e.tentative[0].Saved()
		if left <= index || covers {
			t.Fatalf("b leaves out %d, e has heard of %d, and covers that: %v", left, index, covers)
		}
		if got := w.nodes["a"].reporter.AppliedEverywhere(0); got > index {
			t.Errorf("a, who knows of e, leaves out %d, and e has heard of %d", got, index)
		}
		w.do(func() { e.up = true })
		commit(210)
		if _, covers := e.tentative[0].Saved(); covers {
			t.Fatal("e covers what is left out before b knows of it")
		}
		w.do(func() { w.nodes["b"].ring = nil })
		time.Sleep(5 * TellEvery)
		if index, covers := e.tentative[0].Saved(); !covers || index < left {
			t.Errorf("e has heard of %d, and covers what is left out: %v", index, covers)
		}
		// A ring in which a member does not find itself is too old to go by.
		w.do(func() { e.ring = before })
		if got := e.reporter.AppliedEverywhere(0); got > 0 {
			t.Errorf("e leaves out %d by a ring without itself", got)
		}
	})
}

func TestWhatHoldsTheFloorBack(t *testing.T) {
	for name, c := range map[string]struct {
		trouble, mend func(w *world)
		failed        bool
		by            partition.NodeID
	}{
		"a member is down": {func(w *world) { w.nodes["d"].end() }, func(w *world) { w.nodes["d"].begin() }, false, "d"},
		"a member can promise nothing": {func(w *world) { w.do(func() { w.nodes["c"].tentative[0].failing = true }) },
			func(w *world) { w.do(func() { w.nodes["c"].tentative[0].failing = false }) }, false, "c"},
		"the leader has no quorum": {func(w *world) { w.do(func() { w.nodes["a"].replicas[0].failing = true }) },
			func(w *world) { w.do(func() { w.nodes["a"].replicas[0].failing = false }) }, true, ""},
		"a member knows less of the ring": {func(w *world) {
			w.do(func() { w.nodes["b"].ring = w.ring.Load() })
			w.nodes["d"].end()
			w.removes("d")
		}, func(w *world) { w.do(func() { w.nodes["b"].ring = nil }) }, false, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.nodes["a"].replicas[0]
				c.trouble(w)
				w.commits(100, true)
				time.Sleep(2 * time.Hour)
				if a.Floor() > 0 {
					t.Errorf("floor %d", a.Floor())
				}
				held := w.nodes["a"].reporter.HeldBack()
				if c.by != "" && (len(held) != 1 || held[0].Node != c.by) {
					t.Errorf("held back by %+v", held)
				}
				if n := w.count(func(e Event) bool { h, ok := e.(HeldBack); return ok && h.Node == c.by }); c.by != "" && (n < 2 || n > 3) {
					t.Errorf("told %d times in two hours", n)
				}
				if n := w.count(func(e Event) bool { _, ok := e.(Failed); return ok }); c.failed != (n > 0) {
					t.Errorf("%d failures", n)
				}
				c.mend(w)
				time.Sleep(3 * PollEvery)
				if a.Floor() < 100 {
					t.Errorf("floor %d, with the trouble over", a.Floor())
				}
			})
		})
	}
}

// A node that is gone for good holds the floor back until it is removed. What
// it accepted is declared lost once nobody else holds any of it.
func TestARemovedNode(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.nodes["a"].replicas[0]
		w.commits(99, false)
		time.Sleep(2 * TellEvery)
		w.do(func() { l := w.nodes["b"].tentative[0]; l.base, l.node = 99, "d" }) // d told b of it
		w.nodes["d"].end()
		w.commits(120, true)
		time.Sleep(time.Hour)
		if a.Floor() > 0 || a.Forfeited("d") {
			t.Fatalf("floor %d, forfeited %v", a.Floor(), a.Forfeited("d"))
		}
		w.removes("d")
		time.Sleep(time.Minute)
		if a.Floor() >= 120 || a.Forfeited("d") {
			t.Fatalf("floor %d, forfeited %v, while b holds a write of d", a.Floor(), a.Forfeited("d"))
		}
		other := w.nodes["a"].replicas[1]
		if !other.Forfeited("d") {
			t.Error("nobody holds anything in partition 1, and it is not forfeited there")
		}
		w.do(func() { w.nodes["b"].tentative[0].base = 0 }) // promoted
		time.Sleep(2 * PollEvery)
		if a.Floor() < 120 || !slices.Equal(a.forfeited, []partition.NodeID{"d"}) {
			t.Errorf("floor %d, forfeited %v", a.Floor(), a.forfeited)
		}
		if n := w.count(func(e Event) bool { return e == any(Forfeited{0, "d"}) }); n != 1 {
			t.Errorf("told %d times", n)
		}
		// Whatever it says, nobody takes it.
		r := Report{Start: 9, Sequence: 1, Entries: []Entry{{Heard: 1 << 40}}}
		answer, err := w.nodes["a"].handler(t.Context(), "d", r.encode())
		if err != nil || len(answer) != 2 || answer[1] != reportWhole || w.nodes["a"].tentative[0].Heard() >= 1<<40 {
			t.Errorf("a removed node is heard: %x, %v", answer, err)
		}
	})
}

// A member that registers while a poll goes on was not asked.
func TestAMemberThatJoinsDuringAPoll(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.nodes["a"]
		w.commits(100, true)
		time.Sleep(2 * TellEvery)
		ring := *w.ring.Load()
		newer := ring
		newer.Nodes = append(slices.Clone(ring.Nodes), control.Node{ID: "e", State: control.Alive})
		newer.Epoch++
		w.do(func() { w.nodes["e"] = &member{w: w, id: "e", stop: func() {}} })
		time.Sleep(PollEvery - 2*TellEvery + 1500*time.Microsecond) // between its two rounds
		w.ring.Store(&newer)
		time.Sleep(PollEvery / 2)
		if got := a.replicas[0].Floor(); got > 0 {
			t.Fatalf("floor %d without the new member", got)
		}
		w.ring.Store(&ring) // it never came
		time.Sleep(PollEvery)
		if got := a.replicas[0].Floor(); got < 100 {
			t.Fatalf("floor %d", got)
		}
	})
}

func TestPollsOfManyPartitionsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		ring := *w.ring.Load()
		m := w.nodes["a"]
		w.do(func() {
			for p := partition.ID(0); p < 2*MaxPolled; p++ {
				m.tentative[p] = &tentative{w: w}
				m.replicas[p] = &replicaState{w: w, of: m, generation: 1, leads: true, applied: 5, tombstones: []uint64{5}, failing: p < MaxPolled}
			}
			ring.Partitions = make([]control.Partition, 2*MaxPolled)
			w.ring.Store(&ring)
		})
		time.Sleep(2*PollEvery + time.Second)
		for p, r := range m.replicas {
			if raised := r.Floor() == 5; raised == r.failing {
				t.Fatalf("partition %d: floor %d", p, r.Floor())
			}
		}
	})
}

func TestNewRefusesWhatIsNotSet(t *testing.T) {
	if _, err := New(Config{Self: "a", Start: func() uint64 { return 1 }}); err == nil {
		t.Fatal("no error")
	}
}
