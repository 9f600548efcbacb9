//go:build unix

package main

import "syscall"

// fileLimit is how many files this process may have open; 0 if that is not known.
func fileLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<20))
}

// privateFiles keeps what this process makes from other users.
func privateFiles() { syscall.Umask(0o077) }
