package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
)

// Default is the name of the profile that is there without anybody naming one.
const Default = "default"

const (
	profilesFolder = "profiles"
	currentFile    = "profile"
	maxName        = 63 // bytes

	privateFile = fs.FileMode(0o600)
)

// Errors that callers may ask for with errors.Is.
var (
	ErrName = errors.New("a profile's name is 1 to 63 lower-case letters, digits, '-' and '.', " +
		"and begins with a letter or digit")
	ErrNone    = errors.New("no such profile")
	ErrExists  = errors.New("there is a profile of that name already")
	ErrDefault = errors.New("the default profile cannot be renamed, nor another one take its name")
)

// Store is the profiles in one configuration folder. The processes that use one may
// be many; a change is one step for all of them.
type Store struct{ folder string }

// In returns the profiles in a configuration folder, see client.DefaultFolder. The
// folder need not be there.
func In(folder string) Store { return Store{folder} }

// CheckName returns [ErrName] for what cannot be a profile's name.
func CheckName(name string) error {
	odd := strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
	if odd || name == "" || len(name) > maxName || strings.ContainsRune("-.", rune(name[0])) ||
		strings.HasSuffix(name, ".") || !filepath.IsLocal(name) { // Windows has files named con and nul
		return fmt.Errorf("%w, not %q", ErrName, name)
	}
	return nil
}

// Folder returns where the identity of a profile is or will be.
func (s Store) Folder(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if name == Default {
		return s.folder, nil
	}
	return filepath.Join(s.folder, profilesFolder, name), nil
}

// Has reports whether a profile of that name has an identity, damaged or not.
func (s Store) Has(name string) bool {
	folder, err := s.Folder(name)
	return err == nil && control.HasIdentity(folder)
}

// List returns the names of the profiles that have an identity, the default first.
func (s Store) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.folder, profilesFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name := e.Name(); name != Default && s.Has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if s.Has(Default) {
		names = slices.Insert(names, 0, Default)
	}
	return names, nil
}

// Current returns the name of the profile in use: what Use was told last, else the
// default. It may name one that is not there.
func (s Store) Current() (string, error) {
	path := filepath.Join(s.folder, currentFile)
	b, err := atomicfile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Default, nil
	}
	if err != nil {
		return "", fmt.Errorf("read the profile in use: %w", err)
	}
	name := strings.TrimSuffix(string(b), "\n")
	if CheckName(name) != nil { // what it holds is not for a terminal
		return "", fmt.Errorf("read the profile in use: %s: %w", path, ErrName)
	}
	return name, nil
}

// Use makes a profile the one in use. It is [ErrNone] when there is none of that
// name; the default can always be used.
func (s Store) Use(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if name == Default {
		err := os.Remove(filepath.Join(s.folder, currentFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("use profile: %w", err)
		}
		return nil
	}
	if !s.Has(name) {
		return fmt.Errorf("%w: %s", ErrNone, name)
	}
	path := filepath.Join(s.folder, currentFile)
	if err := atomicfile.Write(path, []byte(name+"\n"), privateFile); err != nil {
		return fmt.Errorf("use profile: %w", err)
	}
	return nil
}

// Rename gives a profile another name. The one in use stays in use. It is [ErrNone],
// [ErrExists] or [ErrDefault] when that cannot be.
func (s Store) Rename(from, to string) error {
	old, errOld := s.Folder(from)
	folder, errNew := s.Folder(to)
	if err := errors.Join(errOld, errNew); err != nil {
		return err
	}
	if from == Default || to == Default {
		return ErrDefault
	}
	if !s.Has(from) {
		return fmt.Errorf("%w: %s", ErrNone, from)
	}
	if _, err := os.Lstat(folder); err == nil {
		return fmt.Errorf("%w: %s", ErrExists, to)
	}
	current, err := s.Current()
	if err != nil {
		return err
	}
	if err := os.Rename(old, folder); err != nil {
		return fmt.Errorf("rename profile: %w", err)
	}
	if current == from {
		return s.Use(to)
	}
	return nil
}

// Remove deletes a profile's identity for good; the default is in use then if it was
// the one in use. The controller is told nothing: it knows the device still.
func (s Store) Remove(name string) error {
	folder, err := s.Folder(name)
	if err != nil {
		return err
	}
	// Without an identity it may be what an interrupted removal left.
	if _, err := os.Lstat(folder); !s.Has(name) && (name == Default || err != nil) {
		return fmt.Errorf("%w: %s", ErrNone, name)
	}
	if current, err := s.Current(); err == nil && current == name {
		if err := s.Use(Default); err != nil {
			return err
		}
	}
	if err := control.RemoveIdentity(folder); err != nil {
		return err
	}
	if name == Default { // the others are in there
		return nil
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove profile: %w", err)
	}
	return nil
}
