package node

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What tests that look only at single levels miss.

// Three writers, and the last one is not linearizable: a linearizable write, an
// eventual one that has heard of it, then one that has not, with a higher
// timestamp. The last must lose, though what stands there is an eventual value.
func TestStaleWriteCannotGoRoundALinearizableOne(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%v", deleted), func(t *testing.T) {
			inCluster(t, 3, func(w *world) {
				n1, n3 := w.machines[0], w.machines[2]
				key := keyIn(0, 4, 1)
				n1.mustWrite(ask{}, key, "first")
				w.cut(n3)
				w.awaitApart(0, n3)
				value := "safe"
				if deleted {
					value = ""
				}
				safe := n1.mustWrite(ask{}, key, value)
				informed := n1.mustWrite(ask{level: eventual}, key, "informed")
				n1.mustBecome(informed.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				time.Sleep(time.Minute)
				stale := n3.mustWrite(ask{level: eventual}, key, "stale")
				if stale.GetVersion().GetTimestamp() <= informed.GetVersion().GetTimestamp() {
					t.Fatal("the stale write is not the later one")
				}
				w.heal()
				fate := n1.mustBecome(stale.GetReceipt(), capstanv1.Fate_FATE_SUPERSEDED)
				w.awaitNoBacklog() // n3 has applied that, too
				listed, err := n3.conflicts(key)
				if err != nil || len(listed) != 1 || !proto.Equal(listed[0].GetWinningVersion(), safe.GetVersion()) || !proto.Equal(fate.GetVersion(), safe.GetVersion()) {
					t.Errorf("it lost to %v, says its fate, and the list %v (%v); it had not heard of %v", fate.GetVersion(), listed, err, safe.GetVersion())
				}
				for _, m := range w.machines {
					m.mustRead(ask{}, key, "informed")
					m.mustRead(ask{level: eventual}, key, "informed")
				}
			})
		})
	}
}

// gates hold up the applying of entries, a machine and partition at a time.
type gates struct {
	mu     sync.Mutex
	closed map[gate]chan struct{}
}

type gate struct {
	machine   string
	partition partition.ID
}

// guard lets the nodes of a world pass by the gates.
func (g *gates) guard(c *Config) {
	name := c.Name
	c.beforeApply = func(p partition.ID, _ []replication.Entry) {
		g.mu.Lock()
		shut := g.closed[gate{name, p}]
		g.mu.Unlock()
		if shut != nil {
			<-shut
		}
	}
}

func (g *gates) shut(m *machine, p partition.ID) (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shutLocked(m, p)
}

// once lets m apply what waits at its gate, and no more.
func (g *gates) once(m *machine, p partition.ID) (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.closed[gate{m.name, p}]
	open = g.shutLocked(m, p)
	close(before)
	return open
}

func (g *gates) shutLocked(m *machine, p partition.ID) (open func()) {
	if g.closed == nil {
		g.closed = map[gate]chan struct{}{}
	}
	at, shut := gate{m.name, p}, make(chan struct{})
	g.closed[at] = shut
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.closed[at] == shut {
			delete(g.closed, at)
			close(shut)
		}
	})
}

// The accepting replica is told that its write is promoted before it has
// applied that: read there, without a session, the write must not vanish.
func TestAppliedBeforeForgotten(t *testing.T) {
	g := &gates{}
	inCluster(t, 3, func(w *world) {
		leader := w.leaderOf(0)
		m := w.others(leader)[0]
		key := keyIn(0, 4, 1)
		m.mustWrite(ask{}, key, "old")
		m.mustRead(ask{}, key, "old")
		open := g.shut(m, 0)
		defer open()
		r := m.mustWrite(ask{level: eventual}, key, "mine")
		leader.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		for range 50 {
			m.mustRead(ask{level: eventual}, key, "mine")
			time.Sleep(100 * time.Millisecond)
		}
		open()
		m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		m.mustRead(ask{level: eventual}, key, "mine")
	}, g.guard)
}

