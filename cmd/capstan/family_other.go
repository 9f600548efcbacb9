//go:build !unix

package main

import "syscall"

// childAttributes are nothing special here.
func childAttributes() *syscall.SysProcAttr { return nil }
