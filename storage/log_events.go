package storage

import "time"

// LogEvent is one of the Log... event types below. The listener is called from
// within the database: it returns at once and does no I/O.
type LogEvent interface{ logEvent() }

// LogDiskSlow tells of a disk operation that is taking longer than
// [LogOptions].DiskSlowAfter; it is told while the operation still hangs.
type LogDiskSlow struct {
	Path, Op string
	Duration time.Duration
}

// LogWriteStall tells that all writes wait because flushes or compactions can
// not keep up, and (Ended) that they go on.
type LogWriteStall struct {
	Ended  bool
	Reason string // empty at the end
}

// LogDiskFull tells that a write met a full disk. It is tried once more; if
// that fails too, [LogFailed] follows.
type LogDiskFull struct{}

// LogLowDiskSpace tells that less than PercentFree of the disk is free.
type LogLowDiskSpace struct {
	AvailableBytes, TotalBytes uint64
	PercentFree                int
}

// LogBackgroundError tells of a flush or compaction that failed and will be
// tried again, or of corruption found.
type LogBackgroundError struct{ Err error }

// LogFailed tells, once, that the database can take no more writes: from then
// on each call returns an error that wraps [ErrLogFailed].
type LogFailed struct{ Err error }

func (LogDiskSlow) logEvent()        {}
func (LogWriteStall) logEvent()      {}
func (LogDiskFull) logEvent()        {}
func (LogLowDiskSpace) logEvent()    {}
func (LogBackgroundError) logEvent() {}
func (LogFailed) logEvent()          {}
