package sshconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

// fileName is Postern's own file, beside the person's configuration.
const fileName = "postern.conf"

// maxConfig bounds a configuration that is edited, in bytes.
const maxConfig = 4 << 20

// ErrTooLarge is a configuration that cannot be one.
var ErrTooLarge = errors.New("the file is too large for a configuration of ssh's")

// Files are the two files.
type Files struct {
	Config  string // the person's
	Postern string // ours
}

// At returns the files for the configuration at path.
func At(path string) Files { return Files{path, filepath.Join(filepath.Dir(path), fileName)} }

// Default returns the files in the home folder's .ssh.
func Default() (Files, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return Files{}, fmt.Errorf("find ssh's configuration: %w", err)
	}
	return At(filepath.Join(home, ".ssh", "config")), nil
}

// include is how the configuration names our file: in ~/.ssh, ssh looks there by
// itself.
func (f Files) include() string {
	if d, err := Default(); err == nil && d == f {
		return fileName
	}
	if path, err := filepath.Abs(f.Postern); err == nil {
		return path
	}
	return f.Postern
}

// Read returns the person's configuration, nothing when there is none.
func (f Files) Read() ([]byte, error) {
	info, err := os.Stat(f.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxConfig {
		err = ErrTooLarge
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(f.Config)
	}
	if err != nil {
		return nil, fmt.Errorf("read ssh's configuration %s: %w", f.Config, err)
	}
	return b, nil
}

// Settle returns c with those services left to the person whose names are theirs.
func (f Files) Settle(ctx context.Context, c Config) (Config, error) {
	config, err := f.Read()
	if err == nil {
		c.Left = f.taken(ctx, config, c.Services)
	}
	return c, err
}

// Install writes our file and has the configuration include it. Both are whole at
// every moment. It reports whether the configuration was changed.
func (f Files) Install(c Config) (changed bool, err error) {
	config, err := f.Read()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(f.Config), 0o700); err != nil {
		return false, fmt.Errorf("make ssh's folder: %w", err)
	}
	if err := atomicfile.Write(f.Postern, []byte(c.String()), 0o600); err != nil {
		return false, err
	}
	return f.replace(config, Include(config, f.include()))
}

// Bound returns the folder of the identity that our file is for, "" for the one in use.
// There is none without our file.
func (f Files) Bound() (identity string, installed bool) {
	b, err := os.ReadFile(f.Postern)
	if err != nil {
		return "", false
	}
	identity, installed = lineOf(string(b), identityLine)
	if identity == inUse {
		identity = ""
	}
	return identity, installed
}

// Refresh writes our file anew if it is there and has other services. Its command and
// identity stay. It reports whether it did.
func (f Files) Refresh(ctx context.Context, c Config) (changed bool, err error) {
	b, err := os.ReadFile(f.Postern)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", f.Postern, err)
	}
	old := string(b)
	if names, found := lineOf(old, servicesLine); !found || names == c.names() {
		return false, nil
	}
	_, host := c.any()
	_, last, found := cutLast(old, proxyLine)
	command, ours := strings.CutSuffix(last, " "+host+"\n")
	if !found || !ours {
		return false, nil // somebody has changed it by hand
	}
	c.Command, c.Identity = command, ""
	if identity, _ := lineOf(old, identityLine); identity != inUse {
		c.Identity = identity
	}
	if c, err = f.Settle(ctx, c); err != nil {
		return false, err
	}
	return true, atomicfile.Write(f.Postern, []byte(c.String()), 0o600)
}

// lineOf returns the rest of the line of text that begins so.
func lineOf(text, begin string) (rest string, found bool) {
	for line := range strings.Lines(text) {
		if rest, found = strings.CutPrefix(line, begin); found {
			return strings.TrimRight(rest, "\r\n"), true
		}
	}
	return "", false
}

func cutLast(s, separator string) (before, after string, found bool) {
	if at := strings.LastIndex(s, separator); at >= 0 {
		return s[:at], s[at+len(separator):], true
	}
	return s, "", false
}

// Uninstall takes the line and our file away. It reports whether there was either.
func (f Files) Uninstall() (changed bool, err error) {
	config, err := f.Read()
	if err != nil {
		return false, err
	}
	if changed, err = f.replace(config, Exclude(config, f.include())); err != nil {
		return changed, err
	}
	err = os.Remove(f.Postern)
	if errors.Is(err, fs.ErrNotExist) {
		return changed, nil
	}
	if err != nil {
		return changed, fmt.Errorf("remove %s: %w", f.Postern, err)
	}
	return true, nil
}

// replace writes the configuration if it differs: behind a symbolic link where that
// leads, with its permissions and its owner.
func (f Files) replace(old, config []byte) (changed bool, err error) {
	if bytes.Equal(old, config) {
		return false, nil
	}
	path, perm := f.Config, fs.FileMode(0o600)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	if err == nil {
		perm = info.Mode().Perm()
	}
	if len(config) == 0 && err == nil && len(Include(nil, f.include())) == len(old) && path == f.Config {
		// There was none before ours.
		if err := os.Remove(path); err != nil {
			return false, fmt.Errorf("remove %s: %w", path, err)
		}
		return true, nil
	}
	if err := atomicfile.Write(path, config, perm); err != nil {
		return false, err
	}
	if info != nil {
		keepOwner(path, info)
	}
	return true, nil
}
