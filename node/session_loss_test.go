package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// disks hang until a time, a machine at a time: what would make the log durable
// does not return before that.
type disks struct {
	lock sync.Mutex
	ends map[string]time.Time
}

func (d *disks) attach(c *Config) {
	name := c.Name
	c.FS = errorfs.Wrap(c.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		default:
			return nil
		}
		if !strings.HasSuffix(op.Path, ".log") || !strings.Contains(op.Path, "log/") {
			return nil
		}
		d.lock.Lock()
		end := d.ends[name]
		d.lock.Unlock()
		time.Sleep(time.Until(end))
		return nil
	}))
}

// hang has the machine's disk hang until a time.
func (d *disks) hang(m *machine, end time.Time) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.ends == nil {
		d.ends = map[string]time.Time{}
	}
	d.ends[m.name] = end
}

// The disk of a node fails while it takes an eventual write of a session, and
// nothing of the write is left. The session is not to wait for what nobody has:
// once the node is back everything goes on, at every node and level.
func TestASessionOutlivesAWriteThatNobodyHas(t *testing.T) {
	disks := &disks{}
	inCluster(t, 3, func(w *world) {
		n1, n3, key := w.machines[0], w.machines[2], keyIn(0, 4, 1)
		me := &talk{}
		n1.mustWrite(ask{talk: me}, key, "before")
		disks.hang(n3, time.Now().Add(20*time.Second))
		_, err := n3.write(ask{level: eventual, talk: me, wait: time.Second}, keyIn(0, 4, 2), "mine")
		if e := w.refusal(err, replication.Deadline, replication.Unknown); e.Receipt == "" || e.Session == "" {
			t.Errorf("receipt %q, session %q", e.Receipt, e.Session)
		}
		n3.crash(0)
		disks.hang(n3, time.Time{})
		n3.start()
		w.awaitReady(w.machines...)
		for _, m := range w.machines {
			for _, level := range []capstanv1.Consistency{linearizable, bounded, eventual} {
				m.mustRead(ask{talk: me, level: level, within: time.Minute}, key, "before")
			}
			m.mustWrite(ask{talk: me}, keyIn(0, 4, 3), "after")
		}
	}, disks.attach)
}

// tidied has a session write linearizably in partition 0, and goes on until the
// session's token leaves the partition out: every member has heard of the write.
func (w *world) tidied(at *machine, key, value string) *talk {
	w.t.Helper()
	const p = 0
	me := &talk{}
	at.mustWrite(ask{talk: me}, key, value)
	w.eventually(time.Minute, "the token leaves the partition out", func() error {
		at.mustRead(ask{talk: me, level: eventual}, key, value)
		past, err := at.running().sessions.read(me.token)
		if err == nil && (past.Empty() || past.Knows(p)) {
			err = errors.New("not yet")
		}
		return err
	})
	return me
}

// A session's token leaves out what every member has heard of. A member without a
// replica crashes, starts again, and takes the session's next write: it still has
// heard of the session's first one, so that the second one stands.
func TestWhatAMemberHasHeardOfOutlivesACrash(t *testing.T) {
	for _, test := range []struct {
		what   string
		keep   int // percent of what was not synced
		cutOff bool
	}{
		{"its process was killed, first request", 100, false},
		{"its process was killed, cut off", 100, true},
		{"its power was cut, first request", 0, false},
		{"its power was cut, cut off", 0, true},
	} {
		t.Run(test.what, func(t *testing.T) {
			inCluster(t, 5, func(w *world) {
				const p = 0
				holders, others := w.holders(p)
				m, key := others[0], keyIn(p, 4, 1)
				me := w.tidied(holders[0], key, "first")
				m.crash(test.keep)
				time.Sleep(time.Second)
				m.startRegistered()
				if test.cutOff {
					w.cut(m)
				}
				r := m.mustWrite(ask{level: eventual, talk: me}, key, "second")
				m.mustRead(ask{level: eventual, talk: me}, key, "second")
				w.heal()
				w.awaitNoBacklog()
				m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				holders[0].mustRead(ask{}, key, "second")
			})
		})
	}
}

// The same for what a session is shown: another client's write, taken by a member
// that was killed and is cut off, is not shown to a session which saw a write that
// this one loses to.
func TestWhatAMemberShowsAfterACrash(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		m.mustWrite(ask{level: eventual}, keyIn(p, 4, 7), "x") // some index is durable with it
		w.awaitNoBacklog()
		time.Sleep(5 * time.Second)
		me := w.tidied(holders[0], key, "first")
		m.crash(100)
		m.startRegistered()
		w.cut(m)
		r := m.mustWrite(ask{level: eventual}, key, "another client's")
		shown, err := m.read(ask{level: eventual, talk: me}, key)
		w.heal()
		w.awaitNoBacklog()
		fate, lost := m.await(r.GetReceipt(), time.Minute)
		if lost != nil {
			t.Fatal(lost)
		}
		if err == nil && fate.GetFate() != capstanv1.Fate_FATE_COMMITTED {
			t.Errorf("the session wrote first, and was shown %q, which is %v", shown.GetValue(), fate.GetFate())
		}
	})
}

