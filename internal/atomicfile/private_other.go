//go:build !unix

package atomicfile

import (
	"io/fs"
	"os"
)

func openPrivate(path string) (*os.File, error) { return os.Open(path) }

// checkPrivate has nothing to look at: Windows has access lists in place of
// modes, and a user's profile folder is closed to others by them.
func checkPrivate(string, fs.FileInfo) error { return nil }

// give has nothing to do: a new file has its folder's access list.
func give(*os.File, string) error { return nil }

// syncDir is not needed: NTFS journals the rename.
func syncDir(string) error { return nil }
