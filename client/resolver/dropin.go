package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

// ErrNoResolver is a system whose resolver cannot be told of one domain.
var ErrNoResolver = errors.New("this system's resolver cannot be told")

// DropIn is a file that has a system's resolver ask our server for one domain.
type DropIn struct {
	Path  string
	Text  string
	Begin [][]string // the commands that make it count, once it is there; none: it does at once
	End   [][]string // the commands that take it back, while it is there
}

// For returns the drop-in for this system: a unit that tells systemd-resolved, or
// macOS's file (resolver(5)); [ErrNoResolver] elsewhere. root is in front of its path; "/".
func For(root, domain string, server netip.AddrPort) (DropIn, error) {
	switch runtime.GOOS {
	case "linux":
		return DropIn{
			Path:  filepath.Join(root, "etc/systemd/system", unit),
			Text:  note + unitText(domain, server),
			Begin: [][]string{{"systemctl", "enable", unit}, {"systemctl", "restart", unit}},
			End:   [][]string{{"systemctl", "disable", "--now", unit}},
		}, nil
	case "darwin":
		return DropIn{
			Path: filepath.Join(root, "etc/resolver", domain),
			Text: note + fmt.Sprintf("nameserver %s\nport %d\n", server.Addr(), server.Port()),
		}, nil
	}
	return DropIn{}, ErrNoResolver
}

const note = "# Written by postern up --install-resolver.\n"

// Usable says in an [ErrNoResolver] why a drop-in would be without effect.
func Usable(root string) error {
	if runtime.GOOS == "linux" {
		return resolvedAnswers(root)
	}
	return nil
}

// Install writes the drop-in. It reports whether anything changed.
func (d DropIn) Install() (changed bool, err error) {
	if d.Installed() {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(d.Path), 0o755); err != nil {
		return false, fmt.Errorf("make the resolver's folder: %w", err)
	}
	return true, atomicfile.Write(d.Path, []byte(d.Text), 0o644)
}

// Installed reports whether the drop-in is there.
func (d DropIn) Installed() bool {
	old, err := os.ReadFile(d.Path)
	return err == nil && string(old) == d.Text
}

// There reports whether it is, or another one in its place.
func (d DropIn) There() bool {
	_, err := os.Lstat(d.Path)
	return err == nil
}

// Uninstall removes it. It reports whether it was there.
func (d DropIn) Uninstall() (changed bool, err error) {
	err = os.Remove(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove the resolver's drop-in: %w", err)
	}
	return true, nil
}
