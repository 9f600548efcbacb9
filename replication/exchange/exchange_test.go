package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

func TestAWriteIsCommittedSoon(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		for i, n := range w.up() { // the leader, followers, and a node without a replica
			began := time.Now()
			a := n.mustAccept(fmt.Sprint("k", i), "v", 1)
			for w.fate(0, a.Dot).Kind != storage.FateCommitted {
				if time.Since(began) > 100*time.Millisecond {
					t.Fatalf("%s: not committed after %v", n.id, time.Since(began))
				}
				time.Sleep(time.Millisecond)
			}
		}
		w.quiet(time.Second)
		w.caughtUp()
		if got := w.node("n2").value(0, "k3"); got != "v" {
			t.Errorf("k3 is %q", got)
		}
		lags := 0
		each(w, func(e HandedIn) { lags += len(e.Lags) })
		if lags != 4 {
			t.Errorf("%d lags of own writes, want 4", lags)
		}
	})
}

func TestOneHolderHandsIn(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		for i := range 50 {
			n.mustAccept(fmt.Sprint("k", i), "v", 3)
			time.Sleep(20 * time.Millisecond)
		}
		w.quiet(time.Second)
		if calls := w.net.count(KindHandIn); calls != 50 {
			t.Errorf("50 writes that came one by one were handed in by %d calls", calls)
		}
		if offers := w.net.count(KindOffer); offers != 0 {
			t.Errorf("%d offers in a healthy cluster", offers)
		}
		time.Sleep(time.Minute)
		if calls := w.net.count(KindHandIn) + w.net.count(KindOffer); calls != 50 {
			t.Errorf("an idle cluster made %d calls", calls-50)
		}
	})
}

func TestWritesThatComeTogetherShareBatches(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		done := make(chan error)
		const writes = 1000
		for i := range writes {
			go func() {
				_, err := n.accept(Write{Key: fmt.Appendf(nil, "k%d", i), Value: []byte("v")})
				done <- err
			}()
		}
		for range writes {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		w.quiet(time.Second)
		if calls := w.net.count(KindHandIn); calls > writes/10 {
			t.Errorf("%d writes at once took %d hand-ins", writes, calls)
		}
		w.caughtUp()
	})
}

func TestAcksAreCopies(t *testing.T) {
	inWorld(t, options{nodes: 4, leaderless: true}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1", "n2"), ids("n3", "n4"))
		for _, c := range []struct {
			at   partition.NodeID
			acks int
			held []partition.NodeID
		}{
			{"n1", 1, ids("n1")}, {"n1", 2, ids("n1", "n2")},
			{"n4", 1, ids("n3")}, {"n4", 2, ids("n3", "n4")}, // a replica first, and itself as a hint
			{"n3", 2, ids("n3", "n4")}, // no other replica: a hint elsewhere
		} {
			time.Sleep(2 * time.Second) // silence tells who is cut off
			a := w.node(c.at).mustAccept("k", "v", c.acks)
			if slices.Sort(a.Held); fmt.Sprint(a.Held) != fmt.Sprint(c.held) {
				t.Errorf("acks %d at %s: held by %v, want %v", c.acks, c.at, a.Held, c.held)
			}
			for _, id := range a.Held {
				got, err := w.node(id).tentative(0).Read(a.Dot)
				if err != nil || string(got.Bytes) != "v" || got.Base != a.Base || got.Timestamp != a.Timestamp {
					t.Errorf("%s holds %+v, error %v", id, got, err)
				}
			}
		}
		before := w.node("n1").x.Backlog()
		_, err := w.node("n1").accept(Write{Key: []byte("k"), Acks: 3})
		if reason, outcome := reasonOf(err); reason != replication.TooFewAcks || outcome != replication.NotApplied {
			t.Errorf("acks 3 with two nodes: %v", err)
		}
		var e *replication.Error
		if errors.As(err, &e); e.Reachable != 2 || e.Needed != 3 {
			t.Errorf("%+v", e)
		}
		if after := w.node("n1").x.Backlog(); after[0].Count != before[0].Count {
			t.Errorf("a refused write was stored: %+v", after)
		}
		_, err = w.node("n1").accept(Write{Key: []byte("k"), Acks: 4})
		if reason, outcome := reasonOf(err); reason != replication.BadOption || outcome != replication.NotApplied {
			t.Errorf("acks above the number of replicas: %v", err)
		}
	})
}

