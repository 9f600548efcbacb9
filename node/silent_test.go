package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// prompt is the longest that a request at the eventual level may take, whoever is
// silent: some hedges, and one wait for the last of the nodes.
const prompt = 4*askHedge + askPatience + 500*time.Millisecond

// within has what is done take no longer.
func (w *world) within(d time.Duration, what string, do func()) {
	w.t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > d {
		w.t.Errorf("%s took %v, at most %v are allowed", what, took, d)
	}
}

// A node that has no replica asks others. One that fell silent just now, and
// does not count as silent yet, costs some milliseconds, and no error.
func TestSilentReplica(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		tag := key[:strings.Index(key, "}")+1]
		old := m.mustWrite(ask{level: eventual}, key, "old")
		m.mustBecome(old.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		w.compareHolders()
		for _, silent := range holders {
			w.net.Isolate(silent.host)
			w.within(prompt, "read", func() { m.mustRead(ask{level: eventual}, key, "old") })
			w.within(prompt, "scan", func() {
				if got, _, err := m.scanAt(ask{level: eventual}, tag); err != nil || !slices.Equal(got, []string{key}) {
					t.Errorf("scan: %v, %v", got, err)
				}
			})
			w.within(prompt, "conflicts", func() {
				if _, err := m.conflicts(tag); err != nil {
					t.Errorf("conflicts: %v", err)
				}
			})
			w.within(prompt, "fate", func() {
				if r, err := m.await(old.GetReceipt(), 0); err != nil || r.GetFate() != capstanv1.Fate_FATE_COMMITTED {
					t.Errorf("fate: %v, %v", r, err)
				}
			})
			w.heal()
			w.net.Isolate(silent.host)
			w.within(prompt, "write", func() { m.mustWrite(ask{level: eventual}, key, "new") })
			w.heal()
			r := m.mustWrite(ask{level: eventual}, key, "old")
			m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
			w.compareHolders()
		}

		// All of them at once: it keeps the write, and answers with it.
		w.cut(holders...)
		var hint *capstanv1.PutResponse
		w.within(prompt, "write", func() { hint = m.mustWrite(ask{level: eventual}, key, "hint") })
		if hint.GetServedBy() != m.name {
			t.Errorf("accepted by %s", hint.GetServedBy())
		}
		me := &talk{}
		w.within(prompt, "read", func() { m.mustRead(ask{level: eventual, talk: me}, key, "hint") })
		w.within(prompt, "read of the session", func() { m.mustRead(ask{level: eventual, talk: me}, key, "hint") })
		w.within(prompt, "read of what is not there", func() {
			_, err := m.read(ask{level: eventual}, keyIn(p, 4, 2))
			w.refusal(err, replication.NoReplica, replication.NotApplied)
		})
		w.within(prompt, "fate", func() {
			if r, err := m.await(hint.GetReceipt(), 0); err != nil || r.GetFate() != capstanv1.Fate_FATE_PENDING {
				t.Errorf("fate: %v, %v", r, err)
			}
			_, err := m.await(old.GetReceipt(), 0) // decided, and who knows is not there
			w.refusal(err, replication.NoReplica, replication.NotApplied)
		})
		w.heal()
		m.mustBecome(hint.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
	})
}

// Of several replicas' answers the one with the highest applied state counts,
// and fewer than asked for are enough.
func TestReplicasAsked(t *testing.T) {
	g := &gates{}
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		leader := w.leaderOf(p)
		behind := holders[0]
		if behind == leader {
			behind = holders[1]
		}
		key := keyIn(p, 4, 1)
		leader.mustWrite(ask{}, key, "old")
		behind.mustRead(ask{}, key, "old")
		open := g.shut(behind, p)
		defer open()
		leader.mustWrite(ask{}, key, "new")
		for _, other := range holders {
			if other != behind {
				other.mustRead(ask{}, key, "new") // has applied it
			}
		}
		behind.mustRead(ask{level: eventual, replicas: 1}, key, "old")
		for _, n := range []uint32{2, 3, 7} {
			if r := behind.mustRead(ask{level: eventual, replicas: n}, key, "new"); r.GetFreshness().GetServedBy() == behind.name {
				t.Errorf("%d replicas: served by the one that is behind", n)
			}
			others[0].mustRead(ask{level: eventual, replicas: max(n, 2)}, key, "new")
		}
		// A tentative write that only the asking node holds counts too.
		w.cut(behind)
		behind.awaitCutOff(p)
		w.within(prompt, "read of one of three", func() { behind.mustRead(ask{level: eventual, replicas: 3}, key, "old") })
		behind.mustWrite(ask{level: eventual, talk: nil}, keyIn(p, 4, 2), "mine")
		w.within(prompt, "read of one of three", func() { behind.mustRead(ask{level: eventual, replicas: 3}, keyIn(p, 4, 2), "mine") })
		open()
	}, g.guard)
}

// A session at a node without a replica, at all levels, while what it wrote is
// not decided.
func TestSessionWithoutReplica(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		me := &talk{}
		for i := range 12 {
			value := fmt.Sprint("v", i)
			m.mustWrite(ask{talk: me, level: []capstanv1.Consistency{eventual, linearizable}[i%2]}, key, value)
			m.mustRead(ask{talk: me, level: eventual}, key, value)
			others[i%len(others)].mustRead(ask{talk: me, level: []capstanv1.Consistency{eventual, linearizable, bounded}[i%3], within: time.Hour * time.Duration(i%3/2)}, key, value)
			holders[i%3].mustRead(ask{talk: me, level: eventual, replicas: uint32(i % 4)}, key, value)
		}
		w.awaitNoBacklog()

		// One of three replicas is left on this side: no leader. What the session
		// writes is held by it, tentative, and shown at no other level.
		w.cut(holders[1:]...)
		holders[0].awaitCutOff(p)
		r := m.mustWrite(ask{talk: me, level: eventual}, key, "undecided")
		if r.GetServedBy() != holders[0].name {
			t.Errorf("accepted by %s, want %s, the replica that is left", r.GetServedBy(), holders[0].name)
		}
		tag := key[:strings.Index(key, "}")+1]
		for _, at := range []*machine{m, others[1], holders[0]} {
			if r := at.mustRead(ask{talk: me, level: eventual}, key, "undecided"); !r.GetFreshness().GetTentative() {
				t.Errorf("read at %s: %v", at.name, r)
			}
			got, end, err := at.scanAt(ask{talk: me, level: eventual}, tag)
			if err != nil || !slices.Equal(got, []string{key}) || !end.GetFreshness().GetTentative() {
				t.Errorf("scan at %s: %v, %v, %v", at.name, got, end, err)
			}
			for _, level := range []capstanv1.Consistency{linearizable, bounded} {
				a := ask{talk: &talk{me.token}, level: level, wait: 2 * time.Second}
				if level == bounded {
					a.within = time.Hour
				}
				if r, err := at.read(a, key); err == nil {
					t.Errorf("%v at %s: %v", level, at.name, r)
				}
				if got, end, err := at.scanAt(a, tag); err == nil {
					t.Errorf("%v scan at %s: %v, %v", level, at.name, got, end)
				}
			}
		}
		// Who can not have it says so.
		_, err := holders[1].read(ask{talk: &talk{me.token}, level: eventual, wait: 2 * time.Second}, key)
		w.refusal(err, replication.SessionBehind, replication.NotApplied)
		w.heal()
		m.mustRead(ask{talk: me, level: linearizable}, key, "undecided")
		w.awaitNoBacklog()
		m.mustRead(ask{talk: me, level: bounded, within: time.Hour}, key, "undecided")
	})
}

