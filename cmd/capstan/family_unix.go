//go:build unix && !linux

package main

import "syscall"

// childAttributes keep Ctrl-C in the terminal from the children: the pipe tells
// them.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
