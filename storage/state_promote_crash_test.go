package storage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// randomLog is a log of all kinds of commands, entry i at index i+1. Node n1 has
// one gapless run of dots, the others' come out of order.
func randomLog(t fataler, random *rand.Rand, entries int) (log []ApplyEntry) {
	sequence := uint64(0)
	for i := range entries {
		index := uint64(i) + 1
		var commands []any
		for range random.IntN(4) {
			key := fmt.Sprint("k", random.IntN(20))
			switch random.IntN(8) {
			case 0:
				commands = append(commands, del(key))
			case 1:
				commands = append(commands, put(key, string(make([]byte, random.IntN(6000)))))
			case 2:
				commands = append(commands, max(index, 10)-9+uint64(random.IntN(9)))
			default:
				p := Promotion{Now: hlc.Timestamp(index) << 16}
				for range 1 + random.IntN(4) {
					sequence++
					w := eventual("n1-aaaa", sequence, index-1-random.Uint64N(min(index, 8)), hlc.Timestamp(random.IntN(100)), string(make([]byte, random.IntN(500)))).of(key)
					if random.IntN(2) == 0 {
						w.Dot.Node, w.Dot.Sequence = "n2-bbbb", 1+random.Uint64N(uint64(3*entries))
					}
					if w.Delete = random.IntN(4) == 0; w.Delete {
						w.Bytes = nil
					}
					p.Writes = append(p.Writes, w)
				}
				commands = append(commands, p)
			}
		}
		log = append(log, logged(t, index, commands...))
	}
	return log
}

// A power cut at any moment leaves values and ledger as one: that of a prefix of
// the log; and applying the rest gives the same as without the cut.
func TestAPowerCutLeavesValuesAndLedgerAsOne(t *testing.T) {
	setLimits(t, func(l *ledgerLimits) { l.fates, l.conflicts, l.conflictBytes = 40, 20, 1<<20 })
	setCollect(t, 5)
	for seed := range int64(4) {
		cuts := newPowerCuts(seed)
		random := rand.New(rand.NewPCG(uint64(seed), 5))
		log := randomLog(t, random, 100)
		s := openState(t, cuts)
		r := replicaOf(t, s, stateReplica)
		ok(t, s.Sync())
		states := map[uint64]string{0: dump(t, r)}
		promoted := map[uint64]*DotSet{0: r.Promoted()}
		cuts.set(5, 0)
		for _, e := range log {
			take(t, r, e)
			states[e.Index], promoted[e.Index] = dump(t, r), r.Promoted()
			if random.IntN(20) == 0 {
				ok(t, s.Sync())
				cuts.set(5, r.Durable())
			}
			cuts.tick()
		}
		cuts.set(0, 0)
		ok(t, s.Close())
		if len(cuts.copies) < 20 {
			t.Fatalf("only %d power cuts", len(cuts.copies))
		}
		for i, cut := range cuts.copies {
			after := openState(t, cut.fs)
			got := replicaOf(t, after, stateReplica)
			at, _ := got.Applied()
			if at < cut.durable {
				t.Errorf("seed %d, cut %d: applied %d, durable %d", seed, i, at, cut.durable)
			}
			if dump(t, got) != states[at] || !got.Promoted().Equal(promoted[at]) {
				t.Errorf("seed %d, cut %d: the state is not that of applied index %d", seed, i, at)
			}
			take(t, got, log...)
			if dump(t, got) != states[uint64(len(log))] {
				t.Errorf("seed %d, cut %d: the rest of the log leads elsewhere", seed, i)
			}
			ok(t, after.Close())
		}
	}
}

// Beside Apply and Install, whoever asks for one thing and then for another finds
// the second no older: the applied index and the promoted dots, in both orders;
// a key without its tombstone, and then the floor. Entry n promotes write n and
// deletes a key, but each tenth raises the floor behind that.
func TestReadersFindTheLedgerAndTheStateOfOneTime(t *testing.T) {
	s := openState(t, vfs.NewMem())
	defer func() { ok(t, s.Close()) }()
	r, ahead := replicaOf(t, s, stateReplica), replicaOf(t, s, Replica{stateReplica.Group, 77})
	write := func(n uint64) Tentative { return eventual(nodeIDs[n%3], n, n-1, hlc.Timestamp(n), "v") }
	const entries, round = 400, 10
	stop := make(chan struct{})
	var readers sync.WaitGroup
	look := func() error {
		at, _ := r.Applied()
		has := at == 0 || r.PromotedHas(write(at).Dot)
		f, err := r.Fate(write(max(at, 1)).Dot)
		index, decided := r.DecidedAt(write(max(at, 1)).Dot)
		if err != nil || !has || at > 0 && (f.Kind != FateCommitted || !decided || index != at) {
			return fmt.Errorf("at %d: promoted %v, %+v, decided at %d, %v: %w", at, has, f, index, decided, err)
		}
		clone := r.Promoted().Clone()
		if now, _ := r.Applied(); now < clone.Len() {
			return fmt.Errorf("at %d with %d promoted dots", now, clone.Len())
		}
		if err := clone.Add(Dot{"n9", 1, 1}); err != nil {
			return err
		}
		if _, _, err := r.Conflicts(nil, nil, 3); err != nil {
			return err
		}
		at, _ = r.Applied()
		_, found, err := r.Get([]byte("deleted"))
		collected := (at+round-1)/round*round - 1 // at least, if it is not there
		if floor := r.Floor(); err != nil || !found && at > 0 && floor < collected {
			return fmt.Errorf("at %d: no tombstone, floor %d: %w", at, floor, err)
		}
		return nil
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := look(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := uint64(1); n <= entries; n++ {
		e := logged(t, n, promotionOf(write(n)), del("deleted"))
		if n%round == 0 {
			e = logged(t, n, promotionOf(write(n)), n-1)
		}
		take(t, ahead, e)
		if n%(2*round) == 0 {
			ok(t, install(r, bytes.NewReader(streamOf(t, ahead))))
		} else {
			take(t, r, e)
		}
	}
	close(stop)
	readers.Wait()
	if dump(t, r) != dump(t, ahead) {
		t.Error("the two differ")
	}
}
