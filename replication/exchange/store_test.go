package exchange

import (
	"testing"
	"time"

	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What comes from other holders is taken once, and not after it was decided.
func TestWhatIsDecidedIsNotTakenAgain(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		write := func(sequence uint64) []storage.TentativeWrite {
			return []storage.TentativeWrite{{Tentative: storage.Tentative{
				Dot: storage.Dot{Node: "n9", Incarnation: 1, Sequence: sequence}, Timestamp: w.node("n1").clock.Now(),
				Key: []byte("k"), Bytes: []byte("v"),
			}}}
		}
		n := w.node("n2")
		pl, err := n.x.place(0)
		if err != nil {
			t.Fatal(err)
		}
		first := write(1)
		if s, fresh := pl.store(append(first[:0:0], first...)); s != statusDone || len(fresh) != 1 {
			t.Fatalf("%v, %d taken", s, len(fresh))
		}
		if s, fresh := pl.store(append(first[:0:0], first...)); s != statusDone || len(fresh) != 0 {
			t.Errorf("a second time: %v, %d taken", s, len(fresh))
		}
		w.quiet(10 * time.Second)
		w.caughtUp()
		if s, fresh := pl.store(append(first[:0:0], first...)); s != statusDone || len(fresh) != 0 || pl.log.Holds(first[0].Dot) {
			t.Errorf("after it was promoted: %v, %d taken", s, len(fresh))
		}
		// Its promotion is applied while it is on its way to the disk, long after
		// the record of an earlier copy went.
		if err := n.state.Sync(); err != nil {
			t.Fatal(err)
		}
		n.x.Durable(0, n.replicas[0].state.Durable())
		n.replicas[0].unaware.Store(1)
		if s, fresh := pl.store(append(first[:0:0], first...)); s != statusDone || len(fresh) != 1 || pl.log.Holds(first[0].Dot) {
			t.Errorf("while it was promoted: %v, %d taken, held: %v", s, len(fresh), pl.log.Holds(first[0].Dot))
		}
		// A holder of hints goes by what it was told.
		hints, err := w.node("n4").x.place(0)
		if err != nil {
			t.Fatal(err)
		}
		hints.store(append(first[:0:0], first...))
		w.quiet(10 * time.Second)
		if s, fresh := hints.store(append(first[:0:0], first...)); s != statusDone || len(fresh) != 0 || hints.log.Holds(first[0].Dot) {
			t.Errorf("a hint that was told to be decided: %v, %d taken", s, len(fresh))
		}
		ahead := write(2)
		ahead[0].Base = 1 << 40 // stays
		if s, fresh := hints.store(ahead); s != statusDone || len(fresh) != 1 {
			t.Fatalf("%v, %d taken", s, len(fresh))
		}
		if want := hints.offered("n1", rangeSet(t, first[0].Dot)); !want.IsEmpty() {
			t.Errorf("it wants %v", want)
		}
	})
}

func rangeSet(t *testing.T, d storage.Dot) *storage.DotSet {
	s := &storage.DotSet{}
	if err := s.Add(d); err != nil {
		t.Fatal(err)
	}
	return s
}

// One write that is not what is held under its dot keeps no other out.
func TestADotOfTwoWrites(t *testing.T) {
	inWorld(t, options{leaderless: true}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1"), ids("n2"), ids("n3"))
		pl, err := w.node("n2").x.place(0)
		if err != nil {
			t.Fatal(err)
		}
		write := func(sequence uint64, value string) storage.TentativeWrite {
			return storage.TentativeWrite{Tentative: storage.Tentative{
				Dot: storage.Dot{Node: "n9", Incarnation: 1, Sequence: sequence}, Timestamp: 5, Key: []byte("k"), Bytes: []byte(value),
			}}
		}
		again := write(2, "two")
		if s, fresh := pl.store([]storage.TentativeWrite{write(1, "a"), again, write(2, "other"), write(3, "c")}); s != statusDone || len(fresh) != 4 {
			t.Errorf("%v, %d taken", s, len(fresh))
		}
		for n, want := range map[uint64]string{1: "a", 2: "two", 3: "c"} {
			got, err := pl.log.Read(storage.Dot{Node: "n9", Incarnation: 1, Sequence: n})
			if err != nil || string(got.Bytes) != want {
				t.Errorf("%d is %q, %v", n, got.Bytes, err)
			}
		}
		if n := count[LogFailed](w); n != 1 {
			t.Errorf("told of %d times", n)
		}
		// Alone it is refused: nobody may count it as held.
		if s, _ := pl.store([]storage.TentativeWrite{{Tentative: write(1, "longer").Tentative}}); s != statusFailed {
			t.Errorf("alone: %v", s)
		}
	})
}

// A node's clock follows what it receives, within its bound.
func TestTheClockFollows(t *testing.T) {
	inWorld(t, options{leaderless: true}, func(t *testing.T, w *world) {
		n := w.node("n2")
		pl, err := n.x.place(0)
		if err != nil {
			t.Fatal(err)
		}
		at := func(sequence uint64, d time.Duration) hlc.Timestamp {
			ts := hlc.At(time.Now().Add(d))
			pl.store([]storage.TentativeWrite{{Tentative: storage.Tentative{
				Dot: storage.Dot{Node: "n9", Incarnation: 1, Sequence: sequence}, Timestamp: ts, Key: []byte("other"),
			}}})
			return ts
		}
		if ts := at(1, 300*time.Millisecond); n.clock.Now() <= ts {
			t.Error("the clock did not follow")
		}
		if ts := at(2, time.Hour); n.clock.Now() >= ts {
			t.Error("the clock followed beyond its bound")
		}
	})
}
