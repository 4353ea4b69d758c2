package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	agentSocket  = "agent.sock"
	lockFile     = "agent.lock"
	socketSuffix = ".sock"
	// longestPath is what socket addresses have room for on every system, in bytes.
	longestPath = 100
)

// Folder returns where the sockets are of those who use the identity in that
// folder, and makes it when it is not there: under $XDG_RUNTIME_DIR, or else under
// the folder for temporary files. Only this user can look into it.
func Folder(identity string) (string, error) {
	identity, err := filepath.Abs(identity)
	if err != nil {
		return "", fmt.Errorf("find the agent's folder: %w", err)
	}
	if real, err := filepath.EvalSymlinks(identity); err == nil {
		identity = real
	}
	digest := sha256.Sum256([]byte(identity))
	base := runtimeFolder()
	folder := filepath.Join(base, hex.EncodeToString(digest[:6]))
	for _, f := range []string{base, folder} {
		if err := os.Mkdir(f, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make the agent's folder: %w", err)
		}
		if err := checkOwn(f); err != nil {
			return "", err
		}
	}
	if len(filepath.Join(folder, "connect-4194304"+socketSuffix)) > longestPath {
		return "", fmt.Errorf("the agent's folder %s: the path is too long for a socket", folder)
	}
	return folder, nil
}

// listen makes a socket in the folder, in the place of one that a dead process left.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the agent's socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for other commands: %w", err)
	}
	return l, nil
}

// Listen opens the agent's socket for the identity in that folder. There is one
// agent at most: [ErrRunning]. Closing the listener makes room for the next.
func Listen(identity string) (net.Listener, error) {
	folder, err := Folder(identity)
	if err != nil {
		return nil, err
	}
	lock, err := lockPath(filepath.Join(folder, lockFile))
	if err != nil {
		return nil, err
	}
	l, err := listen(filepath.Join(folder, agentSocket))
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &locked{UnixListener: l, lock: lock}, nil
}

// locked holds the lock for as long as it listens.
type locked struct {
	*net.UnixListener
	lock *os.File
}

// Close implements [net.Listener].
func (l *locked) Close() error { return errors.Join(l.UnixListener.Close(), l.lock.Close()) }

// Publish opens a socket for a process that holds sessions of its own, so that
// [Processes] finds it. kind is the command's name.
func Publish(identity, kind string) (net.Listener, error) {
	folder, err := Folder(identity)
	if err != nil {
		return nil, err
	}
	name := kind + "-" + strconv.Itoa(os.Getpid()) + socketSuffix
	return listen(filepath.Join(folder, name))
}

// sockets lists those of the agent and of all that published one.
func sockets(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("look for running commands: %w", err)
	}
	var all []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), socketSuffix) {
			all = append(all, filepath.Join(folder, e.Name()))
		}
	}
	return all, nil
}
