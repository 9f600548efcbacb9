package bend

import (
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is a file system that fails as the control says.
type disk struct {
	vfs.FS
	bend *Bend
}

func (d *disk) Unwrap() vfs.FS { return d.FS }

// full is the error of something that needs room, while there is none.
func (b *Bend) full(op, name string) error {
	if !b.state.Load().DiskFull {
		return nil
	}
	b.felt.writeRefused.Add(1)
	return &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
}

// syncing delays a sync and lets it fail. A delay that the next control
// shortens ends at once: healing a disk must not take as long as its illness.
func (b *Bend) syncing(name string) error {
	began, delayed := time.Now(), false
	for {
		s := b.state.Load()
		left := s.syncDelay() - time.Since(began)
		if left <= 0 {
			if !s.SyncError {
				return nil
			}
			b.felt.syncFailed.Add(1)
			return &fs.PathError{Op: "sync", Path: name, Err: syscall.EIO}
		}
		if !delayed {
			b.felt.syncDelayed.Add(1)
			delayed = true
		}
		over := time.NewTimer(left)
		select {
		case <-over.C:
		case <-s.replaced:
			over.Stop()
		}
	}
}

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.bend.full("create", name); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name, c)
	return d.file(name, f, err)
}

func (d *disk) Link(oldName, newName string) error {
	if err := d.bend.full("link", newName); err != nil {
		return err
	}
	return d.FS.Link(oldName, newName)
}

func (d *disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.Open(name, opts...)
	return d.file(name, f, err)
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if _, err := d.FS.Stat(name); err != nil {
		if err := d.bend.full("create", name); err != nil {
			return nil, err
		}
	}
	f, err := d.FS.OpenReadWrite(name, c, opts...)
	return d.file(name, f, err)
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	return d.file(name, f, err)
}

func (d *disk) ReuseForWrite(oldName, newName string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(oldName, newName, c)
	return d.file(newName, f, err)
}

func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	if _, err := d.FS.Stat(dir); err != nil {
		if err := d.bend.full("mkdir", dir); err != nil {
			return err
		}
	}
	return d.FS.MkdirAll(dir, perm)
}

func (d *disk) Lock(name string) (io.Closer, error) {
	if _, err := d.FS.Stat(name); err != nil {
		if err := d.bend.full("lock", name); err != nil {
			return nil, err
		}
	}
	return d.FS.Lock(name)
}

// GetDiskUsage tells nothing free while the disk is full; that is no write, and
// not counted.
func (d *disk) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	u, err := d.FS.GetDiskUsage(path)
	if err == nil && d.bend.state.Load().DiskFull {
		u.AvailBytes, u.UsedBytes = 0, u.TotalBytes
	}
	return u, err
}

func (d *disk) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{File: f, bend: d.bend, name: name}, nil
}

// file is an open file, or directory, of a disk.
type file struct {
	vfs.File
	bend *Bend
	name string
	at   atomic.Int64 // where Read and Write go on
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.at.Add(int64(n))
	return n, err
}

func (f *file) Write(p []byte) (int, error) {
	if err := f.grow(f.at.Load() + int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	f.at.Add(int64(n))
	return n, err
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	if err := f.grow(at + int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

// Preallocate has no effect on a full disk, as on one that can not do it.
func (f *file) Preallocate(offset, length int64) error {
	if err := f.bend.full("preallocate", f.name); err != nil {
		return err
	}
	return f.File.Preallocate(offset, length)
}

// grow refuses to let the file reach end, if it ends before it.
func (f *file) grow(end int64) error {
	if !f.bend.state.Load().DiskFull {
		return nil
	}
	info, err := f.File.Stat()
	if err != nil {
		return err
	}
	if end <= info.Size() {
		return nil
	}
	return f.bend.full("write", f.name)
}

// syncing fails as the control says, and a volatile disk hears of it.
func (f *file) syncing() error {
	err := f.bend.syncing(f.name)
	if below, ok := f.File.(*volatileFile); err != nil && ok {
		below.syncFailed()
	}
	return err
}

func (f *file) Sync() error {
	if err := f.syncing(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *file) SyncData() error {
	if err := f.syncing(); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *file) SyncTo(length int64) (bool, error) {
	if err := f.syncing(); err != nil {
		return false, err
	}
	return f.File.SyncTo(length)
}
