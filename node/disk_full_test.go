package node

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// fillingFS says that a disk of 1 GiB has as much room as a test lets it have.
type fillingFS struct {
	vfs.FS
	freeMiB *atomic.Int64
}

func (fs fillingFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: uint64(fs.freeMiB.Load()) << 20, TotalBytes: 1 << 30}, nil
}

// TestNearlyFullDisks: a leader refuses writes while its own disk is nearly
// full, or those of so many voters that the others are no quorum. Deletes, reads
// and elections go on, and so does everything else elsewhere.
func TestNearlyFullDisks(t *testing.T) {
	free := map[string]*atomic.Int64{"n1": {}, "n2": {}, "n3": {}}
	roomy := func() {
		for _, f := range free {
			f.Store(512)
		}
	}
	roomy()
	inCluster(t, 3, func(w *world) {
		const p = 0
		leader := w.leaderOf(p)
		others := w.others(leader)
		key := func(i int) string { return keyIn(p, 4, i) }
		linearizable := ask{level: capstanv1.Consistency_CONSISTENCY_LINEARIZABLE}
		for i := range 4 {
			leader.mustWrite(linearizable, key(i), "old")
		}
		refused := func(want string) {
			t.Helper()
			w.eventually(time.Minute, "writes are refused", func() error {
				_, err := others[0].write(linearizable, key(0), "new")
				if err == nil {
					return errors.New("one was taken")
				}
				if told := w.refusal(err, replication.DiskFull, replication.NotApplied); !strings.Contains(told.Message, want) {
					t.Errorf("refused with %q", told.Message)
				}
				return nil
			})
		}
		free[leader.name].Store(100) // 128 are kept
		refused("100 MiB are free, 128 MiB are kept")
		if _, err := leader.write(ask{level: eventual}, key(0), "new"); err == nil {
			t.Error("an eventual write was taken")
		}
		if _, err := leader.write(ask{level: eventual}, key(3), ""); err != nil {
			t.Errorf("an eventual delete: %v", err)
		}
		leader.mustWrite(linearizable, key(1), "")
		free[leader.name].Store(31)
		time.Sleep(diskLook)
		if _, err := leader.write(linearizable, key(2), ""); err == nil {
			t.Error("a delete was taken although nothing is left for elections")
		}
		others[0].mustRead(linearizable, key(2), "old")

		// One follower without room: the others are a quorum. Two are none.
		roomy()
		free[others[0].name].Store(100)
		time.Sleep(2 * diskWatch)
		leader.mustWrite(linearizable, key(0), "two have room")
		free[others[1].name].Store(100)
		refused("the disks of " + others[0].name + ", " + others[1].name + " are nearly full")
		leader.mustWrite(linearizable, key(2), "")

		// Whoever leads next refuses too, and takes deletes.
		leader.crash(0)
		next := w.leaderOf(p, others...)
		if _, err := next.write(linearizable, key(0), "new"); err == nil {
			t.Error("the next leader took a write")
		}
		next.mustWrite(linearizable, key(0), "")
		leader.start()
		w.awaitReady(w.machines...)

		roomy()
		w.eventually(time.Minute, "writes are taken again", func() error {
			_, err := others[0].write(linearizable, key(0), "new")
			return err
		})
	}, func(c *Config) { c.FS = fillingFS{c.FS, free[c.Name]} })
}
