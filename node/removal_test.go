package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/replication"
)

func (m *machine) remove(name string, forfeit bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := clusterService{m.running().Node}.RemoveNode(ctx, &capstanv1.RemoveNodeRequest{Node: name, ForfeitTentative: forfeit})
	return err
}

func (m *machine) mustRefuseRemoval(name string, forfeit bool) {
	m.world.t.Helper()
	var refused *replication.Error
	if err := m.remove(name, forfeit); !errors.As(err, &refused) || refused.Reason != replication.BadOption || refused.Outcome != replication.NotApplied {
		m.world.t.Errorf("the removal of %s at %s: %v, want a refusal", name, m.name, err)
	}
}

func TestRemoveNode(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		m, gone := w.machines[0], w.machines[2]
		key := m.running().ring().SessionKey()
		for _, other := range w.machines {
			if got := other.running().ring().SessionKey(); len(got) != 32 || string(got) != string(key) {
				t.Errorf("%s has another session key", other.name)
			}
		}
		id := gone.running().id
		m.mustRefuseRemoval("n9", true)
		m.mustRefuseRemoval("n3", true) // it is alive
		m.mustRefuseRemoval("n1", true) // itself
		gone.crash(100)
		m.mustRefuseRemoval("n3", true) // as far as gossip knows, it is alive
		w.eventually(time.Minute, "n3 is noticed dead", func() error {
			if m.running().alive()[id] {
				return errors.New("not yet")
			}
			return nil
		})
		m.mustRefuseRemoval("n3", false) // nobody knows what it holds
		if err := m.remove("n3", true); err != nil {
			t.Fatal(err)
		}
		if known, _ := m.running().ring().Node(id); known.State != control.Left {
			t.Fatalf("removed, and then %s", known.State)
		}
		if err := m.remove(string(id), true); err != nil {
			t.Errorf("removing it again: %v", err)
		}
		w.eventually(time.Minute, "all know", func() error {
			if known, _ := w.machines[1].running().ring().Node(id); known.State != control.Left {
				return fmt.Errorf("n2 knows it as %s", known.State)
			}
			return nil
		})
		// Two of three: another one can not be spared.
		w.machines[1].crash(100)
		w.eventually(time.Minute, "n2 is noticed dead", func() error {
			if m.running().alive()[w.machines[1].last.id] {
				return errors.New("not yet")
			}
			return nil
		})
		if err := m.remove("n2", true); err == nil {
			t.Error("a node was removed without a quorum of the control group")
		}
		w.machines[1].start()
		w.awaitReady(m, w.machines[1])
		m.mustPut("after", "the removal")

		// Its disk comes back: nobody talks to it, and it ends saying why.
		p := gone.start()
		select {
		case <-p.Done():
		case <-time.After(time.Minute):
			t.Fatal("a removed node goes on")
		}
		if err := p.Err(); !errors.Is(err, ErrRefused) {
			t.Errorf("it ended with: %v", err)
		}
		for _, m := range w.machines[:2] {
			if m.running().transport.Connected(id) {
				t.Errorf("%s is connected to the removed node", m.name)
			}
		}
		gone.stop()
		// With an empty disk the machine is a new node under the old name.
		gone.wipe()
		gone.start()
		w.awaitReady(w.machines...)
		gone.mustPut("by a new node", "n3")
		m.mustGet("by a new node", "n3")
	})
}

// A node that is cut off while it is removed goes on until it hears of it, and
// then ends.
func TestRemoveNodeThatIsCutOff(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		m, gone := w.machines[0], w.machines[2]
		p := gone.running()
		w.net.Isolate(gone.host)
		w.eventually(time.Minute, "n3 is noticed dead", func() error {
			if m.running().alive()[p.id] {
				return errors.New("not yet")
			}
			return nil
		})
		if err := m.remove("n3", true); err != nil {
			t.Fatal(err)
		}
		w.net.Heal()
		select {
		case <-p.Done():
		case <-time.After(time.Minute):
			t.Fatal("a removed node goes on")
		}
		if err := p.Err(); !errors.Is(err, ErrRefused) {
			t.Errorf("it ended with: %v", err)
		}
	})
}