// The same where the state comes as a whole: a replica that was away for so
// long that the log was cut is given a snapshot, which holds the fate of what
// it accepted.
func TestSnapshotSettlesWhatItHolds(t *testing.T) {
	g := &gates{}
	inCluster(t, 3, func(w *world) {
		n3 := w.machines[2]
		key, other := keyIn(0, 4, 1), keyIn(0, 4, 2)
		w.cut(n3)
		w.awaitApart(0, n3)
		lost := n3.mustWrite(ask{level: eventual}, key, "lost")
		kept := n3.mustWrite(ask{level: eventual}, other, "kept")
		w.machines[0].mustWrite(ask{}, key, "won")
		for i := range 200 {
			w.machines[0].mustWrite(ask{}, keyIn(0, 4, 3+i%5), fmt.Sprint(i))
		}
		leader := w.leaderOf(0, w.machines[0], w.machines[1])
		for _, m := range w.machines[:2] {
			if err := m.running().replicas.replica(0).group.CutLog(1); err != nil {
				t.Fatal(err)
			}
		}
		w.heal()
		leader.mustBecome(lost.GetReceipt(), capstanv1.Fate_FATE_SUPERSEDED)
		leader.mustBecome(kept.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		// Until the snapshot is there, n3 shows what it took itself.
		w.eventually(time.Minute, "n3 has what the others have", func() error {
			if r, err := n3.read(ask{level: eventual}, key); err != nil || string(r.GetValue()) != "won" {
				return fmt.Errorf("it shows %q, %w", r.GetValue(), err)
			}
			return nil
		})
		n3.mustRead(ask{level: eventual}, other, "kept")
		w.awaitNoBacklog()
	}, g.guard)
}

// A node's write is promoted by others while it is down, and what it comes back to
// is a snapshot: by that it must know that the write is decided, also as the
// leader that it becomes.
func TestSnapshotHasTheRecordOfPromotedDots(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n2, n3 := w.machines[0], w.machines[1], w.machines[2]
		// In each partition: where the node that comes back is made the leader, it
		// promotes its write again, and nobody sees that it did not know.
		const partitions = 4
		var receipts [partitions]string
		for p := range partition.ID(partitions) {
			receipts[p] = n3.mustWrite(ask{level: eventual, acks: 3}, keyIn(p, partitions, 1), "once").GetReceipt()
		}
		n3.crash(0)
		for p := range partition.ID(partitions) {
			n1.mustBecome(receipts[p], capstanv1.Fate_FATE_COMMITTED)
			n1.mustRead(ask{}, keyIn(p, partitions, 1), "once")
			for i := range 200 {
				n1.mustWrite(ask{}, keyIn(p, partitions, 2+i%5), fmt.Sprint(i))
			}
			for _, m := range []*machine{n1, n2} {
				if err := m.running().replicas.replica(p).group.CutLog(1); err != nil {
					t.Fatal(err)
				}
			}
		}
		n3.start()
		w.awaitReady(w.machines...)
		w.awaitNoBacklog()
		for _, r := range receipts {
			n3.mustBecome(r, capstanv1.Fate_FATE_COMMITTED)
		}
		w.compareReplicas(w.machines...)
	})
}

// skewed lets each machine's clock be wrong.
type skewed struct {
	mu sync.Mutex
	by map[string]time.Duration
}

func (s *skewed) set(m *machine, by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[string]time.Duration{}
	}
	s.by[m.name] = by
}

func (s *skewed) clock(c *Config) {
	name := c.Name
	c.Now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Now().Add(s.by[name])
	}
}

