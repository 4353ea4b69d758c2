//go:build !windows

package main

// leaveConsole has nothing to do: no system but Windows opens a window.
func leaveConsole() {}