// The only holder of a write is down: the write is pending, say those who would
// know, and nobody waits for longer than was asked.
func TestFateWithTheHolderDown(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		w.cut(m)
		w.eventually(time.Minute, "nobody is heard", func() error {
			for _, o := range w.others(m) {
				if m.running().heardOf(o.running().id) {
					return errors.New("yet")
				}
			}
			return nil
		})
		hint := m.mustWrite(ask{level: eventual}, key, "hint")
		m.crash(0)
		w.heal()
		for _, at := range []*machine{holders[0], others[1]} {
			for _, wait := range []time.Duration{0, 3 * time.Second} {
				w.within(wait+time.Second, "await", func() {
					if r, err := at.await(hint.GetReceipt(), wait); err != nil || r.GetFate() != capstanv1.Fate_FATE_PENDING {
						t.Errorf("fate at %s: %v, %v", at.name, r, err)
					}
				})
			}
		}
		m.start()
		w.awaitReady(w.machines...)
		others[1].mustBecome(hint.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		m.mustRead(ask{}, key, "hint")
	})
}

// A node that starts while it is cut off from a partition has never heard of it. It
// knows from its disk where partitions are, and how far they were: without that,
// it could not tell what a session may have seen.
func TestEventualWritesAlone(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		_, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		w.eventually(time.Minute, m.name+" has heard of the partition", func() error {
			log, err := m.running().exchange.Tentative(p)
			if err == nil && log.Heard() == 0 {
				err = errors.New("not yet")
			}
			return err
		})
		m.stop()
		w.cut(others...) // the control group has a quorum there
		m.startRegistered()
		w.cut(m)
		w.eventually(time.Minute, m.name+" is alone", func() error {
			for _, o := range w.others(m) {
				if m.running().heardOf(o.running().id) {
					return errors.New("it has just heard " + o.name)
				}
			}
			return nil
		})
		me := &talk{}
		var r *capstanv1.PutResponse
		w.within(prompt, "write", func() { r = m.mustWrite(ask{level: eventual, talk: me}, key, "alone") })
		if r.GetServedBy() != m.name {
			t.Errorf("accepted by %s", r.GetServedBy())
		}
		w.within(prompt, "read", func() { m.mustRead(ask{level: eventual, talk: me}, key, "alone") })
		_, err := m.write(ask{level: eventual, acks: 2}, key, "two")
		if e := w.refusal(err, replication.TooFewAcks, replication.NotApplied); e.Reachable != 1 || e.Needed != 2 {
			t.Errorf("refused with %+v", e)
		}
		_, err = m.read(ask{level: eventual}, keyIn(p, 4, 2))
		w.refusal(err, replication.NoReplica, replication.NotApplied)
		w.heal()
		m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
	}, func(c *Config) { c.ReplicationFactor = 2 })
}

// A node that has just started takes what others have to hold too.
func TestAcksAtOnceAfterTheStart(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n3 := w.machines[2]
		for i := range 5 {
			n3.stop()
			n3.start()
			var err error
			w.eventually(time.Minute, "the write is accepted", func() error {
				_, err = n3.write(ask{level: eventual, acks: 3}, keyIn(0, 4, i), "v")
				var e *replication.Error
				if errors.As(err, &e) && e.Reason == replication.TooFewAcks && len(n3.running().alive()) == 3 {
					return nil
				}
				return err
			})
			if err != nil {
				t.Errorf("gossip knows of three nodes: %v", err)
			}
		}
	})
}

// Fewer nodes than the replication factor: that is no fault of the request.
func TestAcksOfOne(t *testing.T) {
	inCluster(t, 1, func(w *world) {
		n1 := w.machines[0]
		for _, acks := range []uint32{2, 3} {
			_, err := n1.write(ask{level: eventual, acks: acks}, "k", "v")
			if e := w.refusal(err, replication.TooFewAcks, replication.NotApplied); e.Reachable != 1 || e.Needed != int(acks) {
				t.Errorf("acks %d: refused with %+v", acks, e)
			}
		}
		_, err := n1.write(ask{level: eventual, acks: 4}, "k", "v")
		w.refusal(err, replication.BadOption, replication.NotApplied)
	})
}