// A session goes back and forth between two nodes whose clocks are an hour
// apart, while there is no leader; then the later half is handed in first, to a
// leader whose clock is the slow one. What the session wrote last must stand.
func TestSessionBetweenClocksAnHourApart(t *testing.T) {
	clocks := &skewed{}
	inCluster(t, 3, func(w *world) {
		n1, n2, n3 := w.machines[0], w.machines[1], w.machines[2]
		clocks.set(n2, time.Hour)
		me := &talk{}
		var keys []string
		// All three apart: nobody leads, and nothing is exchanged.
		w.cut(n1)
		w.cut(n2)
		n1.awaitCutOff(0)
		n2.awaitCutOff(0)
		for i := range 4 {
			key := keyIn(0, 4, i)
			keys = append(keys, key)
			for j := range 6 {
				m := []*machine{n1, n2}[(i+j)%2]
				m.mustWrite(ask{talk: me, level: eventual}, key, fmt.Sprint("v", j))
				time.Sleep(time.Second)
			}
		}
		// n3 and n2 first, then n1 as well; which of both wrote last differs by key.
		w.net.HealBetween(n2.host, n3.host)
		w.leaderOf(0, n2, n3)
		time.Sleep(5 * time.Second)
		w.heal()
		w.awaitNoBacklog()
		for _, m := range w.machines {
			for _, key := range keys {
				m.mustRead(ask{talk: me, level: linearizable}, key, "v5")
				m.mustRead(ask{level: eventual}, key, "v5")
			}
		}
	}, clocks.clock)
}

// A node that is switched off between accepting and promoting has the writes
// when it comes back, under the same dots, and gives out none of them again.
func TestRestartBetweenAcceptingAndPromoting(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		receipts := map[string]string{}
		write := func(round, i int) {
			key := keyIn(0, 4, 10*round+i)
			receipts[key] = n3.mustWrite(ask{level: eventual}, key, fmt.Sprint(round, i)).GetReceipt()
		}
		for round := range 3 {
			w.cut(n3)
			w.awaitApart(0, n3)
			for i := range 5 {
				write(round, i)
			}
			n3.crash(50)
			n3.start() // it is registered, and hands in, when the cut heals
			w.heal()
			n3.mustRead(ask{level: eventual}, keyIn(0, 4, 10*round), fmt.Sprint(round, 0))
		}
		for key, receipt := range receipts {
			n1.mustBecome(receipt, capstanv1.Fate_FATE_COMMITTED)
			n1.mustRead(ask{}, key, string(n3.mustRead(ask{level: eventual}, key, valueOf(key)).GetValue()))
		}
	})
}

func valueOf(key string) string {
	for round := range 3 {
		for i := range 5 {
			if keyIn(0, 4, 10*round+i) == key {
				return fmt.Sprint(round, i)
			}
		}
	}
	return ""
}

// An image of a node's disk, taken between accepting and promoting, is started
// beside it: it serves nothing, and is refused as soon as it reaches anybody who
// knows. The original loses nothing.
func TestCopyOfAnOldDisk(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		w.cut(n3)
		w.awaitApart(0, n3)
		key := func(i int) string { return keyIn(0, 4, i) }
		both := n3.mustWrite(ask{level: eventual}, key(0), "both")
		image := w.image(n3.disk, 0)
		mine := n3.mustWrite(ask{level: eventual}, key(1), "original")
		n3.crash(0)
		n3.start()
		w.heal() // the start after the image's is registered

		twin := w.addMachine()
		twin.name, twin.disk = n3.name, image
		w.net.Isolate(twin.host)
		copied := twin.start()
		time.Sleep(10 * time.Second)
		_, err := twin.write(ask{level: eventual}, key(2), "copy")
		w.refusal(err, replication.NoReplica, replication.NotApplied)
		w.net.Heal()
		copied.awaitRefused()
		twin.stop()
		w.awaitReady(n1, w.machines[1], n3)
		n1.mustBecome(both.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n1.mustBecome(mine.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n1.mustRead(ask{}, key(0), "both")
		n1.mustRead(ask{}, key(1), "original")
		w.machines = w.machines[:3]
	})
}

