package exchange

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

func (g *group) entries() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.log)
}

// promotions counts how often each dot stands in the log.
func (g *group) promotions() map[storage.Dot]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := map[storage.Dot]int{}
	for _, e := range g.log {
		if p, err := storage.DecodePromotion(e.Commands[0]); err == nil {
			for _, t := range p.Writes {
				n[t.Dot]++
			}
		}
	}
	return n
}

// After a long cut with writes on all sides, all is handed in within a few
// seconds, in full batches.
func TestConvergenceAfterALongCut(t *testing.T) {
	inWorld(t, options{leaderless: true, nodes: 4}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1"), ids("n2"), ids("n3"), ids("n4"))
		time.Sleep(2 * time.Second)
		const each = 3000
		for _, n := range w.up() {
			for i := range each {
				n.mustAccept(fmt.Sprintf("%s-%d", n.id, i), "v", 1)
			}
		}
		w.net.heal()
		w.groups[0].transfer("n1")
		began := time.Now()
		w.quiet(10 * time.Second)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%d writes took %v", 4*each, took)
		}
		w.caughtUp()
		g := w.groups[0]
		if entries := g.entries(); entries > 60 {
			t.Errorf("%d writes made %d entries", 4*each, entries)
		}
		if n := len(g.promotions()); n != 4*each {
			t.Errorf("%d writes were promoted, want %d", n, 4*each)
		}
		if sent := count[Sent](w); sent > 0 {
			t.Errorf("%d holders were given what the leader brings anyway", sent)
		}
	})
}

// Values as large as they come, each a message and an entry of its own, beside
// small ones.
func TestLargeValues(t *testing.T) {
	inWorld(t, options{nodes: 4}, func(t *testing.T, w *world) {
		w.net.cut(ids("n1", "n2", "n3"), ids("n4"))
		time.Sleep(2 * time.Second)
		sizes := []int{storage.MaxValueBytes, 0, 100, 128 << 10, 128 << 10, 128 << 10, storage.MaxValueBytes, 256 << 10, 1}
		for i, size := range sizes {
			n := w.node("n4")
			if _, err := n.accept(Write{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, size)}); err != nil {
				t.Fatal(err)
			}
		}
		w.net.heal()
		w.quiet(10 * time.Second)
		w.caughtUp()
		for i, size := range sizes {
			if got := len(w.node("n2").value(0, fmt.Sprint("k", i))); got != size {
				t.Errorf("k%d has %d bytes, want %d", i, got, size)
			}
		}
	})
}

// Several holders hand in the same writes at the same time: they share one
// promotion, and each is told the fates.
func TestTheLeaderPromotesOnce(t *testing.T) {
	inWorld(t, options{nodes: 5}, func(t *testing.T, w *world) {
		var writes []storage.TentativeWrite
		for i := range 100 {
			writes = append(writes, storage.TentativeWrite{Tentative: storage.Tentative{
				Dot: storage.Dot{Node: "n9", Incarnation: 1, Sequence: uint64(i + 1)}, Timestamp: w.node("n1").clock.Now(),
				Key: fmt.Appendf(nil, "k%d", i), Bytes: []byte("v"),
			}})
		}
		request := handInRequest{0, writes}.encode()
		answers := make(chan error)
		for _, from := range ids("n2", "n3", "n4", "n5", "n1") {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				b, err := w.node(from).end.Call(ctx, "n1", KindHandIn, request)
				if err != nil {
					answers <- err
					return
				}
				a, err := decodeHandInAnswer(b)
				for i, f := range a.fates {
					if f != storage.FateCommitted {
						err = fmt.Errorf("fate %v of write %d", f, i)
					}
				}
				if index := w.fate(0, writes[99].Dot).Index; a.index != index {
					err = fmt.Errorf("index %d, decided at %d", a.index, index)
				}
				answers <- err
			}()
		}
		for range 5 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		for d, n := range w.groups[0].promotions() {
			if n != 1 {
				t.Errorf("%v stands in the log %d times", d, n)
			}
		}
		// Handed in later it is answered from the record.
		before := w.groups[0].entries()
		a := w.node("n1").x.known(0).lead.promote(context.Background(), writes[:10])
		if a.status != statusDone || a.fates[9] != storage.FateCommitted || a.index != w.fate(0, writes[9].Dot).Index || w.groups[0].entries() != before {
			t.Errorf("%+v", a)
		}
	})
}

