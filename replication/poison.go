package replication

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/logcheck"
	"github.com/capstan-kv/capstan/storage"
)

// ErrPoisoned means that the log of one replica holds an entry that cannot be
// applied. The replica cannot be opened, now or later; the node can.
var ErrPoisoned = errors.New("the Raft log of the replica holds an entry that is not valid")

// contentCheck says whether the data of a command entry can be decoded and its
// commands be applied by m, without applying them.
func contentCheck(m Machine) func([]byte) error {
	check := func([]byte) error { return nil }
	if c, ok := m.(CommandChecker); ok {
		check = c.Check
	}
	return func(data []byte) error {
		if len(data) > 0 && data[0] == frameBatch {
			return eachCommand(data[1:], check)
		}
		_, err := decodeFrame(data)
		return err
	}
}

// checkedLog is a log store that gives no entry which the library would not
// survive. Such an entry is found when the library reads its log in NewRaft.
type checkedLog struct {
	raft.LogStore
	poison atomic.Pointer[error] // the last one; the library does not wrap it
}

func (c *checkedLog) GetLog(index uint64, into *raft.Log) error {
	if err := c.LogStore.GetLog(index, into); err != nil {
		return err
	}
	err := logcheck.Entry(into)
	if err != nil {
		c.poison.Store(&err)
	}
	return err
}

// IsMonotonic tells the library whether gaps in the log must be avoided.
func (c *checkedLog) IsMonotonic() bool {
	store, ok := c.LogStore.(raft.MonotonicLogStore)
	return ok && store.IsMonotonic()
}

// open has the library open a replica with the log above this one. The library
// panics at an entry that it cannot read; it has started nothing by then.
func (c *checkedLog) open(start func() (*raft.Raft, error)) (r *raft.Raft, err error) {
	defer func() {
		p := recover()
		cause, unreadable := p.(error)
		if _, bug := p.(runtime.Error); bug {
			unreadable = false
		}
		if poison := c.poison.Load(); poison != nil {
			r, err = nil, fmt.Errorf("%w: %w", ErrPoisoned, *poison)
		} else if unreadable { // an entry between the log's bounds is damaged, or missing
			r, err = nil, fmt.Errorf("%w: %w", storage.ErrLogCorrupt, cause)
		} else if p != nil {
			panic(p)
		}
	}()
	return start()
}
