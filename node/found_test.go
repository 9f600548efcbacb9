package node

import (
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// What the simulation of all levels has found, one by one.

// A session that has seen a version, or a tombstone, by a scan writes above it,
// also where neither is held.
func TestScanTellsTheSessionOfTimestamps(t *testing.T) {
	clocks, g := &skewed{}, &gates{}
	inCluster(t, 3, func(w *world) {
		leader := w.leaderOf(0)
		behind, fast := w.others(leader)[0], w.others(leader)[1]
		clocks.set(fast, time.Hour)
		defer g.shut(behind, 0)()
		for i, value := range []string{"value", ""} {
			for j, scan := range []ask{{level: eventual}, {level: bounded, within: time.Minute}, {}} {
				key := keyIn(0, 4, 10*i+j)
				seen := fast.mustWrite(ask{level: eventual}, key, value)
				leader.mustBecome(seen.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				scan.talk = &talk{}
				if _, _, err := leader.scanAt(scan, key); err != nil {
					t.Fatal(err)
				}
				after := behind.mustWrite(ask{talk: scan.talk, level: eventual}, key, "after")
				if after.GetVersion().GetTimestamp() <= seen.GetVersion().GetTimestamp() {
					t.Errorf("%v scan of %q: %v is not above %v", scan.level, value, after.GetVersion(), seen.GetVersion())
				}
			}
		}
	}, clocks.clock, g.guard)
}

// A session that has seen by a scan that a key has no value, because of a
// tentative delete, does not find the value again elsewhere.
func TestScanTellsTheSessionOfDeletes(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		key := keyIn(0, 4, 1)
		n1.mustWrite(ask{}, key, "value")
		n3.mustRead(ask{}, key, "value")
		w.cut(n3)
		w.awaitApart(0, n3)
		n3.mustWrite(ask{level: eventual}, key, "")
		me := &talk{}
		if keys, _, err := n3.scanAt(ask{talk: me, level: eventual}, key); err != nil || len(keys) > 0 {
			t.Fatalf("scan: %v, %v", keys, err)
		}
		_, err := n1.read(ask{talk: me, level: eventual, wait: 2 * time.Second}, key)
		w.refusal(err, replication.SessionBehind, replication.NotApplied)
	})
}

// What a session has seen is left out of its token only when nobody can do
// without: a node without a replica, on which a client comes out in a cut, bases
// its write on what the session knows of.
func TestTokenReachesThoseWhoHaveNotHeard(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		holders, others := w.holders(0)
		hint, leader := others[0], w.leaderOf(0)
		w.cut(hint)
		time.Sleep(10 * time.Second)
		key, me := keyIn(0, 4, 1), &talk{}
		seen := leader.mustWrite(ask{talk: me}, key, "seen")
		for range 10 { // until all replicas have told that they have it for good
			time.Sleep(5 * time.Second)
			holders[0].mustRead(ask{talk: me}, key, "seen")
		}
		after := hint.mustWrite(ask{talk: me, level: eventual}, key, "after")
		if after.GetBase() < seen.GetVersion().GetIndex() {
			t.Errorf("the session has seen entry %d, and its write is based on %d", seen.GetVersion().GetIndex(), after.GetBase())
		}
		w.heal()
		leader.mustBecome(after.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
	})
}
