package nemesis

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
)

// machine keeps what is to be with one node: how many events want it down, how many
// want it to stand, and what bends it. Whatever changes, settle brings it about.
type machine struct {
	Machine
	name    string
	started func(node string) // told when its process is a new one

	mu     sync.Mutex // held while it is changed: one change at a time
	downs  int
	pauses int
	bends  []*cluster.Control
	bent   cluster.Control // in force
	ends   int             // events during which it may end by itself
}

// down counts an event in that wants the node down. It reports whether that ended a
// process.
func (m *machine) down() (killed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.State()
	m.downs++
	err = m.settle()
	return was != cluster.Down && m.State() == cluster.Down, err
}

// up counts it out. It reports whether the node's process runs again.
func (m *machine) up() (started bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.State()
	m.downs--
	err = m.settle()
	return was == cluster.Down && m.State() != cluster.Down, err
}

// pause counts an event in that wants the process to stand. It reports whether it
// does, as the kernel sees it.
func (m *machine) pause() (stands bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pauses++
	if err := m.settle(); err != nil || m.State() != cluster.Paused {
		return false, err
	}
	return m.Stands()
}

func (m *machine) resume() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pauses--
	return m.settle()
}

// fatal reports whether a node may end itself for a control.
func fatal(c *cluster.Control) bool { return c.DiskFull || c.SyncError }

// bend has the node follow a control beside others, told apart by its address. If
// that is fatal, it may end by itself from now on.
func (m *machine) bend(c *cluster.Control) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bends = append(m.bends, c)
	if fatal(c) {
		m.ends++
		m.MayEnd(true)
	}
	return m.settle()
}

// unbend takes the control back, and starts the node if it has ended by itself.
func (m *machine) unbend(c *cluster.Control) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bends = slices.DeleteFunc(m.bends, func(b *cluster.Control) bool { return b == c })
	return m.settle()
}

// unforgiven is when a fatal control is behind it: that it ends by itself is trouble
// again. One that ended before is started.
func (m *machine) unforgiven() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ends--; m.ends == 0 {
		m.MayEnd(false)
	}
	return m.settle()
}

// wipe empties the disk of a node that is down.
func (m *machine) wipe() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Wipe()
}

// restart has the process end in order and starts it again. Nothing is done to one that
// is down or stands: that is what others want. The complaint is about how it ended,
// which is not for a nemesis to judge.
func (m *machine) restart(ctx context.Context) (done bool, complaint string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.State() != cluster.Running {
		return false, m.name + " did not run", nil
	}
	if stopped := m.Stop(ctx); stopped != nil {
		complaint = stopped.Error()
	}
	return m.State() == cluster.Down, complaint, m.settle()
}

// settle has the node be as it is to be. The caller holds the lock.
func (m *machine) settle() error {
	if m.downs > 0 {
		if m.State() == cluster.Down {
			return nil
		}
		return m.Kill()
	}
	var controls []cluster.Control
	for _, c := range m.bends {
		controls = append(controls, *c)
	}
	if want := mergeBends(controls...); want != m.bent {
		if err := m.Bend(want); err != nil {
			return err
		}
		m.bent = want
	}
	if m.State() == cluster.Down {
		if err := m.Start(); err != nil {
			return err
		}
		m.started(m.name)
	}
	var err error
	switch state := m.State(); {
	case m.pauses > 0 && state == cluster.Running:
		err = m.Pause()
	case m.pauses == 0 && state == cluster.Paused:
		err = m.Resume()
	}
	if errors.Is(err, cluster.ErrNotRunning) {
		return nil // it ended by itself; that is noted elsewhere
	}
	return err
}

// heal tries once more what failed.
func (m *machine) heal() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settle()
}

// obeys waits until the process follows its control, for some time; false: it does
// not, or has ended.
func (m *machine) obeys(ctx context.Context, end time.Time) (bool, error) {
	if patience := time.Now().Add(obeyPatience); patience.Before(end) {
		end = patience
	}
	for {
		obeys, err := m.Obeys()
		if obeys || err != nil {
			return obeys, err
		}
		if next := time.Now().Add(askAgain); m.State() == cluster.Down || next.After(end) || !until(ctx, next) {
			return false, nil
		}
	}
}

// straighten takes a control back. A process that ended by itself for it, or does so
// soon after, is started; that is reported. One that is ready, or not after a while,
// does not end for it any more.
func (m *machine) straighten(ctx context.Context, c *cluster.Control) (started bool, failed error) {
	started = m.State() == cluster.Down
	failed = m.unbend(c)
	if !fatal(c) {
		return started, failed
	}
	if failed == nil {
		waiting, cancel := context.WithTimeout(ctx, endPatience)
		defer cancel()
		if err := m.AwaitReady(waiting); err != nil && m.State() == cluster.Down {
			started = true
		}
	}
	return started, errors.Join(failed, m.unforgiven())
}