// A node that has just joined, and reaches nobody any more, does not know how much of
// a session's past its token leaves out: it refuses the session's write, and takes
// that of others. Once it has heard from all members it takes both.
func TestAJoinerRefusesASessionWhosePastItMayNotKnow(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, _ := w.holders(p)
		key := keyIn(p, 4, 1)
		me := w.tidied(holders[0], key, "first")
		// One member does not tell it anything. It is not the control group's leader,
		// who has to.
		silent := slices.IndexFunc(w.machines, func(m *machine) bool { return !m.running().control.group.Leads() })
		j := w.addMachine()
		w.net.Cut(j.host, w.machines[silent].host)
		w.net.Cut(w.machines[silent].host, j.host)
		j.start()
		w.eventually(time.Minute, "it belongs to the cluster", func() error {
			if !slices.Contains(j.running().ring().Members(), j.running().id) || !j.running().ring().Placed() {
				return errors.New("not yet")
			}
			return nil
		})
		time.Sleep(5 * time.Second)
		w.cut(j)
		j.awaitAlone()
		before := &talk{me.token}
		_, err := j.write(ask{level: eventual, talk: me}, key, "too soon")
		w.refusal(err, replication.SessionBehind, replication.NotApplied)
		stranger := j.mustWrite(ask{level: eventual}, key, "another client's")
		if _, err := j.read(ask{level: eventual, talk: before}, key); err == nil {
			t.Error("it shows a session what it may have seen replaced")
		}
		w.heal()
		w.awaitNoBacklog()
		j.mustBecome(stranger.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)

		me = w.tidied(holders[0], key, "again")
		j.crash(0)
		j.startRegistered()
		w.cut(j)
		j.awaitAlone()
		r := j.mustWrite(ask{level: eventual, talk: me}, key, "second")
		w.heal()
		w.awaitNoBacklog()
		j.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
	})
}

// only leaves the links of m to those machines, and no others between any two.
func (w *world) only(m *machine, to ...*machine) {
	for _, a := range w.machines {
		for _, b := range w.others(a) {
			w.net.Cut(a.host, b.host)
		}
	}
	for _, o := range to {
		w.net.HealBetween(m.host, o.host)
	}
}

// A session writes at a node without a replica, and is then shown at a replica a
// version that beats this write: the write was based on an index whose value its
// node did not hold. Back at that node, which reaches no replica, the session is not
// shown its write again; nor is it if another write of the key, which beats its own,
// stands between the two at the replica.
func TestASessionIsNotShownWhatItSawBeaten(t *testing.T) {
	for _, between := range []bool{false, true} {
		t.Run(fmt.Sprintf("another write between=%v", between), func(t *testing.T) {
			clocks := &skewed{}
			inCluster(t, 5, func(w *world) {
				const p = 0
				holders, others := w.holders(p)
				h, m, key := holders[0], others[0], keyIn(p, 4, 1)
				clocks.set(h, time.Hour)
				fast := h.mustWrite(ask{level: eventual, acks: 3}, key, "fast")
				h.mustBecome(fast.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				w.awaitNoBacklog()
				time.Sleep(5 * time.Second) // all hear of the index
				w.only(m)
				m.awaitAlone()
				me := &talk{}
				slow := m.mustWrite(ask{level: eventual, talk: me}, key, "slow")
				if slow.GetVersion().GetTimestamp() >= fast.GetVersion().GetTimestamp() || slow.GetBase() < 1 {
					t.Fatalf("slow is %v with base %d, fast is %v", slow.GetVersion(), slow.GetBase(), fast.GetVersion())
				}
				heldBy := []*machine{m}
				if between {
					time.Sleep(time.Second)
					others[1].awaitAlone()
					others[1].mustWrite(ask{level: eventual}, key, "middle")
					heldBy = others
				}
				w.only(h, heldBy...)
				w.eventually(time.Minute, "h holds what the others took", func() error {
					log, err := h.running().exchange.Tentative(p)
					if err == nil && log.Backlog().Count < len(heldBy) {
						err = errors.New("not yet")
					}
					return err
				})
				h.mustRead(ask{level: eventual, talk: me}, key, "fast")
				w.only(m)
				m.awaitAlone()
				if r, err := m.read(ask{level: eventual, talk: me}, key); err == nil {
					t.Errorf("the session saw fast, and then %q", r.GetValue())
				}
				m.mustRead(ask{level: eventual}, key, "slow") // without the session
			}, clocks.clock)
		})
	}
}
