package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
)

// inWorld runs a test on a formed cluster of n machines, and compares its
// replicas in the end.
func inCluster(t *testing.T, n int, test func(w *world), options ...func(*Config)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n, 1, options...).formed()
		defer w.close()
		test(w)
		if !t.Failed() {
			w.heal()
			w.awaitNoBacklog()
			w.compareHolders()
		}
	})
}

// In a healthy cluster an eventual write is readable at once where it was
// accepted, and committed within 100 ms.
func TestEventualWriteIsPromoted(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		for i := range 20 {
			m := w.machines[i%3]
			key := keyIn(partition.ID(i%4), 4, i)
			r := m.mustWrite(ask{level: eventual}, key, "v")
			if r.GetReceipt() == "" || r.GetVersion().GetIndex() != 0 || r.GetServedBy() != m.name {
				t.Fatalf("answer of an eventual put: %v", r)
			}
			m.mustRead(ask{level: eventual}, key, "v")
			began := time.Now()
			fate := m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
			if lag := time.Since(began); lag > 100*time.Millisecond {
				t.Errorf("promoted after %v", lag)
			}
			if v := fate.GetVersion(); v.GetIndex() <= r.GetBase() || v.GetTimestamp() != r.GetVersion().GetTimestamp() {
				t.Errorf("committed as %v, accepted as %v with base %d", v, r.GetVersion(), r.GetBase())
			}
			m.mustRead(ask{level: linearizable}, key, "v")
		}
		if found, err := w.machines[0].conflicts(""); err != nil || len(found) > 0 {
			t.Errorf("conflicts %v, %v", found, err)
		}
	})
}

// Both sides of a cut take eventual requests, linearizable ones only that with
// the quorum; what was written blindly on the other side loses, and is listed.
func TestBothSidesOfACut(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		key, other := keyIn(0, 4, 1), keyIn(0, 4, 2)
		n1.mustWrite(ask{}, key, "pear")
		w.cut(n3)
		w.awaitApart(0, n3)

		_, err := n3.write(ask{}, key, "cherry")
		w.refusal(err, replication.NoQuorum, replication.NotApplied)
		fig := n1.mustWrite(ask{}, key, "fig")
		plum := n3.mustWrite(ask{level: eventual}, key, "plum")
		if r := n3.mustRead(ask{level: eventual}, key, "plum"); !r.GetFreshness().GetTentative() || r.GetFreshness().GetServedBy() != "n3" {
			t.Errorf("read of a tentative write: %v", r)
		}
		left := n1.mustWrite(ask{level: eventual}, other, "left")
		time.Sleep(time.Second)
		right := n3.mustWrite(ask{level: eventual}, other, "right")
		n1.mustBecome(left.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n3.mustRead(ask{level: eventual}, other, "right")
		n1.mustRead(ask{level: eventual}, other, "left")
		if r, err := n3.await(right.GetReceipt(), 0); err != nil || r.GetFate() != capstanv1.Fate_FATE_PENDING {
			t.Errorf("fate in the minority: %v, %v", r, err)
		}

		w.heal()
		lost := n1.mustBecome(plum.GetReceipt(), capstanv1.Fate_FATE_SUPERSEDED)
		if lost.GetVersion().GetIndex() != fig.GetVersion().GetIndex() {
			t.Errorf("plum lost to %v, fig is %v", lost.GetVersion(), fig.GetVersion())
		}
		n3.mustBecome(right.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		for _, m := range w.machines {
			m.mustRead(ask{}, key, "fig")
			m.mustRead(ask{}, other, "right")
		}
		found, err := n3.conflicts("")
		if err != nil || len(found) != 2 {
			t.Fatalf("conflicts %v, %v", found, err)
		}
		slices.SortFunc(found, func(a, b *capstanv1.Conflict) int { return strings.Compare(string(a.GetKey()), string(b.GetKey())) })
		for i, want := range []struct {
			key, value string
			cause      capstanv1.ConflictCause
		}{
			{key, "plum", capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE},
			{other, "left", capstanv1.ConflictCause_CONFLICT_CAUSE_OLDER},
		} {
			if c := found[i]; string(c.GetKey()) != want.key || string(c.GetLosingValue()) != want.value || c.GetCause() != want.cause {
				t.Errorf("conflict %d: %v, want %v", i, c, want)
			}
		}

		// Who has heard of fig may replace it.
		date := n1.mustWrite(ask{level: eventual}, key, "date")
		n3.mustBecome(date.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n3.mustRead(ask{}, key, "date")
		if found, err := n1.conflicts(key); err != nil || len(found) != 1 {
			t.Errorf("conflicts %v, %v", found, err)
		}
	})
}

// A node that holds no replica of the partition, and reaches none, keeps the
// write, shows it, and hands it in when it can.
func TestHints(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		_, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		passed := m.mustWrite(ask{level: eventual}, key, "passed on")
		if passed.GetServedBy() == m.name {
			t.Errorf("%s has no replica and accepted the write, though others could be reached", m.name)
		}
		m.mustBecome(passed.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)

		w.cut(m)
		m.awaitAlone()
		hint := m.mustWrite(ask{level: eventual}, key, "hint")
		if hint.GetServedBy() != m.name {
			t.Errorf("the hint was accepted by %s", hint.GetServedBy())
		}
		m.mustRead(ask{level: eventual}, key, "hint")
		if _, err := m.read(ask{level: eventual}, keyIn(p, 4, 2)); err == nil {
			t.Error("a key of which nothing is held was answered without a replica")
		} else {
			w.refusal(err, replication.NoReplica, replication.NotApplied)
		}
		w.heal()
		m.mustBecome(hint.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		m.mustRead(ask{level: eventual}, key, "hint")
		w.awaitNoBacklog()
		m.mustRead(ask{level: eventual}, key, "hint")
	})
}

