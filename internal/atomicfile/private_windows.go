package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/postern-sdp/postern/internal/acl"
)

func openPrivate(path string) (*os.File, error) { return os.Open(path) }

// protect gives an access list of its own to what only the owner shall read. Other
// files have their folder's.
func protect(f *os.File, perm fs.FileMode) error {
	if perm&^0o700 != 0 {
		return nil
	}
	return acl.ProtectFile(f.Name())
}

// checkPrivate looks at the access list, which Windows has in place of modes.
func checkPrivate(f *os.File, _ fs.FileInfo) error {
	err := acl.CheckFile(f)
	if errors.Is(err, acl.ErrWide) {
		return fmt.Errorf("%w (%w)", ErrNotPrivate, err)
	}
	return err
}

// give has nothing to do: a new file has its folder's access list.
func give(*os.File, string) error { return nil }

// syncDir is not needed: NTFS journals the rename.
func syncDir(string) error { return nil }
