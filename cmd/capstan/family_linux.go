package main

import "syscall"

// childAttributes keep Ctrl-C in the terminal from the children: the pipe tells
// them. The death signal is a belt to those braces; it is SIGTERM, so that they
// still stop in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
