package storage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// powerCuts is a file system that keeps copies of what a power cut would have
// left on disk, taken just before operations that change something.
type powerCuts struct {
	vfs.FS
	mem *vfs.MemFS

	mu      sync.Mutex
	random  *rand.Rand
	every   int // take a copy before every so many operations; 0 = none
	seen    int
	durable uint64 // the index that must survive a cut now
	copies  []powerCut
}

type powerCut struct {
	fs      *vfs.MemFS
	durable uint64
}

func newPowerCuts(seed int64) *powerCuts {
	p := &powerCuts{mem: vfs.NewCrashableMem(), random: rand.New(rand.NewPCG(uint64(seed), 9))}
	p.FS = errorfs.Wrap(p.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			p.tick()
		}
		return nil
	}))
	return p
}

func (p *powerCuts) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen++; p.every == 0 || p.seen%p.every != 0 {
		return
	}
	// Nothing, part, or all of what was not synced gets through.
	percent := []int{0, 50, 100}[p.random.IntN(3)]
	p.copies = append(p.copies, powerCut{p.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: p.random}), p.durable})
}

func (p *powerCuts) set(every int, durable uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.every, p.durable = every, durable
}

// After a power cut at any moment, the state is exactly what applying the log
// up to the applied index gives, and that is at or past the last Sync.
func TestAPowerCutLeavesAPrefixOfTheLog(t *testing.T) {
	for seed := range int64(6) {
		cuts := newPowerCuts(seed)
		random := rand.New(rand.NewPCG(uint64(seed), 3))
		s := openState(t, cuts)
		r := replicaOf(t, s, stateReplica)
		ok(t, s.Sync())
		states := map[uint64]string{0: dump(t, r)}
		durable := uint64(0)
		cuts.set(4, 0)
		for index := uint64(1); index <= 300; index++ {
			var commands []Command
			for range random.IntN(4) {
				key := fmt.Sprint("k", random.IntN(20))
				if random.IntN(4) == 0 {
					commands = append(commands, del(key))
				} else {
					commands = append(commands, put(key, strings.Repeat("v", random.IntN(6000))))
				}
			}
			apply(t, r, index, commands...)
			states[index] = dump(t, r)
			switch random.IntN(30) {
			case 0:
				ok(t, s.Sync())
				durable = index
			case 1:
				ok(t, s.db.Flush())
				durable = index
			}
			cuts.set(4, durable)
			cuts.tick() // between two entries too
		}
		cuts.set(0, 0)
		ok(t, s.Close())
		if len(cuts.copies) < 20 {
			t.Fatalf("only %d power cuts", len(cuts.copies))
		}
		for i, cut := range cuts.copies {
			after := openState(t, cut.fs)
			got := replicaOf(t, after, stateReplica)
			index, _ := got.Applied()
			if index < cut.durable {
				t.Errorf("seed %d, cut %d: applied %d after a sync at %d", seed, i, index, cut.durable)
			}
			if dump(t, got) != states[index] {
				t.Errorf("seed %d, cut %d: the state is not that of applied index %d", seed, i, index)
			}
			// And it goes on from there.
			apply(t, got, index+1, put("k1", "on"))
			ok(t, after.Close())
		}
	}
}

// After a power cut at any moment of a transfer, the replica holds either the
// old state or the new one, whole; once Install has returned, the new one.
func TestAPowerCutDuringInstallLeavesOldOrNew(t *testing.T) {
	from := openReplica(t)
	mixed(t, from, 1, 300)
	stream := streamOf(t, from)
	next := dump(t, from)
	for _, flushed := range []bool{false, true} {
		cuts := newPowerCuts(1)
		s := openState(t, cuts)
		to := replicaOf(t, s, stateReplica)
		beside := replicaOf(t, s, Replica{stateReplica.Group + 1, 1})
		mixed(t, to, 2, 100)
		mixed(t, beside, 3, 30)
		if flushed {
			ok(t, s.db.Flush())
		}
		ok(t, s.Sync())
		old, near := dump(t, to), dump(t, beside)
		cuts.set(1, 0)
		ok(t, install(to, bytes.NewReader(stream)))
		cuts.set(1, 1) // from here on the new state must be there
		apply(t, beside, 1000, put("k", "v"))
		ok(t, s.db.Flush())
		cuts.set(0, 0)
		ok(t, s.Close())
		seen := map[string]int{}
		for i, cut := range cuts.copies {
			after := openState(t, cut.fs)
			switch got := dump(t, replicaOf(t, after, stateReplica)); {
			case got == next:
				seen["new"]++
			case got == old && cut.durable == 0:
				seen["old"]++
			default:
				t.Errorf("flushed %v, cut %d of %d: neither the old nor the new state", flushed, i, len(cuts.copies))
			}
			if cut.durable == 0 && dump(t, replicaOf(t, after, beside.replica)) != near {
				t.Errorf("flushed %v, cut %d: the replica beside it has changed", flushed, i)
			}
			if n := stagedFiles(t, after); n != 0 {
				t.Errorf("flushed %v, cut %d: %d staged files left over", flushed, i, n)
			}
			ok(t, after.Close())
		}
		if seen["new"] == 0 || seen["old"] == 0 {
			t.Errorf("flushed %v: of %d cuts, %v", flushed, len(cuts.copies), seen)
		}
	}
}