func TestWritesThatDoNotFitAreRefused(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		for what, c := range map[string]struct {
			write  Write
			reason replication.Reason
		}{
			"no key":            {Write{}, replication.BadKey},
			"long key":          {Write{Key: make([]byte, storage.MaxKeyBytes+1)}, replication.BadKey},
			"long value":        {Write{Key: []byte("k"), Value: make([]byte, storage.MaxValueBytes+1)}, replication.ValueTooLarge},
			"delete with value": {Write{Key: []byte("k"), Value: []byte("v"), Delete: true}, replication.BadOption},
			"no such partition": {Write{Key: []byte("k"), Partition: 1}, replication.BadOption},
			"negative acks":     {Write{Key: []byte("k"), Acks: -1}, replication.BadOption},
		} {
			_, err := w.node("n1").accept(c.write)
			if reason, outcome := reasonOf(err); reason != c.reason || outcome != replication.NotApplied {
				t.Errorf("%s: %v", what, err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := w.node("n1").x.Accept(ctx, Write{Key: []byte("k")})
		if reason, outcome := reasonOf(err); reason != replication.Deadline || outcome != replication.NotApplied {
			t.Errorf("out of time: %v", err)
		}
	})
}

// A node that seems to be there and is not: its silence has not lasted long
// enough to tell.
func TestLostInTheMiddle(t *testing.T) {
	inWorld(t, options{nodes: 4, leaderless: true}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1"), ids("n2", "n3", "n4"))
		a, err := w.node("n1").accept(Write{Key: []byte("k"), Value: []byte("v"), Acks: 2})
		var e *replication.Error
		if !errors.As(err, &e) || e.Reason != replication.TooFewAcks || e.Outcome != replication.Unknown || e.Reachable != 1 || e.Needed != 2 {
			t.Fatalf("error %+v", err)
		}
		if a.Dot.IsZero() || !w.node("n1").tentative(0).Holds(a.Dot) {
			t.Errorf("the write can not be asked for: %+v", a)
		}
		// Without a replica of its own a node tries others first, and with acks 1
		// it is never refused.
		w.net.heal()
		time.Sleep(300 * time.Millisecond)
		w.net.cut(ids("n4"), ids("n1", "n2", "n3"))
		began := time.Now()
		a = w.node("n4").mustAccept("k", "v", 1)
		if took := time.Since(began); fmt.Sprint(a.Held) != "[n4]" || took > time.Second {
			t.Errorf("held by %v after %v", a.Held, took)
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted {
			t.Errorf("fate %+v", f)
		}
	})
}

// The request ends while its write is on the way to other nodes.
func TestTheRequestEndsInTheMiddle(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		w.net.set(func(n *network) { n.loseAnswers[KindStore] = true })
		for _, c := range []struct {
			at   partition.NodeID
			acks int
			want replication.Outcome
		}{{"n2", 2, replication.Unknown}, {"n4", 2, replication.Unknown}, {"n4", 1, 0}} {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			a, err := w.node(c.at).x.Accept(ctx, Write{Key: []byte("k"), Value: []byte("v"), Acks: c.acks})
			cancel()
			if _, outcome := reasonOf(err); outcome != c.want {
				t.Errorf("acks %d at %s: %v", c.acks, c.at, err)
			}
			if len(a.Held) != 1 || a.Held[0] != c.at {
				t.Errorf("acks %d at %s: held by %v, want itself", c.acks, c.at, a.Held)
			}
			w.quiet(10 * time.Second)
			if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted && f.Kind != storage.FateSuperseded {
				t.Errorf("fate %+v", f)
			}
		}
	})
}

func TestAFullLogRefuses(t *testing.T) {
	limits := storage.TentativeLimits{DiskBytes: 4 << 10}
	inWorld(t, options{leaderless: true, nodes: 4, limits: limits}, func(t *testing.T, w *world) {
		for i := 0; ; i++ {
			_, err := w.node("n1").accept(Write{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 100)})
			if err == nil {
				continue
			}
			if reason, outcome := reasonOf(err); reason != replication.DiskFull || outcome != replication.NotApplied || i < 10 || i > 40 {
				t.Fatalf("write %d: %v", i, err)
			}
			break
		}
		// Others have room, but not for as much.
		a, err := w.node("n2").accept(Write{Key: []byte("k"), Value: []byte("v"), Acks: 2})
		if err != nil || fmt.Sprint(a.Held) != "[n2 n3]" {
			t.Errorf("held by %v: %v", a.Held, err)
		}
		w.quiet(10 * time.Second)
		n := w.node("n1")
		if err := n.state.Sync(); err != nil {
			t.Fatal(err)
		}
		n.x.Durable(0, n.replicas[0].state.Durable())
		if _, err := n.accept(Write{Key: []byte("k"), Value: make([]byte, 100)}); err != nil {
			t.Errorf("after promotion: %v", err)
		}
	})
}