// What every replica has applied is left out of tokens. A node without a replica
// that is cut off has not, and must not show such a session a hint that had not
// heard of it.
func TestHintsAreNotShownToWhoHasSeenMore(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		w.cut(m)
		m.awaitAlone()
		me := &talk{}
		holders[0].mustWrite(ask{talk: me}, key, "safe")
		time.Sleep(time.Minute)
		m.mustWrite(ask{level: eventual}, key, "hint") // later, and it will lose
		holders[0].mustWrite(ask{talk: me}, keyIn(1, 4, 1), "elsewhere")
		m.mustRead(ask{level: eventual}, key, "hint")
		if r, err := m.read(ask{talk: me, level: eventual}, key); err == nil {
			t.Errorf("who has written %q, linearizably, reads %q", "safe", r.GetValue())
		}
		w.heal()
		w.awaitNoBacklog()
		m.mustRead(ask{talk: me, level: eventual}, key, "safe")
	})
}

func TestAcks(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		key := keyIn(0, 4, 1)
		_, err := n1.write(ask{level: eventual, acks: 4}, key, "x")
		w.refusal(err, replication.BadOption, replication.NotApplied)
		all := n1.mustWrite(ask{level: eventual, acks: 3}, key, "all")
		n1.mustBecome(all.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		w.awaitNoBacklog()

		w.cut(n3)
		w.awaitApart(0, n3)
		_, err = n3.write(ask{level: eventual, acks: 2}, key, "x")
		if e := w.refusal(err, replication.TooFewAcks, replication.NotApplied); e.Reachable != 1 || e.Needed != 2 {
			t.Errorf("refused with %+v", e)
		}
		if held := n3.running().exchange.Backlog()[0]; held.Count != 0 {
			t.Errorf("a refused write was stored: %+v", held)
		}
		n1.mustWrite(ask{level: eventual, acks: 2}, key, "two")
		n3.mustWrite(ask{level: eventual}, keyIn(0, 4, 2), "one")

		// Lost in the middle: n3 believes that it reaches the others, whose
		// answers do not come back.
		w.heal()
		w.net.CutOneWay(w.machines[0].host, n3.host)
		w.net.CutOneWay(w.machines[1].host, n3.host)
		_, err = n3.write(ask{level: eventual, acks: 3, wait: 10 * time.Second}, key, "three")
		e := w.refusal(err, replication.TooFewAcks, replication.Unknown)
		if e.Receipt == "" || e.Reachable < 1 || e.Needed != 3 {
			t.Errorf("lost in the middle: %+v", e)
		}
		w.heal()
		n1.mustBecome(e.Receipt, capstanv1.Fate_FATE_COMMITTED)
	})
}