// A fast clock wins over those that had not seen its value, and only for as
// long: it moves no other clock beyond the bound, and who has seen it writes
// later ones.
func TestFarFutureMovesNoClock(t *testing.T) {
	clocks := &skewed{}
	inCluster(t, 3, func(w *world) {
		n1, n2 := w.machines[0], w.machines[1]
		key, other := keyIn(0, 4, 1), keyIn(0, 4, 2)
		clocks.set(n2, 24*time.Hour)
		fast := n2.mustWrite(ask{level: eventual}, key, "fast")
		n1.mustBecome(fast.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n1.mustRead(ask{level: linearizable}, key, "fast")
		after := n1.mustWrite(ask{level: eventual}, key, "after")
		n2.mustBecome(after.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n2.mustRead(ask{}, key, "after")
		plain := n1.mustWrite(ask{level: eventual}, other, "plain")
		limit := time.Now().Add(DefaultMaxClockOffset)
		if at := hlc.Timestamp(plain.GetVersion().GetTimestamp()).Time(); at.After(limit) {
			t.Errorf("a write of another key is dated %v, the clock says %v", at, time.Now())
		}
	}, clocks.clock)
}

// Two nodes hold a write; one hands it in, the value is replaced by somebody who
// has seen it, and only then the other one hands it in as well.
func TestHandedInTwiceIsOneWrite(t *testing.T) {
	g := &gates{}
	inCluster(t, 5, func(w *world) {
		n1, n2, n3 := w.machines[0], w.machines[1], w.machines[2]
		key := keyIn(0, 4, 1)
		w.cut(n1, n3)
		w.awaitApart(0, n1, n3)
		r := n1.mustWrite(ask{level: eventual}, key, "once")
		// Without a leader the two converge.
		w.eventually(time.Minute, "n3 holds it, too", func() error {
			read, err := n3.read(ask{level: eventual}, key)
			if err == nil && string(read.GetValue()) != "once" {
				err = fmt.Errorf("it reads %q", read.GetValue())
			}
			return err
		})
		image := w.image(n3.disk, 0)
		n3.crash(0)
		w.net.Heal()
		n2.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n2.mustRead(ask{}, key, "once")
		second := n2.mustWrite(ask{level: eventual}, key, "twice")
		n2.mustBecome(second.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		// n3 hands it in before it has applied that it was handed in already.
		open := g.shut(n3, 0)
		defer open()
		n3.disk = image
		n3.start()
		time.Sleep(10 * time.Second)
		open()
		w.heal()
		w.awaitNoBacklog()
		n1.mustRead(ask{}, key, "twice")
		n2.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		if found, err := n2.conflicts(""); err != nil || len(found) > 0 {
			t.Errorf("conflicts %v, %v", found, err)
		}
	}, func(c *Config) { c.ReplicationFactor = 5 }, g.guard)
}

// A session that has seen a tentative write has seen what that write's node had
// seen: elsewhere, where the write is held but the state is older, an older
// value with a higher timestamp must not win over it.
func TestTokenCarriesTheBase(t *testing.T) {
	clocks, g := &skewed{}, &gates{}
	inCluster(t, 3, func(w *world) {
		leader := w.leaderOf(0)
		behind, fast := w.others(leader)[0], w.others(leader)[1]
		key := keyIn(0, 4, 1)
		clocks.set(fast, time.Hour)
		r := fast.mustWrite(ask{level: eventual}, key, "fast")
		behind.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		behind.mustRead(ask{}, key, "fast")
		open := g.shut(behind, 0)
		defer open()
		leader.mustWrite(ask{}, key, "linearizable")
		// It is held by all, and handed in by nobody: the leader is stopped from
		// applying what it would commit.
		hold := g.shut(leader, 0)
		defer hold()
		leader.mustWrite(ask{level: eventual, acks: 3}, key, "informed")
		me := &talk{}
		leader.mustRead(ask{talk: me, level: eventual}, key, "informed")
		if r, err := behind.read(ask{talk: me, level: eventual, wait: 2 * time.Second}, key); err == nil && string(r.GetValue()) != "informed" {
			t.Errorf("the session has seen %q, and then reads %q", "informed", r.GetValue())
		}
		hold()
		open()
		behind.mustRead(ask{talk: me, level: eventual}, key, "informed")
	}, clocks.clock, g.guard)
}

// A linearizable delete whose tombstone may be gone, the key created anew, and
// a node that has heard of neither: its write must not come back. While the
// node may return, the tombstone stays; once the node is removed, it goes, and
// nobody listens to the node.
func TestNothingComesBackBehindTheFloor(t *testing.T) {
	for _, removed := range []bool{false, true} {
		t.Run(fmt.Sprintf("removed=%v", removed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, 1).formed()
				defer w.close()
				n1, n3 := w.machines[0], w.machines[2]
				key, anew := keyIn(0, 4, 1), keyIn(0, 4, 2)
				for _, k := range []string{key, anew} {
					n1.mustWrite(ask{}, k, "first")
				}
				w.cut(n3)
				w.awaitApart(0, n3)
				stale := n3.mustWrite(ask{level: eventual}, key, "stale")
				n3.mustWrite(ask{level: eventual}, anew, "stale")
				for _, k := range []string{key, anew} {
					n1.mustWrite(ask{}, k, "")
				}
				state := n1.running().replicas.replica(0).state
				if removed {
					w.eventually(time.Minute, "n3 is removed", func() error {
						_, err := (clusterService{n1.running().Node}).RemoveNode(w.t.Context(),
							&capstanv1.RemoveNodeRequest{Node: "n3", ForfeitTentative: true})
						return err // until gossip has given it up
					})
					w.eventually(2*time.Minute, "the tombstone is dropped", func() error {
						if _, found, err := state.Get([]byte(key)); found || err != nil {
							return fmt.Errorf("found %v, %v", found, err)
						}
						return nil
					})
				} else {
					time.Sleep(2 * time.Minute)
					if _, found, err := state.Get([]byte(key)); !found || err != nil {
						t.Errorf("a tombstone was dropped while a member may hold older writes: %v", err)
					}
				}
				r := n1.mustWrite(ask{level: eventual}, anew, "anew")
				n1.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				w.net.Heal()
				want := capstanv1.Fate_FATE_SUPERSEDED
				if removed {
					time.Sleep(time.Minute)
					want = capstanv1.Fate_FATE_LOST
				} else {
					w.heal()
				}
				n1.mustBecome(stale.GetReceipt(), want)
				for _, m := range w.machines[:2] {
					m.mustRead(ask{}, key, "")
					m.mustRead(ask{level: eventual}, key, "")
					m.mustRead(ask{}, anew, "anew")
					m.mustRead(ask{level: eventual}, anew, "anew")
				}
			})
		})
	}
}

// A bounded read waits for its session's past. The wait counts as age: what was
// acknowledged meanwhile, longer ago than the bound, must not be missing.
func TestABoundedReadThatWaitsIsNotOlderForIt(t *testing.T) {
	g := &gates{}
	inCluster(t, 3, func(w *world) {
		leader := w.leaderOf(0)
		m := w.others(leader)[0]
		key, other := keyIn(0, 4, 1), keyIn(0, 4, 2)
		const within = 2 * time.Second
		leader.mustWrite(ask{}, key, "old")
		m.mustRead(ask{}, key, "old") // it remembers when it asked

		stop := g.shut(m, 0)
		defer stop()
		me := &talk{}
		leader.mustWrite(ask{talk: me}, other, "seen")
		time.Sleep(100 * time.Millisecond) // it waits at the gate, alone
		leader.mustWrite(ask{}, key, "new")
		time.Sleep(within / 2)
		var read sync.WaitGroup
		read.Go(func() { m.mustRead(ask{talk: me, level: bounded, within: within, wait: 10 * time.Second}, key, "new") })
		time.Sleep(within)
		again := g.once(m, 0)
		defer again()
		time.Sleep(within)
		again()
		read.Wait()
	}, g.guard)
}
