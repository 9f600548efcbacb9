package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inThree runs a test on three formed machines. No node may be refused in it that
// the test does not name.
func inThree(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		defer w.close()
		test(t, w.formed())
	})
}

// awaitRefusal waits until the machine's node has ended because the cluster refuses
// its directory, and sees that a later start ends at once with the same words.
func (m *machine) awaitRefusal() error {
	w := m.world
	w.t.Helper()
	p := m.running()
	w.eventually(time.Minute, m.name+" is refused", func() error {
		if err := p.Err(); !errors.Is(err, ErrRefused) {
			return fmt.Errorf("its node says: %w", errors.Join(errors.New("not refused"), err))
		}
		return nil
	})
	refusal := p.Err()
	m.stop()
	if _, err := m.tryStart(); !errors.Is(err, ErrRefused) || !strings.Contains(refusal.Error(), err.Error()) && !strings.Contains(err.Error(), "older copy") {
		w.t.Errorf("the next start of %s: %v; refused before: %v", m.name, err, refusal)
	}
	return refusal
}

// A disk that is put back as it was at a moment of the present start is refused by
// the peers to which the node has acknowledged something since, and no write that
// was acknowledged is lost.
func TestAnImageOfThePresentStartIsRefused(t *testing.T) {
	inThree(t, func(t *testing.T, w *world) {
		key := keyIn(0, 4, 0)
		leader := w.leaderOf(0)
		rolled := w.others(leader)[0]
		leader.mustPut(key, "before")
		image := w.image(rolled.disk, 100) // while it runs, all its writes synced
		time.Sleep(time.Second)
		for i := range 20 {
			leader.mustPut(key, fmt.Sprint("acknowledged ", i))
		}
		rolled.crash(0)
		rolled.disk = image
		rolled.start()
		err := rolled.awaitRefusal()
		if !strings.Contains(err.Error(), "older copy") || !strings.Contains(err.Error(), "acknowledged to") {
			t.Errorf("the refusal says: %v", err)
		}
		leader.mustGet(key, "acknowledged 19")
	})
}

// The same where the image belongs to a node that led: its followers know how far
// its log had come.
func TestAnImageOfALeaderIsRefused(t *testing.T) {
	inThree(t, func(t *testing.T, w *world) {
		key := keyIn(0, 4, 0)
		leader := w.leaderOf(0)
		leader.mustPut(key, "before")
		image := w.image(leader.disk, 100)
		time.Sleep(time.Second)
		leader.mustPut(key, "acknowledged")
		leader.crash(0)
		leader.disk = image
		leader.start()
		_ = leader.awaitRefusal()
		w.leaderOf(0, w.others(leader)...)
		w.others(leader)[0].mustGet(key, "acknowledged")
	})
}

// A power cut of all nodes at once, losing whatever was not synced, refuses nobody;
// nor does a restart of one while the others go on, or of one after the other.
func TestHonestRestartsAreNotRefused(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3, seed)
			defer w.close()
			w.formed()
			for round := range 6 {
				for p := range 4 {
					if m := w.machines[w.random(3)]; m.running() != nil {
						_, _ = m.put(keyIn(0, 4, p), fmt.Sprint(round))
					}
				}
				switch w.random(3) {
				case 0:
					for _, m := range w.machines {
						m.crash(w.random(101))
					}
				case 1:
					w.machines[w.random(3)].crash(w.random(101))
				default:
					w.machines[w.random(3)].stop()
				}
				time.Sleep(w.randomTime(3 * time.Second))
				for _, m := range w.machines {
					if m.running() == nil {
						m.start()
					}
				}
				w.awaitReady(w.machines...)
			}
			for _, m := range w.machines {
				if err := m.running().Err(); err != nil {
					t.Errorf("seed %d: %s: %v", seed, m.name, err)
				}
			}
			if log := w.journal.String(); strings.Contains(log, "does not count here") {
				t.Errorf("seed %d: somebody was refuted", seed)
			}
		})
	}
}
