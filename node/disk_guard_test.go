package node

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/replication"
)

// usageFS says how full the disk is.
type usageFS struct {
	vfs.FS
	usage vfs.DiskUsage
	err   error
}

func (fs *usageFS) GetDiskUsage(string) (vfs.DiskUsage, error) { return fs.usage, fs.err }

func TestDiskGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gib = 1 << 30
		fs := &usageFS{usage: vfs.DiskUsage{AvailBytes: gib, TotalBytes: 100 * gib}}
		g := &diskGuard{fs: fs}
		if err := g.check(); err != nil {
			t.Fatalf("1 GiB free: %v", err)
		}
		fs.usage.AvailBytes = diskReserve - 1
		if err := g.check(); err != nil {
			t.Fatalf("looked again at once: %v", err)
		}
		time.Sleep(diskLook)
		var refused *replication.Error
		if err := g.check(); !errors.As(err, &refused) || refused.Reason != replication.DiskFull || refused.Outcome != replication.NotApplied {
			t.Fatalf("nearly full: %v", err)
		}
		fs.usage.AvailBytes = diskReserve
		time.Sleep(diskLook)
		if err := g.check(); err != nil {
			t.Fatalf("room again: %v", err)
		}
		fs.usage = vfs.DiskUsage{AvailBytes: gib / 20, TotalBytes: gib} // a small disk
		time.Sleep(diskLook)
		if err := g.check(); err != nil {
			t.Fatalf("a twentieth of a small disk: %v", err)
		}
		fs.usage.AvailBytes--
		time.Sleep(diskLook)
		if err := g.check(); err == nil {
			t.Fatal("less than a twentieth of a small disk is taken for room")
		}
		fs.err = errors.New("not supported")
		time.Sleep(diskLook)
		if err := g.check(); err != nil {
			t.Fatalf("no telling: %v", err)
		}
	})
}