func TestBoundedReads(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		key := keyIn(0, 4, 1)
		n1.mustWrite(ask{}, key, "old")
		n3.mustRead(ask{}, key, "old")
		const within = 5 * time.Second
		r := n3.mustRead(ask{level: bounded, within: within}, key, "old")
		if s := r.GetFreshness().GetStaleness(); s == nil || s.AsDuration() > within {
			t.Errorf("staleness %v", s)
		}
		w.cut(n3)
		w.awaitApart(0, n3)
		n1.mustWrite(ask{}, key, "new")
		began := time.Now()
		r = n3.mustRead(ask{level: bounded, within: within}, key, "old") // by the index asked for before
		if s := r.GetFreshness().GetStaleness().AsDuration(); s > within {
			t.Errorf("staleness %v", s)
		}
		time.Sleep(within)
		_, err := n3.read(ask{level: bounded, within: within}, key)
		w.refusal(err, replication.TooStale, replication.NotApplied)
		if waited := time.Since(began) - within; waited > requestTime {
			t.Errorf("refused after %v", waited)
		}
		w.heal()
		n3.mustRead(ask{level: bounded, within: 100 * time.Millisecond}, key, "new")
		// Tentative writes are no part of committed state.
		w.cut(n3)
		w.awaitApart(0, n3)
		n3.mustWrite(ask{level: eventual}, key, "tentative")
		if r, err := n3.read(ask{level: bounded, within: time.Hour}, key); err != nil || string(r.GetValue()) != "new" {
			t.Errorf("bounded read beside a tentative write: %v, %v", r, err)
		}
	})
}

// A bounded read that waits for what its session has seen is as old as the
// state is when it answers, not when it began to wait.
func TestABoundedReadAgesWhileItWaits(t *testing.T) {
	g := &gates{}
	inCluster(t, 3, func(w *world) {
		leader := w.leaderOf(0)
		m := w.others(leader)[0]
		key, me := keyIn(0, 4, 1), &talk{}
		const within = time.Minute
		leader.mustWrite(ask{}, key, "old")
		m.mustRead(ask{}, key, "old")
		open := g.shut(m, 0)
		defer open()
		leader.mustWrite(ask{talk: me}, key, "new")
		time.Sleep(time.Second) // it has the entry, and does not apply it
		w.cut(m)
		cut := time.Now()
		time.AfterFunc(10*time.Second, open)
		r := m.mustRead(ask{talk: me, level: bounded, within: within, wait: 30 * time.Second}, key, "new")
		if s := r.GetFreshness().GetStaleness().AsDuration(); s < time.Since(cut) {
			t.Errorf("staleness %v, nothing was heard for %v", s, time.Since(cut))
		}
	}, g.guard)
}

func TestSessions(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n2, n3 := w.machines[0], w.machines[1], w.machines[2]
		key := keyIn(0, 4, 1)

		// Read your writes, on any node, at any level.
		me := &talk{}
		for i := range 10 {
			value := fmt.Sprint("v", i)
			w.machines[i%3].mustWrite(ask{talk: me, level: []capstanv1.Consistency{eventual, linearizable}[i%2]}, key, value)
			w.machines[(i+1)%3].mustRead(ask{talk: me, level: []capstanv1.Consistency{eventual, linearizable, bounded}[i%3], within: time.Hour * time.Duration(i%3/2)}, key, value)
		}

		// In a cut: what the session wrote is with n3, so n1 can not answer it,
		// and says so; without the session it can.
		n3.mustRead(ask{talk: me, level: eventual}, key, "v9")
		w.cut(n3)
		w.awaitApart(0, n3)
		n3.mustWrite(ask{talk: me, level: eventual}, key, "alone")
		_, err := n1.read(ask{talk: me, level: eventual, wait: 2 * time.Second}, key)
		if e := w.refusal(err, replication.SessionBehind, replication.NotApplied); !strings.Contains(e.Message, "n3") {
			t.Errorf("what is missing is not named: %v", e)
		}
		n1.mustRead(ask{level: eventual}, key, "v9")
		_, err = n1.read(ask{talk: me, level: linearizable, wait: 2 * time.Second}, key)
		w.refusal(err, replication.SessionBehind, replication.NotApplied)
		_, err = n1.write(ask{talk: me, level: linearizable, wait: 2 * time.Second}, key, "x")
		w.refusal(err, replication.SessionBehind, replication.NotApplied)
		_, err = n1.read(ask{talk: me, level: bounded, within: time.Hour, wait: 2 * time.Second}, key)
		w.refusal(err, replication.SessionBehind, replication.NotApplied)

		// What n1 commits meanwhile, n3 can not have.
		you := &talk{}
		n1.mustWrite(ask{talk: you, level: linearizable}, key, "ours")
		_, err = n3.read(ask{talk: you, level: eventual, wait: 2 * time.Second}, key)
		w.refusal(err, replication.SessionBehind, replication.NotApplied)

		// A write that follows what the session saw is not superseded by it.
		after := n3.mustWrite(ask{talk: you, level: eventual}, key, "informed")
		w.heal()
		n2.mustBecome(after.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		n2.mustRead(ask{talk: you, level: linearizable}, key, "informed")
		n2.mustRead(ask{talk: me, level: linearizable}, key, "informed")
	})
}

