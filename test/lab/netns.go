package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// runDir is where iproute2 and netns keep named namespaces.
const runDir = "/run/netns"

// in runs f on a thread inside the namespace called name, and brings the
// thread back. What f starts as a process stays inside.
func (l *Lab) in(name string, f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the current network namespace: %w", err)
	}
	defer home.Close()
	there, err := netns.GetFromName(l.namespace(name))
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open namespace %s: %w", name, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	err = f()
	if back := netns.Set(home); back != nil {
		// The thread stays locked: the runtime ends it with this goroutine
		// rather than let other code run in the wrong namespace.
		return errors.Join(err, fmt.Errorf("leave namespace %s: %w", name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// namespace returns the full name of one of the lab's namespaces.
func (l *Lab) namespace(name string) string { return l.Prefix + "-" + name }

// addNamespace makes an empty, named namespace without entering it for good.
func (l *Lab) addNamespace(name string) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the current network namespace: %w", err)
	}
	defer home.Close()
	made, err := netns.NewNamed(l.namespace(name)) // also enters it
	if err == nil {
		made.Close()
	}
	if back := netns.Set(home); back != nil {
		return fmt.Errorf("leave namespace %s: %w", name, back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		return fmt.Errorf("make namespace %s: %w (is this root?)", name, err)
	}
	return nil
}

// shareNames makes the folder of names a mount of its own, as `ip netns add` does where
// it is not one yet. Were that to happen later, it would cover the names of a standing
// lab for ever.
func shareNames() error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // it is a mount, or nothing will do
		return err
	}
	return errors.Join(unix.Mount(runDir, runDir, "none", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, ""))
}

// deleteNamespace removes a named namespace, also when nothing but its name is left:
// a restart of the machine may leave names.
func deleteNamespace(name string) error {
	path := filepath.Join(runDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is not mounted
		return err
	}
	return os.Remove(path)
}

// namespaces lists the full names of the standing namespaces of this prefix.
func (l *Lab) namespaces() ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), l.Prefix+"-") {
			names = append(names, filepath.Base(e.Name()))
		}
	}
	return names, nil
}
