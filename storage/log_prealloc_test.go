package storage

import (
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// noPreallocFS is a file system without preallocation, as some are; also one
// that has less room left than a whole WAL file.
type noPreallocFS struct{ vfs.FS }

type noPreallocFile struct{ vfs.File }

func (noPreallocFile) Preallocate(int64, int64) error { return syscall.EOPNOTSUPP }

func noPrealloc(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return noPreallocFile{f}, nil
}

func (fs noPreallocFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return noPrealloc(fs.FS.Create(name, c))
}

func (fs noPreallocFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return noPrealloc(fs.FS.ReuseForWrite(from, to, c))
}

// TestLogWithoutPreallocation goes through several WAL files, each of which
// Pebble would like to preallocate.
func TestLogWithoutPreallocation(t *testing.T) {
	l, err := OpenLog(LogOptions{
		// Pebble preallocates files that have a descriptor only.
		FS: noPreallocFS{vfs.Default}, Dir: t.TempDir(), NodeID: "n1-aaaa", MemTableBytes: logTestMemTable, DiskSlowAfter: -1,
	})
	mustDo(t, err)
	rl := mustReplica(t, l, Replica{1, 1})
	for i := uint64(1); i <= 32; i++ {
		mustDo(t, rl.Append([]LogEntry{{Index: i, Term: 1, Data: make([]byte, 40<<10)}}))
	}
	mustDo(t, l.Close())
}
