package control

import (
	"errors"
	"fmt"
	"os"

	"github.com/postern-sdp/postern/internal/acl"
)

// checkFolder refuses a folder in which anyone but its owner, the system and
// administrators could read or exchange files.
func checkFolder(folder string) error {
	if _, err := os.Stat(folder); err != nil {
		return err
	}
	err := acl.CheckFolder(folder)
	if errors.Is(err, acl.ErrWide) {
		return fmt.Errorf("%s: %w (%w)", folder, ErrWideFolder, err)
	}
	return err
}

func mkdirPrivate(folder string) error { return acl.MakeFolder(folder) }
