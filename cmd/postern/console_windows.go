package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// leaveConsole closes the window that Windows opened for this process alone.
func leaveConsole() {
	_, _, _ = windows.NewLazySystemDLL("kernel32.dll").NewProc("FreeConsole").Call()
}

// takesEscapes reports whether a console understands escape sequences, and has it do so:
// those of old systems never do, those of Windows 10 when they are asked.
func takesEscapes(f *os.File) bool {
	console := windows.Handle(f.Fd())
	var mode uint32
	if windows.GetConsoleMode(console, &mode) != nil {
		return false
	}
	const escapes = windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING
	return mode&escapes != 0 || windows.SetConsoleMode(console, mode|escapes) == nil
}
