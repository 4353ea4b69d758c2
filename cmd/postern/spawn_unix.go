//go:build unix

package main

import "syscall"

// detached has a process survive the end of the terminal, and Ctrl-C in it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
