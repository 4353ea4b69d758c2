package api

import (
	"net"
	"os"
	"path/filepath"
	"sync"
)

// listenPrivate makes a unix socket of mode 0600. It is made under another name
// and moved, so that at no moment it is there with wider rights.
func listenPrivate(path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".admin-") // mode 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	hidden := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(hidden, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	if err := os.Rename(hidden, path); err != nil {
		l.Close()
		return nil, err
	}
	return &unlinking{Listener: l, path: path}, nil
}

// unlinking removes the socket's name when it is closed, once: a later daemon's
// may be there by then.
type unlinking struct {
	net.Listener
	path string
	once sync.Once
	err  error
}

func (u *unlinking) Close() error {
	u.once.Do(func() {
		_ = os.Remove(u.path) // a socket without a listener answers nobody anyway
		u.err = u.Listener.Close()
	})
	return u.err
}