// Writes that are refused, because others that came at the same time took the
// last room, leave no holes among the dots: the record of promoted dots has room
// for so many only.
func TestRefusedWritesLeaveNoHoles(t *testing.T) {
	limits := storage.TentativeLimits{DiskBytes: 4 << 10}
	inWorld(t, options{leaderless: true, limits: limits}, func(t *testing.T, w *world) {
		n := w.node("n1")
		refused := 0
		for range 20 {
			results := make(chan error)
			for i := range 50 {
				go func() {
					_, err := n.accept(Write{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 100)})
					results <- err
				}()
			}
			for range 50 {
				if <-results != nil {
					refused++
				}
			}
			w.quiet(10 * time.Second)
			if err := n.state.Sync(); err != nil {
				t.Fatal(err)
			}
			n.x.Durable(0, n.replicas[0].state.Durable())
		}
		for i := range 50 {
			n.mustAccept(fmt.Sprint("k", i), "v", 1)
			w.quiet(time.Second)
			if err := n.state.Sync(); err != nil {
				t.Fatal(err)
			}
			n.x.Durable(0, n.replicas[0].state.Durable())
		}
		if spans := n.replicas[0].state.Promoted().Spans(); spans != 1 || refused < 100 {
			t.Errorf("%d runs of promoted dots after %d refusals, want 1", spans, refused)
		}
	})
}

func TestBaseAndTimestamp(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		w.put(0, "k", "v1")
		w.node("n1").clock.Observe(hlc.At(time.Now().Add(300 * time.Millisecond))) // ahead of the others
		committed := w.put(0, "k", "v2")
		w.caughtUp()
		n := w.node("n2")
		a := n.mustAccept("k", "v3", 1)
		if a.Base != committed.Index || a.Timestamp <= committed.Timestamp {
			t.Errorf("accepted %+v over %+v", a, committed)
		}
		// The session knows more, of time and of the log.
		far := hlc.At(time.Now().Add(time.Hour))
		a, err := n.accept(Write{Key: []byte("k"), Value: []byte("v4"), Base: 1000, After: far})
		if err != nil || a.Base != 1000 || a.Timestamp <= far {
			t.Errorf("accepted %+v, error %v", a, err)
		}
		if now := n.clock.Now(); now > hlc.At(time.Now().Add(time.Second)) {
			t.Errorf("the clock followed to %v", now)
		}
		// What is held is enough for the next one.
		b := n.mustAccept("k", "v5", 1)
		if b.Base != 1000 || b.Timestamp <= a.Timestamp {
			t.Errorf("accepted %+v over %+v", b, a)
		}
		if c := n.mustAccept("other", "v", 1); c.Timestamp >= far {
			t.Errorf("another key's timestamp is %v", c.Timestamp)
		}
		// Two writes from a log that does not have their base are not promoted,
		// and nothing else waits for them.
		d := w.node("n1").mustAccept("free", "v", 1)
		time.Sleep(5 * time.Second)
		if f := w.fate(0, d.Dot); f.Kind != storage.FateCommitted {
			t.Errorf("fate %+v", f)
		}
		for _, of := range []Accepted{a, b} {
			if f := w.fate(0, of.Dot); f.Kind != storage.FatePending {
				t.Errorf("fate of a write ahead of the log: %+v", f)
			}
		}
		n.x.Hear(0, 5000)
		if c := n.mustAccept("other", "v", 1); c.Base != 5000 {
			t.Errorf("base %d after 5000 was heard of", c.Base)
		}
	})
}

// The base that a node has heard of comes back with the answers to what it
// gives away.
func TestHearingOfBases(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		v := w.put(0, "k", "v")
		w.caughtUp()
		w.node("n1").x.Hear(0, v.Index)
		w.node("n4").mustAccept("a", "v", 1)
		if a := w.node("n4").mustAccept("b", "v", 1); a.Base < v.Index {
			t.Errorf("base %d; n1, which took the write before, knows of %d", a.Base, v.Index)
		}
	})
}

