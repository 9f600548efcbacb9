package storage

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// makeDirectory makes dir and the directories above it that are missing, each
// durable: without that, a power cut can take a whole database with its
// parent's entry for it.
func makeDirectory(fsys vfs.FS, dir string) error {
	parents := []string{fsys.PathDir(dir)}
	for at := parents[0]; ; {
		if _, err := fsys.Stat(at); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		up := fsys.PathDir(at)
		if up == at {
			break
		}
		parents, at = append(parents, up), up
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating %s: %w", dir, err)
	}
	for _, parent := range parents {
		if err := syncDirectory(fsys, parent); err != nil {
			return fmt.Errorf("syncing %s: %w", parent, err)
		}
	}
	return nil
}

func syncDirectory(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockDirectory makes sure that no other process works in dir.
func lockDirectory(fsys vfs.FS, dir string) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, fsys)
	if err == nil {
		return lock, nil
	}
	// The lock file could not even be opened: that is not another's lock.
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return nil, fmt.Errorf("%w: %s (%w)", ErrInUse, dir, err)
}
