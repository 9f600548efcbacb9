package storage

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/capstan-kv/capstan/partition"
)

// What is saved outlives a power cut, for all partitions by one synced batch; what
// is not saved is not told.
func TestSaveHeard(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var syncs atomic.Int64
	l := openTestLog(t, errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			syncs.Add(1)
		}
		return nil
	})))
	const partitions = 64
	for p := range partition.ID(partitions) {
		mustTentative(t, l, p).Hear(100 + uint64(p))
	}
	check := func(l *Log, p partition.ID, heard, saved uint64, covers bool) {
		t.Helper()
		tl := mustTentative(t, l, p)
		if index, covered := tl.Saved(); tl.Heard() != heard || index != saved || covered != covers {
			t.Errorf("partition %d: heard %d, saved %d, covers %v; want %d, %d, %v", p, tl.Heard(), index, covered, heard, saved, covers)
		}
	}
	check(l, 7, 107, 0, false)
	syncs.Store(0)
	mustDo(t, l.SaveHeard(false))
	if n := syncs.Load(); n != 1 {
		t.Errorf("%d syncs", n)
	}
	check(l, 7, 107, 107, false)
	mustTentative(t, l, 7).Hear(200)
	check(l, 7, 200, 107, false)
	crashed := openTestLog(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	for p := range partition.ID(partitions) {
		check(crashed, p, 100+uint64(p), 100+uint64(p), false)
	}
	mustDo(t, crashed.Close())

	mustDo(t, l.SaveHeard(true))
	check(l, 7, 200, 200, true)
	syncs.Store(0)
	mustDo(t, errors.Join(l.SaveHeard(true), l.SaveHeard(false)))
	if n := syncs.Load(); n != 0 {
		t.Errorf("%d syncs without any change", n)
	}
	mustTentative(t, l, 7).Hear(300)
	mustDo(t, l.SaveHeard(false)) // covers is never taken back
	crashed = openTestLog(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	check(crashed, 7, 300, 300, true)
	check(crashed, 8, 108, 108, true)
	checkIndexEqualsDisk(t, mustTentative(t, crashed, 7))
	mustDo(t, crashed.Close())
	mustDo(t, l.Close())
	if err := l.SaveHeard(false); !errors.Is(err, ErrLogClosed) {
		t.Errorf("%v", err)
	}
}
