package identity

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
)

// told is what completed calls have told the node about itself.
type told struct {
	node       partition.NodeID
	attempted  Start
	registered Start
	cluster    string
}

// TestAfterACrashTheDirectoryOpens cuts the power before every disk operation of
// a node's first starts, each time keeping another part of what was not synced.
func TestAfterACrashTheDirectoryOpens(t *testing.T) {
	type crash struct {
		disk *vfs.MemFS
		told told
		// trying is what the calls in flight may have set.
		trying told
	}
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		percent := rapid.SampledFrom([]int{0, 30, 70, 100}).Draw(rt, "unsynced %")
		rng := rand.New(rand.NewPCG(seed, 1))
		disk := vfs.NewCrashableMem()
		var crashes []crash
		var known, trying told
		fsys := errorfs.Wrap(disk, errorfs.InjectorFunc(func(errorfs.Op) error {
			crashes = append(crashes, crash{disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), known, trying})
			return nil
		}))
		for i := range uint64(3) {
			id, err := Open(fsys, "data/n1", "n1")
			if err != nil {
				rt.Fatal(err)
			}
			known.node = id.NodeID()
			start := Start{id.NextStart(), 100 + i}
			if start.Number != i+1 {
				rt.Fatalf("start %d is number %d", i+1, start.Number)
			}
			trying = known
			trying.attempted = start
			if err := id.Attempt(start); err != nil {
				rt.Fatal(err)
			}
			known = trying
			trying.registered, trying.cluster = start, "c1"
			if err := id.Confirm(start, "c1"); err != nil {
				rt.Fatal(err)
			}
			known = trying
			if err := id.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		crashes = append(crashes, crash{disk.CrashClone(vfs.CrashCloneCfg{}), known, trying})
		for i, c := range crashes {
			id, err := Open(c.disk, "data/n1", "n1")
			if err != nil {
				rt.Fatalf("crash %d of %d: %v\n%s", i, len(crashes), err, c.disk)
			}
			switch {
			case c.told.node != "" && id.NodeID() != c.told.node:
				rt.Fatalf("crash %d: node %s became %s", i, c.told.node, id.NodeID())
			case id.NextStart() <= c.told.attempted.Number:
				rt.Fatalf("crash %d: start %d came again", i, id.NextStart())
			case id.ClusterID() != c.told.cluster && id.ClusterID() != c.trying.cluster:
				rt.Fatalf("crash %d: cluster %q became %q", i, c.told.cluster, id.ClusterID())
			case id.Registered() != c.told.registered && id.Registered() != c.trying.registered:
				rt.Fatalf("crash %d: start %v became %v", i, c.told.registered, id.Registered())
			}
			if last, confirmed := id.Last(); !confirmed && last != c.told.attempted && last != c.trying.attempted {
				rt.Fatalf("crash %d: attempt %v became %v", i, c.told.attempted, last)
			}
			if err := id.Close(); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// TestAFailedWriteIsNotGuessedAbout: after an error the disk may hold either
// record, so the open identity changes no more.
func TestAFailedWriteIsNotGuessedAbout(t *testing.T) {
	disk := vfs.NewMem()
	failing := false
	fsys := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing && op.Kind == errorfs.OpFileSync {
			return errorfs.ErrInjected
		}
		return nil
	}))
	id, err := Open(fsys, "d", "n1")
	if err != nil {
		t.Fatal(err)
	}
	failing = true
	if err := id.SetCluster("c1"); err == nil || id.Initialised() {
		t.Fatal("a failed write was taken for a good one:", err)
	}
	failing = false
	if err := id.SetCluster("c2"); err == nil {
		t.Fatal("written on after a failure")
	}
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	if again := open(t, disk, "d", "n1"); again.NodeID() != id.NodeID() || again.Initialised() {
		t.Fatalf("%+v", again.record)
	}
}
