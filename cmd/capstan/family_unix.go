//go:build unix

package main

import "syscall"

// childAttributes keep Ctrl-C in the terminal from the children: the pipe tells
// them. There is no parent-death signal beside it: Linux may send that more
// than once, and a second signal means to stop at once, in disorder.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
