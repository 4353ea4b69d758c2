//go:build !unix

package sshconfig

import "io/fs"

// keepOwner has nothing to do: a new file is the user's.
func keepOwner(string, fs.FileInfo) {}
