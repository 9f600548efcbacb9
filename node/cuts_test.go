package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// inWorld runs a test in a bubble with a formed cluster of n machines.
func inWorld(t *testing.T, n int, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n, 1)
		defer w.close()
		w.formed()
		test(t, w)
	})
}

// Elect, write, isolate the leader, write again, heal, compare the replicas.
func TestLeaderIsolated(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		key := keyIn(0, 4, 0)
		w.machines[0].mustPut(key, "before")
		leader := w.leaderOf(0)
		rest := w.others(leader)
		w.net.Isolate(leader.host)

		// A write through the isolated leader cannot be acknowledged.
		fates := make(chan fate, 1)
		var writing sync.WaitGroup
		writing.Go(func() {
			fate, _ := leader.put(key, "lost")
			fates <- fate
		})
		next := w.leaderOf(0, rest...)
		next.mustPut(key, "after")
		for _, m := range rest {
			m.mustGet(key, "after")
		}
		if _, fate, err := leader.getWithin(2*time.Second, key); fate != refused {
			t.Errorf("the isolated leader answered a read: %v", err)
		}
		writing.Wait()
		if fate := <-fates; fate == done {
			t.Error("a write through the isolated leader was acknowledged")
		}
		for p := range 4 { // those that it led too
			w.leaderOf(partition.ID(p), rest...)
		}
		for i := range 20 {
			rest[i%2].mustPut(fmt.Sprint("more", i), fmt.Sprint(i))
		}

		w.net.Heal()
		w.awaitReady(w.machines...)
		for _, m := range w.machines {
			m.mustGet(key, "after")
		}
		w.compareReplicas(w.machines...)
	})
}

// While a leader is cut off in any way, nobody reads at it what the others have
// overwritten.
func TestNoStaleRead(t *testing.T) {
	for _, cut := range []struct {
		name string
		cut  func(w *world, leader *machine)
	}{
		{"isolated", func(w *world, leader *machine) { w.net.Isolate(leader.host) }},
		{"can send but not hear", func(w *world, leader *machine) {
			for _, m := range w.others(leader) {
				w.net.CutOneWay(m.host, leader.host)
			}
		}},
		{"can hear but not send", func(w *world, leader *machine) {
			for _, m := range w.others(leader) {
				w.net.CutOneWay(leader.host, m.host)
			}
		}},
		{"hears one, is heard by the other", func(w *world, leader *machine) {
			rest := w.others(leader)
			w.net.CutOneWay(leader.host, rest[0].host)
			w.net.CutOneWay(rest[1].host, leader.host)
		}},
		// Another is elected long before the old leader's lease is over, as when
		// that one was paused.
		{"isolated, and another stands at once", func(w *world, leader *machine) {
			w.net.Isolate(leader.host)
			w.others(leader)[0].running().replicas.replica(1).group.Campaign()
		}},
		{"can send but not hear, and another stands at once", func(w *world, leader *machine) {
			for _, m := range w.others(leader) {
				w.net.CutOneWay(m.host, leader.host)
			}
			w.others(leader)[0].running().replicas.replica(1).group.Campaign()
		}},
		{"reaches one only", func(w *world, leader *machine) {
			w.net.Cut(leader.host, w.others(leader)[0].host)
		}},
	} {
		t.Run(cut.name, func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *world) {
				key := keyIn(1, 4, 0)
				leader := w.leaderOf(1)
				rest := w.others(leader)
				leader.mustPut(key, "0")
				cut.cut(w, leader)

				// One client writes on the other side, several read at the old leader.
				var mu sync.Mutex
				acknowledged, written, answered := 0, 0, 0
				stop := make(chan struct{})
				var clients sync.WaitGroup
				clients.Go(func() {
					defer close(stop)
					for i, began := 1, time.Now(); time.Since(began) < 8*time.Second; i++ {
						mu.Lock()
						written = i
						mu.Unlock()
						if fate, _ := rest[i%2].putWithin(time.Second, key, fmt.Sprint(i)); fate == done {
							mu.Lock()
							acknowledged = i
							mu.Unlock()
						}
						time.Sleep(20 * time.Millisecond)
					}
				})
				for range 4 {
					clients.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
							}
							mu.Lock()
							least := acknowledged
							mu.Unlock()
							got, fate, _ := leader.getWithin(time.Second, key)
							if fate == done {
								var n int
								if _, err := fmt.Sscan(got, &n); err != nil || n < least {
									t.Errorf("read %q after %d was acknowledged", got, least)
								}
								mu.Lock()
								if n > written {
									t.Errorf("read %d before it was written", n)
								}
								answered++
								mu.Unlock()
							}
							time.Sleep(3 * time.Millisecond)
						}
					})
				}
				clients.Wait()
				if acknowledged == 0 {
					t.Error("the others acknowledged no write")
				}
				t.Logf("last acknowledged %d, %d reads answered at the old leader", acknowledged, answered)
				w.net.Heal()
				w.awaitReady(w.machines...)
				w.compareReplicas(w.machines...)
			})
		})
	}
}