// Both sides of a cut take writes, and each side converges within itself.
func TestEachSideOfACutConverges(t *testing.T) {
	inWorld(t, options{nodes: 5, partitions: [][]partition.NodeID{{"n1", "n2", "n3"}}}, func(t *testing.T, w *world) {
		w.put(0, "k", "v")
		w.caughtUp()
		// n1 | n2 and n4 | n3 | n5: nobody has a quorum.
		w.net.cut(ids("n1"), ids("n2", "n4"), ids("n3"), ids("n5"))
		time.Sleep(2 * time.Second)
		var all []Accepted
		for _, n := range w.up() {
			for i := range 100 {
				all = append(all, n.mustAccept(fmt.Sprintf("k%d", i%10), fmt.Sprint(n.id, i), 1))
			}
		}
		time.Sleep(3 * time.Second)
		if got := w.node("n2").tentative(0).Backlog().Count; got != 200 {
			t.Errorf("n2 holds %d writes, want its own and those of n4", got)
		}
		if got := w.node("n5").tentative(0).Backlog(); got.Count != 100 || got.Hints != 100 {
			t.Errorf("n5 holds %+v, want 100 hints", got)
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		w.caughtUp()
		for _, a := range all {
			if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted && f.Kind != storage.FateSuperseded {
				t.Errorf("%v: %+v", a.Dot, f)
			}
		}
		if got := w.node("n5").tentative(0).FateFloor(); got == 0 {
			t.Error("a holder of hints was told fates and may read what is older")
		}
	})
}

// Hint holders that reach no replica find each other.
func TestHintHoldersConverge(t *testing.T) {
	inWorld(t, options{nodes: 6}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1", "n2", "n3"), ids("n4", "n5", "n6"))
		time.Sleep(2 * time.Second)
		a := w.node("n4").mustAccept("k", "v4", 1)
		b := w.node("n5").mustAccept("k", "v5", 1)
		time.Sleep(5 * time.Second)
		for _, id := range ids("n4", "n5") {
			for _, of := range []Accepted{a, b} {
				if !w.node(id).tentative(0).Holds(of.Dot) {
					t.Errorf("%s does not hold %v", id, of.Dot)
				}
			}
		}
		if n := w.node("n6").tentative(0).Backlog().Count; n != 0 {
			t.Errorf("n6, no holder, was given %d writes", n)
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		w.caughtUp()
	})
}

// Only what the other lacks travels.
func TestOnlyWhatIsLackingTravels(t *testing.T) {
	inWorld(t, options{leaderless: true}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1"), ids("n2"), ids("n3"))
		time.Sleep(2 * time.Second)
		for i := range 500 {
			w.node("n1").mustAccept(fmt.Sprint("k", i), "v", 1)
		}
		w.net.heal() // between these two; nobody leads with one voter of three left out
		w.net.cut(ids("n1", "n2"), ids("n3"))
		w.groups[0].mu.Lock()
		w.groups[0].replicas = ids("n1", "n2", "n3", "n8", "n9")
		w.groups[0].mu.Unlock()
		time.Sleep(5 * time.Second)
		sent := 0
		each(w, func(e Sent) { sent += e.Writes })
		if sent != 500 || w.node("n2").tentative(0).Backlog().Count != 500 {
			t.Errorf("%d writes travelled, %d arrived", sent, w.node("n2").tentative(0).Backlog().Count)
		}
		offers := w.net.count(KindOffer)
		time.Sleep(30 * time.Second)
		if more := w.net.count(KindOffer) - offers; more > 10 {
			t.Errorf("%d offers in 30 s in which nothing changed", more)
		}
		w.node("n2").mustAccept("one more", "v", 1)
		time.Sleep(3 * time.Second)
		sent = 0
		each(w, func(e Sent) { sent += e.Writes })
		if sent != 501 || w.node("n1").tentative(0).Backlog().Count != 501 {
			t.Errorf("%d writes travelled, %d are at n1", sent, w.node("n1").tentative(0).Backlog().Count)
		}
	})
}

// n2 can not reach the leader, but n3 can: its writes go that way.
func TestAOneWayCut(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		w.net.cutOneWay("n2", "n1")
		a := w.node("n2").mustAccept("k", "v", 1)
		began := time.Now()
		for w.fate(0, a.Dot).Kind != storage.FateCommitted {
			if time.Since(began) > 15*time.Second {
				t.Fatalf("fate %+v after %v", w.fate(0, a.Dot), time.Since(began))
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.net.heal()
		w.quiet(10 * time.Second)
	})
}

