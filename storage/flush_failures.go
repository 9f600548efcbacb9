package storage

import (
	"fmt"
	"sync/atomic"
)

// maxFlushFailures is how many flushes may fail in a row before a database
// counts as broken. Pebble tries again at once, for ever, and leaves a
// goroutine behind each time; a passing error, as of a disk that was full for a
// moment, is over sooner.
const maxFlushFailures = 10

// flushFailures counts flushes that fail in a row.
type flushFailures struct{ run atomic.Int32 }

// ended notes the end of a flush. It returns an error once there were too many.
func (f *flushFailures) ended(err error) error {
	if err == nil {
		f.run.Store(0)
		return nil
	}
	if n := f.run.Add(1); n >= maxFlushFailures {
		return fmt.Errorf("%d flushes in a row failed: %w", n, err)
	}
	return nil
}