// Every node reads every acknowledged write at once, also right after
// leadership has changed.
func TestFollowerReads(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		for i := range 300 {
			p := partition.ID(i % 4)
			key := keyIn(p, 4, i%3)
			if i%30 == 29 {
				leader := w.leaderOf(p)
				to := w.others(leader)[w.random(2)]
				if _, err := route(t.Context(), leader.running().router, p, transferCall(p, to.running().id)); err != nil {
					t.Logf("transfer of %d to %s: %v", p, to.name, err)
				}
			}
			if i == 150 { // and after a leader has died
				leader := w.leaderOf(p)
				leader.crash(50)
				w.leaderOf(p, w.others(leader)...)
				leader.start()
				w.awaitReady(leader)
			}
			w.machines[i%3].mustPut(key, fmt.Sprint(i))
			var readers sync.WaitGroup
			for _, m := range w.machines {
				readers.Go(func() {
					if got, _, err := m.get(key); err != nil || got != fmt.Sprint(i) {
						t.Errorf("read %q, %v at %s; %d was acknowledged", got, err, m.name, i)
					}
				})
			}
			readers.Wait()
		}
	})
}

// A node of an idle cluster that starts again learns what is committed without
// a write, whether its link to the leader is new or was there before.
func TestIdleClusterReopened(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		for p := range 4 {
			w.machines[0].mustPut(keyIn(partition.ID(p), 4, 0), "idle")
		}
		time.Sleep(time.Minute)
		for _, m := range w.machines {
			m.crash(0)
			time.Sleep(time.Second / 2) // shorter than an election
			m.start()
			w.awaitReady(m)
			for p := range 4 {
				m.mustGet(keyIn(partition.ID(p), 4, 0), "idle")
				here := m.running().replicas.replica(partition.ID(p))
				if !here.group.CaughtUp() {
					t.Errorf("partition %d at %s is not caught up", p, m.name)
				}
			}
			time.Sleep(10 * time.Second)
		}
		w.compareReplicas(w.machines...)
	})
}

// A node without a quorum refuses at once, saying what it reaches, and serves
// soon after the heal.
func TestNoQuorum(t *testing.T) {
	const electionTimeout = 1500 * time.Millisecond
	inWorld(t, 3, func(t *testing.T, w *world) {
		for round := range 3 {
			alone := w.machines[round]
			key := keyIn(partition.ID(round), 4, 0)
			w.machines[0].mustPut(key, "x")
			w.net.Isolate(alone.host)
			time.Sleep(2 * electionTimeout)
			for _, op := range []struct {
				name string
				do   func() error
			}{
				{"get", func() error { _, _, err := alone.get(key); return err }},
				{"put", func() error { _, err := alone.put(key, "y"); return err }},
				{"scan", func() error { _, err := alone.scan("", "", 0, nil); return err }},
			} {
				began := time.Now()
				err := op.do()
				took := time.Since(began)
				var e *replication.Error
				switch {
				case !errors.As(err, &e):
					t.Fatalf("%s: %v", op.name, err)
				case e.Reason != replication.NoQuorum || e.Outcome != replication.NotApplied || e.Reachable != 1 || e.Needed != 2:
					t.Errorf("%s: %+v", op.name, e)
				case took > 100*time.Millisecond:
					t.Errorf("%s was refused after %v", op.name, took)
				}
			}
			w.net.Heal()
			healed := time.Now()
			for {
				if _, err := alone.putWithin(requestTime, key, "z"); err == nil {
					break
				}
				if time.Since(healed) > 2*electionTimeout {
					t.Fatalf("round %d: no service %v after the heal", round, time.Since(healed))
				}
				time.Sleep(10 * time.Millisecond)
			}
			alone.mustGet(key, "z")
			t.Logf("round %d: served %v after the heal", round, time.Since(healed))
			if since := time.Since(healed); since > 2*electionTimeout {
				t.Errorf("round %d: served %v after the heal", round, since)
			}
			w.awaitReady(w.machines...)
		}
	})
}

// Leadership is handed only to whom it can reach, and a handover that came to
// nothing harms neither this leadership nor a later one.
func TestHandoverToUnreachable(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		leader := w.leaderOf(0)
		rest := w.others(leader)
		key := keyIn(0, 4, 0)
		handOver := func(from, to *machine) error {
			ctx, cancel := context.WithTimeout(t.Context(), requestTime)
			defer cancel()
			_, err := from.running().replicas.replica(0).transfer(ctx, to.running().id)
			return err
		}
		w.net.Cut(leader.host, rest[0].host)
		leader.mustPut(key, "which it lacks")
		for range 4 {
			if err := handOver(leader, rest[0]); err == nil {
				t.Error("handed over to a node that cannot be reached")
			}
			time.Sleep(time.Second)
		}
		leader.mustPut(key, "still here")
		w.net.Isolate(leader.host)
		w.leaderOf(0, rest...)
		w.net.Heal()
		w.awaitReady(w.machines...)
		w.eventually(time.Minute, "the first leader leads again", func() error {
			now := w.leaderOf(0)
			if now == leader {
				return nil
			}
			return handOver(now, leader)
		})
		leader.mustPut(key, "again")
		w.compareReplicas(w.machines...)
	})
}
