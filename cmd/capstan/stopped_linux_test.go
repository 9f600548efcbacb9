package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// awaitStopped returns once a child that was sent SIGSTOP has stopped, with all
// its threads: until then it may still answer.
func awaitStopped(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