// While a proposal is under way others gather, and what waits is bounded.
func TestTheLeaderGathersAndIsBounded(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n1")
		if _, err := n.x.place(0); err != nil {
			t.Fatal(err)
		}
		l := &n.x.known(0).lead
		n.replicas[0].freeze(true) // nothing is answered
		sequence := uint64(0)
		handIn := func(count, size int) chan handInAnswer {
			var writes []storage.TentativeWrite
			for range count {
				sequence++
				writes = append(writes, storage.TentativeWrite{Tentative: storage.Tentative{
					Dot: storage.Dot{Node: "n9", Incarnation: 1, Sequence: sequence}, Timestamp: n.clock.Now(),
					Key: fmt.Appendf(nil, "k%d", sequence), Bytes: make([]byte, size),
				}})
			}
			answer := make(chan handInAnswer, 1)
			go func() { answer <- l.promote(context.Background(), writes) }()
			time.Sleep(time.Millisecond / 2)
			return answer
		}
		answers := []chan handInAnswer{handIn(1, 10)}
		for range 50 {
			answers = append(answers, handIn(1, 10))
		}
		time.Sleep(50 * time.Millisecond)
		if entries := w.groups[0].entries(); entries != 1 {
			t.Errorf("%d entries while the first is under way", entries)
		}
		for range maxProposeBytes/(3<<20) + 1 {
			answers = append(answers, handIn(1, 3<<20))
		}
		if a := <-handIn(1, 10); a.status != statusBusy {
			t.Errorf("with too much waiting the next write is told %v", a.status)
		}
		n.replicas[0].freeze(false)
		for i, answer := range answers {
			if a := <-answer; a.status != statusDone {
				t.Errorf("hand-in %d: %v", i, a.status)
			}
		}
		time.Sleep(time.Millisecond)
		l.mu.Lock()
		if l.bytes != 0 || len(l.at) != 0 || l.underWay != 0 {
			t.Errorf("%d bytes, %d writes and %d proposals left", l.bytes, len(l.at), l.underWay)
		}
		l.mu.Unlock()
		if a := <-handIn(1, 10); a.status != statusDone {
			t.Errorf("afterwards: %v", a.status)
		}
	})
}

// What waits in memory to be handed in is bounded; the rest is in the log.
func TestTheQueueIsBounded(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		n := w.node("n2")
		n.mustAccept("k", "v", 1)
		w.quiet(time.Second)
		w.net.set(func(n *network) { n.loseAnswers[KindHandIn] = true })
		n.replicas[0].freeze(true)
		time.Sleep(50 * time.Millisecond)
		for i := range 12 {
			if _, err := n.accept(Write{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 1<<20)}); err != nil {
				t.Fatal(err)
			}
		}
		pl := n.x.known(0)
		pl.mu.Lock()
		if pl.handIn.bytes > maxEagerBytes || len(pl.handIn.queue) > 8 {
			t.Errorf("%d writes and %d bytes wait", len(pl.handIn.queue), pl.handIn.bytes)
		}
		pl.mu.Unlock()
		w.net.set(func(n *network) { clear(n.loseAnswers) })
		n.replicas[0].freeze(false)
		w.quiet(20 * time.Second)
		w.caughtUp()
	})
}

// Nodes answer what they can not read with an error, and what they do not know
// with a refusal.
func TestMessagesToTheWrongPlace(t *testing.T) {
	inWorld(t, options{}, func(t *testing.T, w *world) {
		call := func(to partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return w.node("n3").end.Call(ctx, to, kind, payload)
		}
		write := []storage.TentativeWrite{{Tentative: storage.Tentative{
			Dot: storage.Dot{Node: "n9", Incarnation: 1, Sequence: 1}, Key: []byte("k"),
		}}}
		dots := &storage.DotSet{}
		if err := dots.Add(write[0].Dot); err != nil {
			t.Fatal(err)
		}
		for kind, request := range map[uint8]encoder{
			KindStore: storeRequest{7, false, write}, KindHandIn: handInRequest{7, write},
			KindOffer: offerRequest{7, dots}, KindDecide: decideRequest{7, true, dots},
		} {
			b, err := call("n2", kind, request.encode())
			if err != nil || len(b) < 2 || status(b[1]) != statusElsewhere {
				t.Errorf("kind %d for a partition that does not exist: %x, %v", kind, b, err)
			}
			if _, err := call("n2", kind, []byte{1, 2, 3}); !errors.Is(err, errMessage) {
				t.Errorf("kind %d: %v", kind, err)
			}
		}
		b, err := call("n2", KindHandIn, handInRequest{0, write}.encode())
		a, bad := decodeHandInAnswer(b)
		if err != nil || bad != nil || a.status != statusElsewhere || a.leader != "n1" {
			t.Errorf("a follower says %+v, %v, %v", a, err, bad)
		}
	})
}
