package storage

import "github.com/cockroachdb/pebble/v2/vfs"

// preallocShare is how many times as much as it preallocates for one file a
// database leaves free. Both databases keep up to nine write-ahead log files
// each, so that all of them together leave most of a small disk to data. From
// some 4.5 GiB of free space on files are preallocated whole.
const preallocShare = 64

// preallocation shortens a wish to preallocate space for the file name to what the disk
// has room for. Where nobody can tell the free space, the wish stands.
func preallocation(fs vfs.FS, name string, bytes int64) int64 {
	usage, err := fs.GetDiskUsage(fs.PathDir(name))
	if err != nil {
		return bytes
	}
	return min(bytes, int64(usage.AvailBytes/preallocShare))
}