// Trap 2: promotion ahead of apply. The accepting replica's apply is frozen
// between the answer and the apply: until it applies, it holds the write.
func TestAReplicaForgetsOnlyWhatItHasApplied(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		r := n.replicas[0]
		r.freeze(true)
		time.Sleep(50 * time.Millisecond)
		a := n.mustAccept("k", "v", 1)
		time.Sleep(30 * time.Second)
		if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted {
			t.Fatalf("fate %+v", f)
		}
		if !n.tentative(0).Holds(a.Dot) {
			t.Fatal("forgotten before it was applied")
		}
		if calls := w.net.count(KindHandIn); calls != 1 {
			t.Errorf("handed in by %d calls while its apply was frozen", calls)
		}
		// At the moment it leaves the log, the state answers.
		r.beforeApplied = func() {
			if got := n.value(0, "k"); got != "v" || !n.tentative(0).Holds(a.Dot) {
				t.Errorf("state says %q, held %v", got, n.tentative(0).Holds(a.Dot))
			}
		}
		r.freeze(false)
		w.quiet(time.Second)
	})
}

// A replica whose state a power cut has thrown back reads from its tentative
// log again.
func TestACrashBetweenApplyAndSync(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		a := n.mustAccept("k", "v", 1)
		w.quiet(time.Second)
		w.net.cut(ids("n1"), ids("n2"), ids("n3"))
		w.groups[0].transfer("")
		n = w.restart(n)
		time.Sleep(3 * time.Second)
		if n.value(0, "k") == "" && !n.tentative(0).Holds(a.Dot) {
			t.Error("neither the state nor the tentative log has the write")
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		w.caughtUp()
		if got := n.value(0, "k"); got != "v" {
			t.Errorf("k is %q", got)
		}
	})
}

func TestErasedOnlyBehindDurableState(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		n.mustAccept("k", "v", 1)
		w.quiet(time.Second)
		if b := n.x.Backlog()[0]; b.Settled != 1 {
			t.Fatalf("%+v", b)
		}
		n.x.Durable(0, 0)
		if b := n.x.Backlog()[0]; b.Settled != 1 {
			t.Fatalf("erased before it was durable: %+v", b)
		}
		if err := n.state.Sync(); err != nil {
			t.Fatal(err)
		}
		n.x.Durable(0, n.replicas[0].state.Durable())
		if b := n.x.Backlog(); len(b) != 0 {
			t.Errorf("%+v", b)
		}
	})
}

// Trap 3: a node is restarted between accepting and promoting, and a copy of
// its old disk is started beside it, under its name.
func TestRestartAndACopyOfTheOldDisk(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1", "n2", "n3"), ids("n4"))
		time.Sleep(2 * time.Second)
		n := w.node("n4")
		a := n.mustAccept("k", "v1", 1)
		old := w.crash(n)
		copied := old.CrashClone(cleanCopy)
		n = w.start("n4", old, storage.TentativeLimits{})
		if !n.tentative(0).Holds(a.Dot) {
			t.Fatal("a write did not outlive a restart")
		}
		b := n.mustAccept("k", "v2", 1)
		if a.Dot == b.Dot || b.Timestamp <= a.Timestamp {
			t.Fatalf("%+v after %+v", b, a)
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		w.caughtUp()
		if got := w.node("n1").value(0, "k"); got != "v2" {
			t.Errorf("k is %q", got)
		}
		entries := w.groups[0].entries()
		// The copy hands in what it holds, and that is told to be decided.
		w.shut(n)
		n = w.start("n4", copied, storage.TentativeLimits{})
		w.quiet(10 * time.Second)
		if n.tentative(0).Holds(a.Dot) || w.groups[0].entries() != entries {
			t.Errorf("a write was promoted twice: %d entries, then %d", entries, w.groups[0].entries())
		}
		c := n.mustAccept("k", "v3", 1)
		if c.Dot == b.Dot {
			t.Errorf("the copy gave out the dot %v again", c.Dot)
		}
		w.quiet(time.Second)
		if got := w.node("n1").value(0, "k"); got != "v3" {
			t.Errorf("k is %q", got)
		}
	})
}

