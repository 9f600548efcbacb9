//go:build !linux && !darwin

package replication

import "time"

var processStart = time.Now()

// elapsed reads Go's monotonic clock, which on some systems stands still while
// the machine is suspended.
func elapsed() time.Duration { return time.Since(processStart) }
