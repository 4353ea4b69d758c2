package main

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// detached has a process survive the end of the console, and Ctrl-C in it.
func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		HideWindow: true, CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP,
	}
}