// What was lost is listed in the order of keys, over all partitions, also by a
// node that has to ask others for them.
func TestConflictsAreListedInTheOrderOfKeys(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		m := w.machines[4]
		rest := w.others(m)
		var want []string
		w.cut(m)
		m.awaitAlone()
		time.Sleep(transport.DeadAfter) // nobody takes it for a leader that is only slow
		for p := range partition.ID(4) {
			w.leaderOf(p, rest...)
			for i := range 3 {
				want = append(want, keyIn(p, 4, i))
			}
		}
		for _, key := range want {
			rest[0].mustWrite(ask{}, key, "won")
		}
		for i, key := range want {
			for range 1 + i%2 { // some lose twice
				m.mustWrite(ask{level: eventual}, key, "lost")
			}
		}
		w.heal()
		w.awaitNoBacklog()
		w.compareHolders()
		slices.Sort(want)
		for _, at := range w.machines {
			found, err := at.conflicts("")
			if err != nil || len(found) != 18 {
				t.Fatalf("%s lists %d conflicts, %v", at.name, len(found), err)
			}
			var keys []string
			for _, c := range found {
				keys = append(keys, string(c.GetKey()))
			}
			if !slices.IsSorted(keys) || !slices.Equal(slices.Compact(keys), want) {
				t.Errorf("%s lists them as %v", at.name, keys)
			}
			if first, err := at.conflictsUpTo("", 5); err != nil || len(first) != 5 || !proto.Equal(first[4], found[4]) {
				t.Errorf("%s lists as the first five %v, %v", at.name, first, err)
			}
		}
	})
}

func TestTokensAreChecked(t *testing.T) {
	inCluster(t, 1, func(w *world) {
		n1 := w.machines[0]
		foreign := func() string {
			s := &sessions{ring: n1.running().ring}
			token, err := s.token(n1.seen(0, 7))
			if err != nil {
				t.Fatal(err)
			}
			return token
		}()
		if _, err := n1.read(ask{talk: &talk{foreign}, wait: time.Second}, "k"); err != nil {
			// Its index is far from this partition's log; the read is answered
			// only once it is there.
			t.Logf("a token of the future: %v", err)
		}
		for _, token := range []string{"x", foreign[:len(foreign)-2] + "AA", strings.Repeat("A", 100)} {
			_, err := n1.read(ask{talk: &talk{token}}, "k")
			w.refusal(err, replication.BadToken, replication.NotApplied)
			_, err = n1.write(ask{talk: &talk{token}, level: eventual}, "k", "v")
			w.refusal(err, replication.BadToken, replication.NotApplied)
		}
		for _, receipt := range []string{"", "wr_", "wr_AAAA", foreign} {
			_, err := n1.await(receipt, 0)
			w.refusal(err, replication.BadToken, replication.NotApplied)
		}
	})
}

func TestEventualScan(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		m := w.machines[4]
		var want []string
		for i := range 40 {
			key := keyIn(partition.ID(i%4), 4, i)
			level := []capstanv1.Consistency{linearizable, eventual}[i%2]
			m.mustWrite(ask{level: level}, key, "v")
			if i%5 == 0 {
				m.mustWrite(ask{level: level}, key, "")
				continue
			}
			want = append(want, key)
		}
		slices.Sort(want)
		w.awaitNoBacklog()
		me := &talk{}
		got, end, err := m.scanAt(ask{talk: me, level: eventual}, "")
		if err != nil || !slices.Equal(got, want) || end.GetFreshness().GetStaleness() != nil {
			t.Fatalf("eventual scan: %v, %v, %v; want %v", got, end, err, want)
		}
		got, end, err = m.scanAt(ask{level: bounded, within: time.Minute}, "")
		if err != nil || !slices.Equal(got, want) || end.GetFreshness().GetStaleness() == nil {
			t.Fatalf("bounded scan: %v, %v, %v; want %v", got, end, err, want)
		}

		// One prefix, one partition, cut off with one of its holders.
		holders, _ := w.holders(0)
		m = holders[0]
		w.cut(m)
		m.awaitCutOff(0)
		tag := keyIn(0, 4, 0)
		tag = tag[:strings.Index(tag, "}")+1]
		m.mustWrite(ask{level: eventual}, tag+"new", "v")
		m.mustWrite(ask{level: eventual}, tag+"k4", "")
		got, end, err = m.scanAt(ask{level: eventual}, tag)
		if err != nil || !slices.Contains(got, tag+"new") || slices.Contains(got, tag+"k4") || !end.GetFreshness().GetTentative() {
			t.Errorf("scan in a cut: %v, %v, %v", got, end, err)
		}
		if _, _, err = m.scanAt(ask{level: eventual, wait: 2 * time.Second}, ""); err == nil {
			t.Error("a scan of all partitions was answered without some of them")
		}
		if _, _, err = m.scanAt(ask{level: linearizable}, tag); err == nil {
			t.Error("a linearizable scan was answered without a quorum")
		}
	})
}

