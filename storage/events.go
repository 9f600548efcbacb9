package storage

import (
	"bytes"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Event is something a database tells its owner: one of the Event types of
// this package. Database is "state" or "log".
type Event interface{ event() }

// Listener receives events. It is called from many goroutines, some of which
// hold up the database meanwhile: it must return fast, do no disk I/O, and not
// call back into the database.
type Listener func(Event)

type (
	// EventDiskSlow reports a disk operation that is still under way after Took.
	EventDiskSlow struct {
		Database, Path, Op string
		Took               time.Duration
	}
	// EventDiskLow reports free disk space below a threshold.
	EventDiskLow struct {
		Database                   string
		AvailableBytes, TotalBytes uint64
		BelowPercent               int
	}
	// EventDiskFull reports a write that failed for want of space. It is
	// tried once more after the listener has returned.
	EventDiskFull struct{ Database string }
	// EventBackgroundError reports a failed flush or compaction; it is retried.
	EventBackgroundError struct {
		Database string
		Err      error
	}
	// EventCorruption reports a file whose content is not what was written. All
	// keys in the file are from Start to End, both inclusive.
	EventCorruption struct {
		Database, Path string
		Start, End     []byte
		Err            error
	}
	// EventReplicaDamaged reports the first time that a read of a replica's state
	// met damage: Err is an ErrStateDamaged.
	EventReplicaDamaged struct {
		Replica Replica
		Err     error
	}
	// EventFatal is the last event of a database: it can not go on.
	EventFatal struct {
		Database string
		Err      error
	}
	// EventWriteStallBegin reports that writes wait for flushes or compactions.
	EventWriteStallBegin struct{ Database, Reason string }
	// EventWriteStallEnd reports that they no longer do.
	EventWriteStallEnd struct{ Database string }
	// EventFlushBegin reports the start of a flush of memtables to disk.
	EventFlushBegin struct {
		Database string
		Job      int
		Bytes    uint64
	}
	// EventFlushEnd reports its end.
	EventFlushEnd struct {
		Database string
		Job      int
		Bytes    uint64
		Took     time.Duration
		Err      error
	}
	// EventCompactionBegin reports the start of a compaction.
	EventCompactionBegin struct {
		Database, Reason string
		Job              int
	}
	// EventCompactionEnd reports its end.
	EventCompactionEnd struct {
		Database, Reason string
		Job              int
		Took             time.Duration
		Err              error
	}
)

func (EventDiskSlow) event()        {}
func (EventDiskLow) event()         {}
func (EventDiskFull) event()        {}
func (EventBackgroundError) event() {}
func (EventCorruption) event()      {}
func (EventReplicaDamaged) event()  {}
func (EventFatal) event()           {}
func (EventWriteStallBegin) event() {}
func (EventWriteStallEnd) event()   {}
func (EventFlushBegin) event()      {}
func (EventFlushEnd) event()        {}
func (EventCompactionBegin) event() {}
func (EventCompactionEnd) event()   {}

// pebbleListener turns Pebble's events into ours.
func pebbleListener(database string, tell Listener) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { tell(EventBackgroundError{Database: database, Err: err}) },
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			tell(EventCorruption{
				Database: database, Path: i.Path, Start: bytes.Clone(i.Bounds.Start), End: bytes.Clone(i.Bounds.End.Key), Err: i.Details,
			})
		},
		DiskSlow: func(i pebble.DiskSlowInfo) {
			tell(EventDiskSlow{Database: database, Path: i.Path, Op: i.OpType.String(), Took: i.Duration})
		},
		LowDiskSpace: func(i pebble.LowDiskSpaceInfo) {
			tell(EventDiskLow{Database: database, AvailableBytes: i.AvailBytes, TotalBytes: i.TotalBytes, BelowPercent: i.PercentThreshold})
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			tell(EventWriteStallBegin{Database: database, Reason: i.Reason})
		},
		WriteStallEnd: func() { tell(EventWriteStallEnd{Database: database}) },
		FlushBegin: func(i pebble.FlushInfo) {
			tell(EventFlushBegin{Database: database, Job: i.JobID, Bytes: i.InputBytes})
		},
		FlushEnd: func(i pebble.FlushInfo) {
			tell(EventFlushEnd{Database: database, Job: i.JobID, Bytes: i.InputBytes, Took: i.TotalDuration, Err: i.Err})
		},
		CompactionBegin: func(i pebble.CompactionInfo) {
			tell(EventCompactionBegin{Database: database, Job: i.JobID, Reason: i.Reason})
		},
		CompactionEnd: func(i pebble.CompactionInfo) {
			tell(EventCompactionEnd{Database: database, Job: i.JobID, Reason: i.Reason, Took: i.TotalDuration, Err: i.Err})
		},
	}
}

// pebbleLogger silences Pebble's own log. Pebble calls Fatalf where it can not
// go on and expects the process to end there: we tell the listener, then panic
// with a [*fatalError], which a guarded call turns into an error.
type pebbleLogger struct {
	database string
	tell     Listener
}

func (pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.tell(EventBackgroundError{Database: l.database, Err: fmt.Errorf(format, args...)})
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	l.tell(EventFatal{Database: l.database, Err: err})
	panic(&fatalError{err})
}

// fatalError is what Pebble's Fatalf panics with.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }
