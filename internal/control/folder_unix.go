//go:build unix

package control

import (
	"fmt"
	"os"
	"syscall"
)

// maxService is the highest user id that systems give to service accounts.
const maxService = 999

func mkdirPrivate(folder string) error { return os.Mkdir(folder, privateFolder) }

// checkFolder refuses a folder in which anyone but its owner could read or
// exchange files. Root may use that of a service account.
func checkFolder(folder string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: %w", folder, syscall.ENOTDIR)
	}
	if mode := info.Mode().Perm(); mode&^privateFolder != 0 {
		return fmt.Errorf("%s: %w (mode is %04o)", folder, ErrWideFolder, mode)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	service := ok && uid == 0 && stat.Uid <= maxService
	if !ok || int(stat.Uid) != uid && stat.Uid != 0 && !service {
		return fmt.Errorf("%s: %w (it belongs to another user)", folder, ErrWideFolder)
	}
	return nil
}
