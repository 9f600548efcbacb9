package bend

import (
	"errors"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// inode is a file of a volatile disk, whatever it is called. The base has one
// that goes with it, whose content is what was synced.
type inode struct {
	disk *volatile

	// Guarded by disk.mu.
	links   []string // the names that show it now
	paths   []string // the names that it has in the base: never none while it has links
	hidden  []string // those of paths that are no entries
	handles int      // how many have it open

	// mu is taken after disk.mu.
	mu       sync.RWMutex
	size     int64    // as seen
	unsynced extents  // what a sync is to write
	lost     extents  // what a failed sync has not written: it is seen, and never written
	writer   vfs.File // of the base, open while anything may have to be written
}

// writeAt keeps p for a sync.
func (i *inode) writeAt(p []byte, at int64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.account(func() {
		i.lost = i.lost.cut(at, at+int64(len(p)))
		i.unsynced = i.unsynced.put(at, p)
		i.size = max(i.size, at+int64(len(p)))
	})
	if i.disk.held.Load() > i.disk.most {
		return i.through()
	}
	return nil
}

// account keeps the sum of what is held in memory. i.mu is held.
func (i *inode) account(change func()) {
	before := i.unsynced.bytes() + i.lost.bytes()
	change()
	i.disk.held.Add(i.unsynced.bytes() + i.lost.bytes() - before)
}

// through writes to the base what was not synced. i.mu is held.
func (i *inode) through() (err error) {
	i.account(func() {
		for len(i.unsynced) > 0 {
			x := i.unsynced[0]
			if _, err = i.writer.WriteAt(x.data, x.at); err != nil {
				return
			}
			i.unsynced = i.unsynced[1:]
		}
		i.unsynced = nil
	})
	return err
}

// sync makes the content durable. What is written meanwhile may be, too.
func (i *inode) sync(to func(vfs.File) error, file vfs.File) error {
	i.mu.Lock()
	err := i.through()
	if i.writer != nil {
		file = i.writer
	}
	i.mu.Unlock()
	if err != nil {
		return err
	}
	return to(file)
}

// fail is a sync that the disk has failed: the operating system forgets then
// that there was something to write.
func (i *inode) fail() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.account(func() {
		for _, x := range i.unsynced {
			i.lost = i.lost.put(x.at, x.data)
		}
		i.unsynced = nil
	})
}

func (i *inode) readAt(file vfs.File, p []byte, at int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	if at >= i.size {
		return 0, io.EOF
	}
	whole := int64(len(p)) <= i.size-at
	p = p[:min(int64(len(p)), i.size-at)]
	n, err := file.ReadAt(p, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, err
	}
	clear(p[n:]) // the base ends before what was written here
	i.lost.over(at, p)
	i.unsynced.over(at, p)
	if !whole {
		return len(p), io.EOF
	}
	return len(p), nil
}

// clean says that the base has all that is seen.
func (i *inode) clean() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return len(i.unsynced) == 0 && len(i.lost) == 0
}

// forget lets go of content that nobody can reach any more, and of the base.
func (i *inode) forget() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.account(func() { i.unsynced, i.lost = nil, nil })
	writer := i.writer
	i.writer = nil
	if writer == nil {
		return nil
	}
	return writer.Close()
}
