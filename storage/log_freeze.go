package storage

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logFreezeFS stands between Pebble and the disk, and keeps from Pebble that a
// write to the WAL has failed. Pebble has no way to go on from there: it calls
// Logger.Fatalf, or panics under its locks, from which the Go runtime itself
// may end the process ("unlock of unlocked mutex"). So the failing call tells
// the Log, and never returns. To Pebble the disk hangs; callers of the Log are
// let go (see [Log.commit]); the files stay as a power cut would leave them:
// nothing is ever written behind the hole.
type logFreezeFS struct {
	vfs.FS
	fail func(error)
	// armed once the database is open: errors while opening are returned.
	armed atomic.Bool
}

func (fs *logFreezeFS) check(op, name string, err error) error {
	if err == nil || !fs.armed.Load() {
		return err
	}
	fs.fail(fmt.Errorf("%s %s: %w", op, name, err))
	select {} // the failed state ends with the process
}

// isWAL tells WAL files by their names; Pebble has no other hint.
func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

func (fs *logFreezeFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	if !isWAL(name) {
		return f, err
	}
	return fs.wrap(f, name, fs.check("create", name, err))
}

func (fs *logFreezeFS) ReuseForWrite(oldName, newName string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldName, newName, c)
	if !isWAL(newName) {
		return f, err
	}
	return fs.wrap(f, newName, fs.check("reuse", newName, err))
}

// OpenDir is wrapped too: a new WAL is durable only with its directory.
func (fs *logFreezeFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return fs.wrap(f, name, err)
}

func (fs *logFreezeFS) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &logFreezeFile{File: f, fs: fs, name: name}, nil
}

type logFreezeFile struct {
	vfs.File
	fs   *logFreezeFS
	name string
}

func (f *logFreezeFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.fs.check("write", f.name, err)
}

func (f *logFreezeFile) Sync() error { return f.fs.check("sync", f.name, f.File.Sync()) }

func (f *logFreezeFile) SyncData() error { return f.fs.check("sync", f.name, f.File.SyncData()) }

func (f *logFreezeFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.check("sync", f.name, err)
}

// Preallocate is not checked: it is a wish, which not every file system can
// grant, and Pebble goes on without it.
func (f *logFreezeFile) Preallocate(offset, length int64) error {
	return f.File.Preallocate(offset, preallocation(f.fs.FS, f.name, length))
}

func (f *logFreezeFile) Close() error { return f.fs.check("close", f.name, f.File.Close()) }
