package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A database takes up to nine write-ahead log files, a memtable each, beside
// its tables, and a compaction writes what it replaces beside it. On a disk of
// less than a few GiB all of that is smaller, so that most of it is for data.
const (
	// preallocShare is how many times as much as it preallocates for one file a
	// database leaves free: from some 4.5 GiB of free space on files are
	// preallocated whole.
	preallocShare = 64
	// logTableShare and stateTableShare of the disk are a memtable at most, but
	// not less than the least: each of them costs a flush.
	logTableShare, leastLogTable     = 64, 2 << 20
	stateTableShare, leastStateTable = 128, 1 << 20
	// logBaseShare and stateBaseShare of the disk are the first level below L0 at
	// most, and fileShare a table of L0; those of lower levels are two, four, ...
	// times as large. They make up what one compaction writes.
	logBaseShare, stateBaseShare, leastBase = 16, 64, 4 << 20
	fileShare, leastFile                    = 1024, 512 << 10

	// reserveShare of the disk, at most mostReserve, is kept for what must go on
	// when it is nearly full: flushes of all memtables, a compaction, the log of
	// deletes and elections.
	reserveShare = 8
	mostReserve  = 512 << 20
)

// Reserve is how much of a disk of so many bytes is to be kept free: whoever
// brings data stops there.
func Reserve(totalBytes uint64) uint64 { return min(mostReserve, totalBytes/reserveShare) }

// scaled is want, or less on a small disk: a share of it, but not below least. A
// want below that stands. dir need not exist yet; its parent does.
func scaled(fs vfs.FS, dir string, want, share, least uint64) uint64 {
	usage, err := fs.GetDiskUsage(fs.PathDir(dir))
	if err != nil || usage.TotalBytes == 0 {
		return want // nobody can tell
	}
	return min(want, max(usage.TotalBytes/share, least))
}

// preallocation shortens a wish to preallocate space for the file name to what the disk
// has room for. Where nobody can tell the free space, the wish stands.
func preallocation(fs vfs.FS, name string, bytes int64) int64 {
	usage, err := fs.GetDiskUsage(fs.PathDir(name))
	if err != nil {
		return bytes
	}
	return min(bytes, int64(usage.AvailBytes/preallocShare))
}

// roomBeside refuses what would take so many bytes if less than half of the
// reserve were left then.
func roomBeside(fs vfs.FS, dir string, bytes uint64) error {
	usage, err := fs.GetDiskUsage(dir)
	if keep := Reserve(usage.TotalBytes) / 2; err == nil && usage.AvailBytes < bytes+keep {
		return fmt.Errorf("%w: %d MiB are free, %d MiB are needed and %d MiB are kept", ErrNoRoom, usage.AvailBytes>>20, bytes>>20, keep>>20)
	}
	return nil // also where the disk does not say
}