// A proposal whose outcome nobody knows was committed.
func TestUnknownProposalsAreHandedInAgain(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		w.groups[0].mu.Lock()
		w.groups[0].unknown = 2
		w.groups[0].mu.Unlock()
		a := w.node("n3").mustAccept("k", "v", 1)
		w.quiet(10 * time.Second)
		w.caughtUp()
		if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted {
			t.Errorf("fate %+v", f)
		}
		time.Sleep(time.Second)
		if n := count[HandInFailed](w); n == 0 {
			t.Error("the failure went unnoticed")
		}
	})
}

func TestLeaderChanges(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		var all []Accepted
		for i := range 60 {
			w.groups[0].transfer(partition.NodeID(fmt.Sprint("n", i%3+1)))
			for _, n := range w.up() {
				all = append(all, n.mustAccept(fmt.Sprint("k", i%5), fmt.Sprint(i), 1+i%3))
			}
			time.Sleep(3 * time.Millisecond)
		}
		w.quiet(10 * time.Second)
		w.caughtUp()
		for _, a := range all {
			if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted && f.Kind != storage.FateSuperseded {
				t.Errorf("%v: %+v", a.Dot, f)
			}
		}
	})
}

// A leader that is cut off holds a batch; the new one has it without waiting
// for the old one's silence to end.
func TestANewLeaderIsNotWaitedFor(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1"), ids("n2", "n3"))
		a := w.node("n2").mustAccept("k", "v", 1) // on its way to n1, which will not answer
		time.Sleep(50 * time.Millisecond)
		w.groups[0].transfer("n3")
		w.node("n2").x.Kick(0)
		time.Sleep(50 * time.Millisecond)
		if f := w.fate(0, a.Dot); f.Kind != storage.FateCommitted {
			t.Errorf("fate %+v", f)
		}
	})
}

// A node that loses its replica holds hints; what it was told to be decided
// before it lost the replica goes as well.
func TestAReplicaIsTakenAway(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n3")
		r := n.replicas[0]
		r.freeze(true)
		time.Sleep(50 * time.Millisecond)
		a := n.mustAccept("k", "v", 1)
		time.Sleep(time.Second)
		if !n.tentative(0).Holds(a.Dot) {
			t.Fatal("forgotten")
		}
		b := n.mustAccept("other", "v", 1)
		n.drop(0)
		w.groups[0].mu.Lock()
		w.groups[0].replicas = ids("n1", "n2")
		w.groups[0].mu.Unlock()
		applied, _ := r.state.Applied()
		if err := n.x.HandOver(0, applied); err != nil {
			t.Fatal(err)
		}
		w.quiet(5 * time.Second)
		if got := n.x.Backlog(); len(got) > 0 {
			t.Errorf("%+v", got)
		}
		if f := w.fate(0, b.Dot); f.Kind != storage.FateCommitted {
			t.Errorf("fate %+v", f)
		}
		if floor, f := n.tentative(0).FateFloor(), w.fate(0, a.Dot); floor < f.Index {
			t.Errorf("the fate floor is %d, and the write was decided at %d", floor, f.Index)
		}
	})
}

// A node whose replica is not open yet, or has failed, is told fates like a holder
// of hints. It must not forget: when the replica opens, and has not applied that
// much, the write would be nowhere on this node.
func TestAReplicaThatIsNotOpenForgetsNothing(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n3")
		r := n.replicas[0]
		r.freeze(true)
		w.net.cut(ids("n1", "n2"), ids("n3"))
		time.Sleep(3 * time.Second)
		a := n.mustAccept("k", "v", 1)
		n.drop(0)
		w.net.heal()
		for w.fate(0, a.Dot).Kind != storage.FateCommitted {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		if log := n.tentative(0); !log.Holds(a.Dot) || log.FateFloor() > 0 {
			t.Errorf("held: %v, fate floor %d", log.Holds(a.Dot), log.FateFloor())
		}
		if calls := w.net.count(KindHandIn); calls > 4 {
			t.Errorf("handed in by %d calls", calls)
		}
		w.mu.Lock()
		n.replicas[0] = r
		w.mu.Unlock()
		n.x.Recover(0)
		if got := n.value(0, "k"); got == "" && !n.tentative(0).Holds(a.Dot) {
			t.Error("the write is nowhere")
		}
		r.freeze(false)
		w.quiet(time.Second)
		if got := n.value(0, "k"); got != "v" {
			t.Errorf("k is %q", got)
		}
	})
}

