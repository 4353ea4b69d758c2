//go:build !unix

package control

import "os"

// checkFolder has no modes to look at: Windows closes a user's profile folder to
// others by its access list.
func checkFolder(folder string) error {
	_, err := os.Stat(folder)
	return err
}
