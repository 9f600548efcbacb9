//go:build linux || darwin

package replication

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

func clock(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		// Both kernels have had these clocks for ten years and more. Going on with
		// another clock would give wrong answers, quietly.
		panic(fmt.Sprintf("clock %d cannot be read: %v", id, err))
	}
	return time.Duration(t.Nano())
}
