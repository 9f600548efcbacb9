package replication

import (
	"time"

	"golang.org/x/sys/unix"
)

// elapsed reads the clock that goes on while the machine is asleep: there
// CLOCK_MONOTONIC does, unlike the clock of package time.
func elapsed() time.Duration { return clock(unix.CLOCK_MONOTONIC) }
