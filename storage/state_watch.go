package storage

import (
	"fmt"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// walWatch sees a write-ahead log fail before Pebble does. Pebble panics on
// such an error, at places with its locks half taken, where the Go runtime may
// end the process before anybody can recover: so the listener is told first.
type walWatch struct {
	vfs.FS
	fail func(error)
}

func (w *walWatch) check(op, name string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s %s: %w", op, name, err)
		w.fail(err)
	}
	return err
}

// isStateWAL tells a write-ahead log by its name, the only hint there is.
func isStateWAL(name string) bool { return strings.HasSuffix(name, ".log") }

func (w *walWatch) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.Create(name, c)
	return w.watch("create", name, f, err)
}

func (w *walWatch) ReuseForWrite(oldName, newName string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.ReuseForWrite(oldName, newName, c)
	return w.watch("reuse", newName, f, err)
}

func (w *walWatch) watch(op, name string, f vfs.File, err error) (vfs.File, error) {
	if !isStateWAL(name) {
		return f, err
	}
	if err := w.check(op, name, err); err != nil {
		return nil, err
	}
	return watchedWAL{File: f, watch: w, name: name}, nil
}

type watchedWAL struct {
	vfs.File
	watch *walWatch
	name  string
}

func (f watchedWAL) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.watch.check("write", f.name, err)
}

func (f watchedWAL) Sync() error { return f.watch.check("sync", f.name, f.File.Sync()) }

func (f watchedWAL) SyncData() error { return f.watch.check("sync", f.name, f.File.SyncData()) }

func (f watchedWAL) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.watch.check("sync", f.name, err)
}

// Preallocate is not checked: Pebble goes on without it.
func (f watchedWAL) Preallocate(offset, length int64) error {
	return f.File.Preallocate(offset, preallocation(f.watch.FS, f.name, length))
}

func (f watchedWAL) Close() error { return f.watch.check("close", f.name, f.File.Close()) }

// onceFatal passes on the first EventFatal only: one failure shows at several
// places.
func onceFatal(tell Listener) Listener {
	var once sync.Once
	return func(e Event) {
		if _, fatal := e.(EventFatal); fatal {
			once.Do(func() { tell(e) })
			return
		}
		tell(e)
	}
}