// Recover settles what a snapshot has brought.
func TestRecover(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		r := n.replicas[0]
		r.freeze(true)
		time.Sleep(50 * time.Millisecond)
		a := n.mustAccept("k", "v", 1)
		time.Sleep(time.Second)
		view, err := w.node("n1").replicas[0].state.View()
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		stage, err := r.state.Stage()
		if err != nil {
			t.Fatal(err)
		}
		defer stage.Close()
		var stream strings.Builder
		if _, err := view.WriteTo(&stream); err != nil {
			t.Fatal(err)
		}
		if _, err := stage.ReadFrom(strings.NewReader(stream.String())); err != nil {
			t.Fatal(err)
		}
		if err := stage.Install(); err != nil {
			t.Fatal(err)
		}
		if !n.tentative(0).Holds(a.Dot) {
			t.Fatal("settled without being told")
		}
		n.x.Recover(0)
		if n.tentative(0).Holds(a.Dot) {
			t.Error("still held after a snapshot that contains it")
		}
	})
}

func TestForfeitedWritesAreLost(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1", "n2", "n3"), ids("n4"))
		time.Sleep(2 * time.Second)
		a := w.node("n4").mustAccept("k", "v", 1)
		forfeit, err := storage.AppendForfeit(nil, "n4")
		if err != nil {
			t.Fatal(err)
		}
		w.propose(0, forfeit)
		w.net.heal()
		w.quiet(10 * time.Second)
		if f := w.fate(0, a.Dot); f.Kind != storage.FateLost {
			t.Errorf("fate %+v", f)
		}
		// It is not taken any more either.
		if a, err := w.node("n4").accept(Write{Key: []byte("k"), Value: []byte("v"), Acks: 3}); err == nil {
			t.Errorf("a removed node's write is held by %v", a.Held)
		}
		w.caughtUp()
		if got := w.node("n1").value(0, "k"); got != "" {
			t.Errorf("k is %q", got)
		}
	})
}

func TestAwaitDecided(t *testing.T) {
	inWorld(t, options{nodes: 5}, func(t *testing.T, w *world) {
		ranges := func(of ...Accepted) (r []storage.DotRange) {
			for _, a := range of {
				r = append(r, storage.RangeOf(a.Dot))
			}
			return r
		}
		await := func(at partition.NodeID, d time.Duration, of ...Accepted) (uint64, error) {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			return w.node(at).x.AwaitDecided(ctx, 0, ranges(of...), true)
		}
		if index, err := await("n1", time.Second); index != 0 || err != nil {
			t.Errorf("nothing to wait for: %d, %v", index, err)
		}
		a := w.node("n2").mustAccept("k", "v", 1)
		for _, n := range w.up() {
			index, err := await(n.id, 200*time.Millisecond, a)
			if f := w.fate(0, a.Dot); err != nil || index < f.Index || f.Index == 0 {
				t.Errorf("%s: decided at %d, it says %d, %v", n.id, f.Index, index, err)
			}
		}
		// The writes are held where the asker can not see them at once: by a node
		// without a replica, whose own hand-ins are lost.
		w.net.cut(ids("n4"), ids("n1", "n2", "n3", "n5"))
		time.Sleep(2 * time.Second)
		b := w.node("n4").mustAccept("k", "v", 1)
		_, err := await("n5", time.Second, a, b)
		var e *replication.Error
		if !errors.As(err, &e) || e.Reason != replication.SessionBehind || e.Outcome != replication.NotApplied || !strings.Contains(e.Message, b.Dot.String()) {
			t.Errorf("a write that nobody can reach: %v", err)
		}
		w.net.heal()
		time.Sleep(250 * time.Millisecond)
		index, err := await("n5", 5*time.Second, a, b)
		if f := w.fate(0, b.Dot); err != nil || index < f.Index || f.Index == 0 {
			t.Errorf("decided at %d, it says %d, %v", f.Index, index, err)
		}
		if _, err := w.node("n5").x.AwaitDecided(context.Background(), 9, ranges(a), true); err == nil {
			t.Error("a partition that does not exist")
		}
	})
}

func TestNothingAfterClose(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		x := n.x
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := x.Accept(context.Background(), Write{Key: []byte("k")})
		if reason, outcome := reasonOf(err); reason != replication.Stopping || outcome != replication.NotApplied {
			t.Errorf("%v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := w.node("n1").end.Call(ctx, "n2", KindOffer, nil); err == nil {
			t.Error("a closed exchange answers")
		}
	})
}
