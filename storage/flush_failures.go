package storage

import (
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// maxFlushFailures is how many flushes may fail in a row before a database
// counts as broken. Pebble tries again at once, for ever, and leaves a
// goroutine behind each time; a passing error, as of a disk that was full for a
// moment, is over sooner.
const maxFlushFailures = 10

// flushFailures counts flushes that fail in a row. The zero value is not ready:
// see newFlushFailures.
type flushFailures struct {
	run     atomic.Int32
	tooMany chan error // has room for the first
}

func newFlushFailures() *flushFailures { return &flushFailures{tooMany: make(chan error, 1)} }

// ended notes the end of a flush. It returns an error once there were too many.
func (f *flushFailures) ended(err error) error {
	if err == nil {
		f.run.Store(0)
		return nil
	}
	n := f.run.Add(1)
	if n < maxFlushFailures {
		return nil
	}
	err = fmt.Errorf("%d flushes in a row failed: %w", n, err)
	select {
	case f.tooMany <- err:
	default:
	}
	return err
}

// open opens a database. It does not wait for flushes that fail: Pebble flushes
// what it replays, and would try until there is room on the disk. It is left
// behind then, with the directory locked, until the process ends. A panic of
// Pebble is passed on.
func (f *flushFailures) open(dir string, o *pebble.Options) (*pebble.DB, error) {
	type result struct {
		db       *pebble.DB
		err      error
		panicked any
	}
	opened := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			r.panicked = recover()
			opened <- r
		}()
		r.db, r.err = pebble.Open(dir, o)
	}()
	select {
	case r := <-opened:
		if r.panicked != nil {
			panic(r.panicked)
		}
		return r.db, r.err
	case err := <-f.tooMany:
		return nil, err
	}
}
