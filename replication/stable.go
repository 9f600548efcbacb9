package replication

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// endingStable ends a replica whose term cannot be written. The library would
// panic, and with it the whole process, in the middle of its stopping and of what it
// says about its disk. A replica that falls silent instead is as safe: it has answered
// nothing in a term that it may forget.
type endingStable struct {
	raft.StableStore
	group *Group
}

// SetUint64 is called for terms on the library's main loop, which ends with it if
// the term cannot be written; the library then stops as it does otherwise. It says
// all else in an error.
func (s endingStable) SetUint64(key []byte, n uint64) error {
	err := s.StableStore.SetUint64(key, n)
	if err == nil || string(key) != "CurrentTerm" || !s.group.ready.Load() {
		return err
	}
	s.group.fail(fmt.Errorf("term %d could not be written: %w", n, err))
	runtime.Goexit()
	return err
}

// endingLog ends a replica whose log cannot be read, or whose state turns out to belong
// to another log. The library would panic at the first, and answer its leader with a
// refusal for good at the second.
type endingLog struct {
	observedLog
	group *Group
}

// GetLog is called on the library's main loop, where no error is survived, and where
// entries are sent from. Both end here; the library stops as it does otherwise.
func (l endingLog) GetLog(index uint64, into *raft.Log) error {
	err := l.observedLog.GetLog(index, into)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || !l.group.ready.Load() {
		return err
	}
	l.group.fail(fmt.Errorf("entry %d cannot be read: %w", index, err))
	runtime.Goexit()
	return err
}

// DeleteRange is refused where the leader's log is not the one that the state was applied
// from.
func (l endingLog) DeleteRange(lowest, highest uint64) error {
	err := l.observedLog.DeleteRange(lowest, highest)
	if errors.Is(err, storage.ErrStateBesideLog) {
		l.group.fail(err)
	}
	return err
}
