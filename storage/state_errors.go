package storage

import (
	"errors"
	"fmt"
)

var (
	// ErrInUse means that another process, or another part of this one, has
	// the directory open.
	ErrInUse = errors.New("the data directory is in use by another process")
	// ErrNewerFormat means that a newer release has written the data.
	ErrNewerFormat = errors.New("the data directory has the format of a newer release")
	// ErrNoRoom means that the disk has less room than is needed and kept. Nothing
	// was changed.
	ErrNoRoom = errors.New("too little room on the disk")
	// ErrStateOtherNode means that the state database belongs to another node.
	ErrStateOtherNode = errors.New("the state database belongs to another node")
	// ErrBroken means that the database has failed for good: open it again.
	ErrBroken = errors.New("the database is broken")
	// ErrStateClosed is returned by calls after Close.
	ErrStateClosed = errors.New("the state database is closed")
	// ErrReplicaDestroyed is returned by a handle whose replica was destroyed.
	ErrReplicaDestroyed = errors.New("the replica was destroyed")
	// ErrViewReplaced is returned by a view whose replica was replaced by a
	// staged one, or destroyed, since: what it pinned is no longer all there.
	ErrViewReplaced = errors.New("the view's replica was replaced since")
	// ErrCorrupt means that stored or received bytes are not what any
	// release known to this one writes.
	ErrCorrupt = errors.New("corrupt data")
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
