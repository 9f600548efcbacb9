package replication

import (
	"fmt"
	"runtime"

	"github.com/hashicorp/raft"
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
