package exchange

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What a removed node says does not count, on whatever connection it comes.
func TestRemovedNodesAreNotListenedTo(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		w.mu.Lock()
		w.removed = map[partition.NodeID]bool{"n4": true}
		w.mu.Unlock()
		gone, n1 := w.node("n4"), w.node("n1")
		a := gone.mustAccept("k", "v", 1)
		if fmt.Sprint(a.Held) != "[n4]" {
			t.Errorf("held by %v", a.Held)
		}
		time.Sleep(5 * time.Second) // it would hand in, and offer
		write, err := gone.tentative(0).Read(a.Dot)
		if err != nil {
			t.Fatal(err)
		}
		all := &storage.DotSet{}
		if err := all.Add(a.Dot); err != nil {
			t.Fatal(err)
		}
		for kind, m := range map[uint8][]byte{
			KindStore:  storeRequest{0, true, []storage.TentativeWrite{write}}.encode(),
			KindHandIn: handInRequest{0, []storage.TentativeWrite{write}}.encode(),
			KindOffer:  offerRequest{0, all}.encode(),
			KindDecide: decideRequest{0, true, all}.encode(),
		} {
			if _, err := gone.end.Call(t.Context(), "n1", kind, m); err == nil {
				t.Errorf("message of kind %d was answered", kind)
			}
		}
		for _, n := range []*node{n1, w.node("n2"), w.node("n3")} {
			if n.tentative(0).Holds(a.Dot) {
				t.Errorf("%s holds its write", n.id)
			}
		}
		if f := w.fate(0, a.Dot); f.Kind != storage.FatePending {
			t.Errorf("fate %+v", f)
		}
		w.mu.Lock()
		w.removed = nil // so that the world can come to rest
		w.mu.Unlock()
	})
}

// A node without room stores nothing, and says so before anything is stored; who
// asks it for a copy finds another one.
func TestWithoutRoom(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		full := &replication.Error{Reason: replication.DiskFull, Outcome: replication.NotApplied, Message: "full"}
		n1, n2, n3, n4 := w.node("n1"), w.node("n2"), w.node("n3"), w.node("n4")
		n2.full.Store(full)
		for _, acks := range []int{1, 2} {
			_, err := n2.accept(Write{Key: []byte("k"), Value: []byte("v"), Acks: acks})
			if reason, outcome := reasonOf(err); reason != replication.DiskFull || outcome != replication.NotApplied {
				t.Errorf("acks %d: %v", acks, err)
			}
		}
		if len(n2.x.Backlog()) > 0 {
			t.Error("a refused write was stored")
		}
		a := n1.mustAccept("k", "v", 2)
		if slices.Sort(a.Held); fmt.Sprint(a.Held) != "[n1 n3]" {
			t.Errorf("two acks: held by %v", a.Held)
		}
		// Without a replica of its own a node needs room as well.
		n4.full.Store(full)
		_, err := n4.accept(Write{Key: []byte("k"), Value: []byte("v"), Acks: 1})
		if reason, outcome := reasonOf(err); reason != replication.DiskFull || outcome != replication.NotApplied {
			t.Errorf("no room here: %v", err)
		}
		// And if it is the only one that has some, the write is with it.
		n4.full.Store(nil)
		n1.full.Store(full)
		n3.full.Store(full)
		if a := n4.mustAccept("k", "v", 1); fmt.Sprint(a.Held) != "[n4]" {
			t.Errorf("held by %v", a.Held)
		}
		for _, n := range []*node{n1, n2, n3, n4} {
			n.full.Store(nil)
		}
		w.quiet(10 * time.Second)
	})
}

// Decided asks nobody, and its index covers what it says.
func TestDecided(t *testing.T) {
	inWorld(t, options{nodes: 4, leaderless: true}, func(t *testing.T, w *world) {
		n1, n4 := w.node("n1"), w.node("n4")
		w.net.cut(ids("n1"), ids("n2"), ids("n3"), ids("n4"))
		time.Sleep(2 * time.Second)
		a := n1.mustAccept("k", "v", 1)
		hint := n4.mustAccept("k", "w", 1)
		unknown := storage.Dot{Node: "n9", Incarnation: 1, Sequence: 1}
		ranges := []storage.DotRange{storage.RangeOf(a.Dot), storage.RangeOf(hint.Dot), storage.RangeOf(unknown)}
		if index, left := n1.x.Decided(0, ranges); index != 0 || len(left) != 3 {
			t.Errorf("before: %d, %v", index, left)
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		for _, n := range []*node{n1, n4} {
			index, left := n.x.Decided(0, ranges)
			if n == n4 { // without a replica it knows of what it handed in itself
				left = slices.DeleteFunc(left, func(r storage.DotRange) bool { return r == storage.RangeOf(a.Dot) })
			}
			if len(left) != 1 || left[0] != storage.RangeOf(unknown) {
				t.Errorf("%s: %v is undecided", n.id, left)
			}
			if f := w.fate(0, hint.Dot); f.Index > index {
				t.Errorf("%s: decided at %d, says %d", n.id, f.Index, index)
			}
		}
		if index, left := n1.x.Decided(7, ranges); index != 0 || len(left) != 3 {
			t.Errorf("of no partition: %d, %v", index, left)
		}
	})
}

// A peer's write of a key of another partition, or with a timestamp that no clock
// gives, is not stored, and no write is made with such a timestamp.
func TestForgedWritesAreNotStored(t *testing.T) {
	inWorld(t, options{partitions: [][]partition.NodeID{{"n1", "n2", "n3"}, {"n1", "n2", "n3"}}}, func(t *testing.T, w *world) {
		key := func(p partition.ID) []byte {
			for i := 0; ; i++ {
				if k := fmt.Append(nil, "k", i); partition.Of(k, 2) == p {
					return k
				}
			}
		}
		for name, c := range map[string]struct {
			key []byte
			at  hlc.Timestamp
		}{
			"a foreign key":         {key(1), 7},
			"the highest timestamp": {key(0), hlc.Max},
			"the horizon":           {key(0), hlc.Horizon},
		} {
			forged := storage.TentativeWrite{Tentative: storage.Tentative{
				Dot: storage.Dot{Node: "n1", Incarnation: 1, Sequence: 1}, Timestamp: c.at, Key: c.key,
			}}
			m := storeRequest{0, false, []storage.TentativeWrite{forged}}.encode()
			if _, err := w.node("n3").end.Call(t.Context(), "n2", KindStore, m); !errors.Is(err, errMessage) {
				t.Errorf("%s: %v", name, err)
			}
			if w.node("n2").tentative(0).Holds(forged.Dot) {
				t.Errorf("%s is held", name)
			}
		}
		_, err := w.node("n1").accept(Write{Key: key(0), Value: []byte("v"), Acks: 1, After: hlc.Horizon})
		if _, outcome := reasonOf(err); err == nil || outcome != replication.NotApplied {
			t.Errorf("a write after the horizon: %v", err)
		}
	})
}
