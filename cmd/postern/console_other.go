//go:build !windows

package main

import "os"

// leaveConsole has nothing to do: no system but Windows opens a window.
func leaveConsole() {}

// takesEscapes reports whether a terminal understands escape sequences.
func takesEscapes(*os.File) bool { return os.Getenv("TERM") != "dumb" }
