package bend

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// killed is what the base holds when a process is killed, and what had been
// acknowledged as durable by then.
type killed struct {
	base  *vfs.MemFS
	acked int
}

// Above a volatile disk, a database that is killed at any moment, between any
// two steps that reach the base, has all that it acknowledged as durable.
func TestVolatileDatabase(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 1))
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	acked, seen := -1, 0
	var kills []killed
	base := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			mu.Lock()
			defer mu.Unlock()
			if seen++; seen%7 == 0 || acked < 0 {
				all := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: random}
				kills = append(kills, killed{mem.CrashClone(all), acked})
			}
		}
		return nil
	}))
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100+i%3000) }
	key := func(i int) []byte { return fmt.Appendf(nil, "%06d", i) }
	open := func(fs vfs.FS) *pebble.DB {
		t.Helper()
		db, err := pebble.Open("db", &pebble.Options{
			FS: fs, MemTableSize: 64 << 10, L0CompactionThreshold: 2, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{},
		})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	must(t, mem.MkdirAll("", 0o755))
	v := newVolatile(base, 1<<20)
	db := open(v)
	for i := range 600 {
		switch {
		case i%50 == 49: // a table from beside, as a snapshot comes
			name := fmt.Sprintf("db/incoming-%d", i)
			f := made(t)(v.Create(name, vfs.WriteCategoryUnspecified))
			table := sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{TableFormat: db.TableFormat()})
			must(t, table.Set(key(i), value(i)))
			must(t, table.Close())
			must(t, db.Ingest(t.Context(), []string{name}))
			must(t, db.LogData(nil, pebble.Sync)) // and what was written before it
		case i%3 == 0:
			must(t, db.Set(key(i), value(i), pebble.NoSync))
			continue
		default:
			must(t, db.Set(key(i), value(i), pebble.Sync))
		}
		mu.Lock()
		acked = i
		mu.Unlock()
	}
	must(t, db.Close())
	if len(kills) < 50 {
		t.Fatalf("killed only %d times", len(kills))
	}
	for n, k := range kills {
		after := open(newVolatile(k.base, 1<<20))
		for i := 0; i < 600; i++ {
			got, closer, err := after.Get(key(i))
			switch {
			case err == nil && !bytes.Equal(got, value(i)):
				t.Errorf("kill %d: %d is wrong", n, i)
			case err != nil && i <= k.acked:
				t.Fatalf("kill %d of %d: %d is gone, and %d was durable: %v", n, len(kills), i, k.acked, err)
			}
			if err == nil {
				must(t, closer.Close())
			}
		}
		must(t, after.Close())
	}
	t.Logf("killed %d times", len(kills))
}

// The same disk finds out who acknowledges too early.
func TestVolatileDatabaseLosesWhatWasNotSynced(t *testing.T) {
	mem := vfs.NewMem()
	options := func(fs vfs.FS) *pebble.Options {
		return &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}}
	}
	db, err := pebble.Open("db", options(newVolatile(mem, 1<<20)))
	must(t, err)
	must(t, db.Set([]byte("synced"), []byte("x"), pebble.Sync))
	must(t, db.Set([]byte("early"), []byte("x"), pebble.NoSync))
	if _, closer, err := db.Get([]byte("early")); err != nil {
		t.Error(err)
	} else {
		closer.Close()
	}
	// The first one is not closed: it is killed. Its lock goes with its process.
	left := vfs.NewMem()
	if _, err := vfs.Clone(mem, left, "db", "db"); err != nil {
		t.Fatal(err)
	}
	after, err := pebble.Open("db", options(newVolatile(left, 1<<20)))
	must(t, err)
	defer after.Close()
	if _, closer, err := after.Get([]byte("synced")); err != nil {
		t.Error(err)
	} else {
		closer.Close()
	}
	if _, _, err := after.Get([]byte("early")); err != pebble.ErrNotFound {
		t.Errorf("what was not synced: %v", err)
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
