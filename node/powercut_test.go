package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Clients on all nodes write each key once, while machines lose their power:
// one, most, or all at once, each disk keeping a random part of what was not
// synced. Afterwards every acknowledged write is there, at every node, and no
// write that was definitely refused.
func TestPowerCuts(t *testing.T) {
	forSeeds(t, 6, func(t *testing.T, seed uint64) {
		w := newWorld(t, 3, seed)
		defer w.close()
		w.formed()
		var mu sync.Mutex
		fates := map[string]fate{}
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for client := range 6 {
			m := w.machines[client%3]
			clients.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					key := fmt.Sprintf("%d/%d", client, i)
					fate, _ := m.put(key, key)
					mu.Lock()
					fates[key] = fate
					mu.Unlock()
					time.Sleep(w.randomTime(60 * time.Millisecond))
				}
			})
		}
		for range 4 {
			time.Sleep(time.Second + w.randomTime(3*time.Second))
			victims := slices.Clone(w.machines)
			w.shuffle(victims)
			for _, m := range victims[:1+w.random(3)] {
				m.crash([]int{0, 30, 70, 100}[w.random(4)])
			}
			time.Sleep(w.randomTime(4 * time.Second))
			for _, m := range w.machines {
				if m.running() == nil {
					m.start()
				}
			}
			if w.random(2) == 0 {
				w.awaitReady(w.machines...)
			}
		}
		close(stop)
		clients.Wait()
		w.awaitReady(w.machines...)
		w.compareReplicas(w.machines...)

		count := map[fate]int{}
		for key, fate := range fates {
			count[fate]++
			for _, m := range w.machines {
				got, _, err := m.get(key)
				switch {
				case err != nil:
					t.Fatalf("%s at %s: %v", key, m.name, err)
				case fate == done && got != key:
					t.Errorf("%s was acknowledged, and is %q at %s", key, got, m.name)
				case fate == refused && got != "":
					t.Errorf("%s was definitely refused, and is there at %s", key, m.name)
				}
			}
		}
		t.Logf("%d acknowledged, %d refused, %d unknown", count[done], count[refused], count[unknown])
		if count[done] < 100 {
			t.Errorf("only %d writes were acknowledged", count[done])
		}
	})
}

// All machines lose their power at once, the moment after they have acknowledged.
func TestAcknowledgedIsOnDisk(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		key, other := keyIn(0, 4, 1), keyIn(0, 4, 2)
		n1 := w.machines[0]
		for round := range 3 {
			value := fmt.Sprint("v", round)
			n1.mustWrite(ask{}, key, value)
			n1.mustWrite(ask{level: eventual}, other, value)
			for _, m := range w.machines {
				m.crash(0)
			}
			w.startAll()
			w.awaitReady(w.machines...)
			n1.mustRead(ask{}, key, value)
			n1.mustRead(ask{level: eventual}, other, value)
		}
	})
}

func (w *world) shuffle(machines []*machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rng.Shuffle(len(machines), func(i, j int) { machines[i], machines[j] = machines[j], machines[i] })
}

// A disk image of an earlier start is refused, at its first start and at every
// later one, and helps nobody to a quorum.
func TestRestoredImage(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		b := w.machines[1]
		w.machines[0].mustPut("k", "old")
		image := w.image(b.disk, 100) // at its first start
		for range 2 {
			b.stop()
			time.Sleep(time.Second)
			b.start()
			w.awaitReady(b)
		}
		w.machines[0].mustPut("k", "new")
		b.stop()
		b.disk = image
		p := b.start()
		refusal := p.awaitRefused()
		if !strings.Contains(refusal.Error(), "older copy") || !strings.Contains(refusal.Error(), "start with an empty data directory") {
			t.Errorf("it ended with: %v", refusal)
		}
		if err := (health{p.Node}).Ready(t.Context(), capstanv1.Consistency_CONSISTENCY_EVENTUAL); err == nil {
			t.Error("the image says that it is ready")
		}
		if known, _ := w.machines[0].running().ring().Node(p.id); known.StartCounter != 3 {
			t.Errorf("the cluster knows start %d of %s now", known.StartCounter, p.id)
		}
		b.stop()
		// Nor does it help anybody to a quorum.
		w.machines[2].crash(0)
		for range 5 {
			if _, err := b.tryStart(); !errors.Is(err, ErrRefused) || err.Error() != refusal.Error() {
				t.Fatalf("a later start: %v, want %v", err, refusal)
			}
		}
		time.Sleep(10 * time.Second)
		if _, fate, err := w.machines[0].get("k"); fate != refused {
			t.Errorf("a read with only the image of another node's past to help: %v", err)
		}
		if fate, err := w.machines[0].put("k", "worse"); fate != refused {
			t.Errorf("a write with only the image of another node's past to help: %v", err)
		}
		w.machines[2].start()
		w.awaitReady(w.machines[0], w.machines[2])
		w.machines[0].mustGet("k", "new")
	})
}

// awaitRefused waits until the node ends because the cluster refuses its directory.
func (p *process) awaitRefused() error {
	p.machine.world.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		p.machine.world.t.Fatalf("%s goes on", p.machine.name)
	}
	if err := p.Err(); !errors.Is(err, ErrRefused) {
		p.machine.world.t.Fatalf("%s ended with: %v", p.machine.name, err)
	}
	return p.Err()
}

// An emptied node can not help a replica that lacks acknowledged writes to
// lead: it comes back as nobody that ever had a vote.
func TestEmptiedNodeHelpsNobody(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		key := keyIn(0, 4, 0)
		leader := w.leaderOf(0)
		rest := w.others(leader)
		stale, emptied := rest[0], rest[1]
		w.net.Isolate(stale.host)
		leader.mustPut(key, "acknowledged") // by the leader and the one to be emptied
		leader.crash(0)
		emptied.crash(0)
		emptied.wipe()
		w.net.Heal()
		emptied.start()
		time.Sleep(30 * time.Second)
		if got, fate, err := stale.get(key); fate != refused {
			t.Errorf("the cut-off replica and the emptied node read %q, %v", got, err)
		}
		if fate, err := stale.put(key, "divergent"); fate != refused {
			t.Errorf("the cut-off replica and the emptied node wrote: %v", err)
		}
		if here := emptied.running().replicas.all(); len(here) != 0 {
			t.Errorf("the emptied node has opened %d replicas", len(here))
		}
		leader.start()
		w.awaitReady(leader, stale)
		for _, m := range []*machine{leader, stale} {
			m.mustGet(key, "acknowledged")
		}
		w.compareReplicas(leader, stale)
		w.eventually(time.Minute, "the emptied node serves by forwarding", func() error {
			_, _, err := emptied.get(key)
			return err
		})
		emptied.mustGet(key, "acknowledged")
	})
}