// Status counts what is not decided, and names nobody else's.
func TestStatusShowsTheBacklog(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n3 := w.machines[2]
		w.cut(n3)
		w.awaitApart(0, n3)
		for i := range 7 {
			n3.mustWrite(ask{level: eventual}, keyIn(0, 4, i), "v")
		}
		status, err := clusterService{n3.running().Node}.GetStatus(w.t.Context(), nil)
		if err != nil || status.GetPartitions()[0].GetTentativeBacklog() != 7 || status.GetPartitions()[1].GetTentativeBacklog() != 0 {
			t.Errorf("status %v, %v", status, err)
		}
	})
}

// The records of decided writes go from the tentative log, so that they do not
// count against its bounds.
func TestSettledWritesAreErased(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		for i := range 30 {
			w.machines[i%3].mustWrite(ask{level: eventual, acks: 2}, keyIn(partition.ID(i%4), 4, i), "v")
		}
		w.eventually(time.Minute, "nothing of them is left", func() error {
			for _, m := range w.machines {
				if use := m.running().log.TentativeUse(); use.DiskBytes > 0 {
					return fmt.Errorf("%s holds %d bytes", m.name, use.DiskBytes)
				}
			}
			return nil
		})
		for i := range 30 {
			w.machines[0].mustRead(ask{}, keyIn(partition.ID(i%4), 4, i), "v")
		}
	})
}

// A node that loses its power and comes back where a partition has no leader, and
// nobody can tell it what of its log is committed, still has what it had applied
// some seconds before. It serves that as soon as the control group, which has a
// quorum there, has registered its start.
func TestRestartInAMinorityKnowsTheState(t *testing.T) {
	inCluster(t, 5, func(w *world) {
		n1 := w.machines[0]
		for p := range 4 {
			n1.mustWrite(ask{}, keyIn(partition.ID(p), 4, 1), "old")
		}
		const p = 0
		holders, others := w.holders(p)
		back := holders[0]
		back.mustRead(ask{}, keyIn(p, 4, 1), "old")
		time.Sleep(4 * time.Second)
		w.cut(append(others, back)...)
		back.crash(0)
		back.startRegistered()
		back.mustRead(ask{level: eventual}, keyIn(p, 4, 1), "old")
	})
}

// A node that comes back where it reaches no quorum of the control group may run on
// an older copy of its disk, as far as anybody there knows: it refuses every
// request, definitely, opens no replica, and says why. When it is registered it
// serves again, without more ado.
func TestRestartWithoutTheControlGroupServesNothing(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1, n3 := w.machines[0], w.machines[2]
		key := keyIn(0, 4, 1)
		receipt := n3.mustWrite(ask{level: eventual}, key, "old").GetReceipt()
		w.awaitNoBacklog()
		w.cut(n3)
		n3.crash(0)
		n3.start()
		time.Sleep(10 * time.Second)
		for _, level := range []capstanv1.Consistency{linearizable, eventual} {
			_, err := n3.write(ask{level: level}, key, "refused")
			w.refusal(err, replication.NoReplica, replication.NotApplied)
			_, err = n3.read(ask{level: level}, key)
			w.refusal(err, replication.NoReplica, replication.NotApplied)
			_, _, err = n3.scanAt(ask{level: level}, "")
			w.refusal(err, replication.NoReplica, replication.NotApplied)
		}
		_, err := n3.read(ask{level: bounded, within: time.Minute}, key)
		w.refusal(err, replication.NoReplica, replication.NotApplied)
		_, err = n3.await(receipt, 0)
		w.refusal(err, replication.NoReplica, replication.NotApplied)
		ready := health{n3.running().Node}.Ready(t.Context(), eventual)
		if ready == nil || !strings.Contains(ready.Error(), "not registered with the cluster yet: it reaches 1 voters of the control group, and 2 are needed") {
			t.Errorf("it says that it is ready: %v", ready)
		}
		if n := len(n3.running().replicas.all()); n > 0 {
			t.Errorf("%d replicas are open", n)
		}
		n1.mustWrite(ask{}, key, "new")
		w.heal()
		n3.mustRead(ask{}, key, "new")
	})
}
