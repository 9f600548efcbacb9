package bend

import (
	"io/fs"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// volatileFile is an open file of a volatile disk.
type volatileFile struct {
	vfs.File // of the base; of all who write together if write is set
	inode    *inode
	path     string
	write    bool
	at       atomic.Int64 // where Read and Write go on
}

func (f *volatileFile) Read(p []byte) (int, error) {
	n, err := f.inode.readAt(f.File, p, f.at.Load())
	f.at.Add(int64(n))
	if n > 0 {
		err = nil // the end is told by the next call
	}
	return n, err
}

func (f *volatileFile) ReadAt(p []byte, at int64) (int, error) { return f.inode.readAt(f.File, p, at) }

func (f *volatileFile) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.at.Load())
	f.at.Add(int64(n))
	return n, err
}

func (f *volatileFile) WriteAt(p []byte, at int64) (int, error) {
	if !f.write {
		return 0, fail("write", f.path, syscall.EBADF)
	}
	if err := f.inode.writeAt(p, at); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *volatileFile) Sync() error { return f.inode.sync(vfs.File.Sync, f.File) }

func (f *volatileFile) SyncData() error { return f.inode.sync(vfs.File.SyncData, f.File) }

// SyncTo is a hint, and promises nothing.
func (f *volatileFile) SyncTo(int64) (bool, error) { return false, nil }

// syncFailed tells that the disk, before this one, has failed a sync.
func (f *volatileFile) syncFailed() { f.inode.fail() }

func (f *volatileFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	return f.inode.stat(info, f.inode.disk.PathBase(f.path)), nil
}

func (f *volatileFile) Close() error {
	v := f.inode.disk
	v.mu.Lock()
	defer v.mu.Unlock()
	f.inode.handles--
	if !f.write {
		if err := f.File.Close(); err != nil {
			return err
		}
	}
	return v.release(f.inode)
}

// volatileDir is a directory that is open to be synced.
type volatileDir struct {
	vfs.File
	disk *volatile
	path string
}

func (d *volatileDir) Sync() error {
	if err := d.disk.syncNames(d.path); err != nil {
		return err
	}
	return d.File.Sync()
}

func (d *volatileDir) SyncData() error { return d.Sync() }

// volatileInfo is what the base tells of a file, with what it does not know.
type volatileInfo struct {
	vfs.FileInfo
	name string
	size int64
}

func (i *inode) stat(base vfs.FileInfo, name string) vfs.FileInfo {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return volatileInfo{base, name, i.size}
}

func (i volatileInfo) Name() string { return i.name }
func (i volatileInfo) Size() int64  { return i.size }

var _ fs.FileInfo = volatileInfo{}
