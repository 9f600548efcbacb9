package replication

import (
	"time"

	"golang.org/x/sys/unix"
)

// elapsed reads the clock that goes on while the machine is suspended.
func elapsed() time.Duration { return clock(unix.CLOCK_BOOTTIME) }
