package main

import "golang.org/x/sys/windows"

// leaveConsole closes the window that Windows opened for this process alone.
func leaveConsole() {
	_, _, _ = windows.NewLazySystemDLL("kernel32.dll").NewProc("FreeConsole").Call()
}
