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

// ErrNoResolver is a system whose resolver takes no drop-in that we know of.
var ErrNoResolver = errors.New("this system's resolver takes no drop-in")

// DropIn is a file that has a system's resolver ask our server for one domain.
type DropIn struct {
	Path    string
	Text    string
	Restart []string // the command that makes it count; nil: it does at once
}

// For returns the drop-in for this system: systemd-resolved's (resolved.conf(5)), or
// macOS's (resolver(5)); [ErrNoResolver] elsewhere. root is in front of its path; "/".
func For(root, domain string, server netip.AddrPort) (DropIn, error) {
	const note = "# Written by postern up --install-resolver.\n"
	switch runtime.GOOS {
	case "linux":
		if _, err := os.Stat(filepath.Join(root, "etc/systemd")); err != nil {
			return DropIn{}, fmt.Errorf("%w: there is no systemd", ErrNoResolver)
		}
		return DropIn{
			Path:    filepath.Join(root, "etc/systemd/resolved.conf.d/postern.conf"),
			Text:    note + fmt.Sprintf("[Resolve]\nDNS=%s\nDomains=~%s\n", server, domain),
			Restart: []string{"systemctl", "try-reload-or-restart", "systemd-resolved.service"},
		}, nil
	case "darwin":
		return DropIn{
			Path: filepath.Join(root, "etc/resolver", domain),
			Text: note + fmt.Sprintf("nameserver %s\nport %d\n", server.Addr(), server.Port()),
		}, nil
	}
	return DropIn{}, ErrNoResolver
}

// Install writes the drop-in. It reports whether anything changed.
func (d DropIn) Install() (changed bool, err error) {
	if old, err := os.ReadFile(d.Path); err == nil && string(old) == d.Text {
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
