package storage

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func TestFlushFailuresInARow(t *testing.T) {
	f := newFlushFailures()
	broken := errors.New("no")
	for range maxFlushFailures - 1 {
		if err := f.ended(broken); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ended(nil); err != nil {
		t.Fatal(err)
	}
	for i := range maxFlushFailures {
		if err := f.ended(broken); (err != nil) != (i == maxFlushFailures-1) {
			t.Fatalf("after %d failures: %v", i+1, err)
		}
	}
}

// tablesFail makes the creation of table files fail while on is set; the
// write-ahead log goes on.
func tablesFail(on *atomic.Bool) vfs.FS { return tablesFailOn(vfs.NewMem(), on) }

func tablesFailOn(fs vfs.FS, on *atomic.Bool) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return errorfs.ErrInjected
		}
		return nil
	}))
}

const flushDeadline = time.Minute // generous: it takes milliseconds

// A database whose tables cannot be written says so and stops, rather than try
// for ever.
func TestStateThatCannotFlushBreaks(t *testing.T) {
	var on atomic.Bool
	fatal := make(chan error, 1)
	s, err := OpenState(StateOptions{FS: tablesFail(&on), Dir: "d", MemTableBytes: 256 << 10, Events: func(e Event) {
		if e, ok := e.(EventFatal); ok {
			fatal <- e.Err
		}
	}})
	ok(t, err)
	r := replicaOf(t, s, stateReplica)
	on.Store(true)
	var writing sync.WaitGroup
	stop := make(chan struct{})
	writing.Go(func() {
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.Apply([]ApplyEntry{entry(t, i, put("k", strings.Repeat("v", 64<<10)))}); err != nil {
				return
			}
		}
	})
	select {
	case err := <-fatal:
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Errorf("fatal for another reason: %v", err)
		}
	case <-time.After(flushDeadline):
		t.Fatal("never told")
	}
	if _, _, err := r.Get([]byte("k")); !errors.Is(err, ErrBroken) {
		t.Errorf("get: %v", err)
	}
	on.Store(false) // lets a stalled writer go
	close(stop)
	writing.Wait()
}

func TestLogThatCannotFlushFails(t *testing.T) {
	var on atomic.Bool
	failed := make(chan error, 1)
	l, err := OpenLog(LogOptions{FS: tablesFail(&on), Dir: "log", NodeID: "n1-aaaa", MemTableBytes: logTestMemTable, DiskSlowAfter: -1, Events: func(e LogEvent) {
		if e, ok := e.(LogFailed); ok {
			failed <- e.Err
		}
	}})
	mustDo(t, err)
	rl := mustReplica(t, l, Replica{1, 1})
	on.Store(true)
	for i := uint64(1); ; i++ {
		if err := rl.Append([]LogEntry{{Index: i, Term: 1, Data: make([]byte, 40<<10)}}); err != nil {
			if !errors.Is(err, ErrLogFailed) {
				t.Error(err)
			}
			break
		}
	}
	select {
	case err := <-failed:
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Errorf("failed for another reason: %v", err)
		}
	case <-time.After(flushDeadline):
		t.Fatal("never told")
	}
}

// A database that cannot flush what it replays, for want of space above all, is
// not opened, and says why. Pebble itself would try until there is room.
func TestNoOpenWithoutRoomToFlush(t *testing.T) {
	var on atomic.Bool
	disk := vfs.NewCrashableMem()
	l := openTestLog(t, disk)
	mustDo(t, mustReplica(t, l, Replica{1, 1}).Append([]LogEntry{{Index: 1, Term: 1, Data: []byte("x")}}))
	s, err := OpenState(StateOptions{FS: disk, Dir: "state"})
	ok(t, err)
	_, err = replicaOf(t, s, stateReplica).Apply([]ApplyEntry{entry(t, 1, put("k", "v"))})
	ok(t, err)
	ok(t, s.Sync())
	crashed := disk.CrashClone(vfs.CrashCloneCfg{})
	on.Store(true)
	fs := tablesFailOn(crashed, &on)
	opened := make(chan [2]error, 1)
	go func() {
		var both [2]error
		_, both[0] = OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1-aaaa", DiskSlowAfter: -1})
		_, both[1] = OpenState(StateOptions{FS: fs, Dir: "state"})
		opened <- both
	}()
	select {
	case both := <-opened:
		for i, err := range both {
			if !errors.Is(err, errorfs.ErrInjected) {
				t.Errorf("database %d opened: %v", i, err)
			}
		}
	case <-time.After(flushDeadline):
		t.Fatal("still opening")
	}
	on.Store(false) // lets what was left behind end
}
