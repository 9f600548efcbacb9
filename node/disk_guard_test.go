package node

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
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
		const mib = 1 << 20
		fs := &usageFS{}
		g := &diskGuard{fs: fs}
		for _, test := range []struct {
			what            string
			free, total     uint64
			err             error
			refused, delete bool
		}{
			{what: "a large disk", free: 512 * mib, total: 100 << 30},
			{what: "a large disk, nearly full", free: 512*mib - 1, total: 100 << 30, refused: true},
			{what: "a large disk, room for deletes", free: 128 * mib, total: 100 << 30, refused: true},
			{what: "a large disk, full", free: 128*mib - 1, total: 100 << 30, refused: true, delete: true},
			{what: "a small disk", free: 50 * mib, total: 400 * mib},
			{what: "a small disk, nearly full", free: 50*mib - 1, total: 400 * mib, refused: true},
			{what: "a small disk, full", free: 12 * mib, total: 400 * mib, refused: true, delete: true},
			{what: "no telling", err: errors.New("not supported")},
		} {
			time.Sleep(diskLook)
			fs.usage, fs.err = vfs.DiskUsage{AvailBytes: test.free, TotalBytes: test.total}, test.err
			for deletes, want := range map[bool]bool{false: test.refused, true: test.delete} {
				err := g.check(deletes)
				if (err != nil) != want {
					t.Errorf("%s, deletes %v: %v", test.what, deletes, err)
				}
				if refused := (*replication.Error)(nil); err != nil && (!errors.As(err, &refused) || refused.Reason != replication.DiskFull || refused.Outcome != replication.NotApplied) {
					t.Errorf("%s: %+v", test.what, err)
				}
			}
		}
		time.Sleep(diskLook)
		fs.usage, fs.err = vfs.DiskUsage{AvailBytes: mib, TotalBytes: mib}, nil
		_ = g.check(false)
		fs.usage.AvailBytes = 0
		if err := g.check(false); err != nil {
			t.Errorf("it looked again at once: %v", err)
		}
	})
}

// Another node's word holds for a while, and concerns those who are asked for.
func TestFullDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fullDisks
		all := []partition.NodeID{"n1", "n2", "n3"}
		among := func() string { return fmt.Sprint(f.among(all)) }
		if got := among(); got != "[]" {
			t.Error(got)
		}
		f.told("n2")
		time.Sleep(diskWatch)
		f.told("n3")
		f.told("n9")
		if got := among(); got != "[n2 n3]" {
			t.Error(got)
		}
		time.Sleep(diskTold - diskWatch)
		if got := among(); got != "[n3]" {
			t.Error(got)
		}
		time.Sleep(diskWatch)
		if got := among(); got != "[]" || f.some.Load() {
			t.Error(got, f.some.Load())
		}
	})
}
