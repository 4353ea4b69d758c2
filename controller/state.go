package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-sdp/postern/controller/authority"
	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/spa/key"
)

// Files of the state folder, besides the authority's.
const (
	selfFile    = "controller.json" // private key, id and name; written last by Init
	storeFile   = "state.db"
	journalFile = "knocks.journal"
	selfVersion = 1
)

// self is who this controller is. It never changes.
type self struct {
	name    string
	id      key.ID
	private key.ControllerPrivate
}

// selfText is the form on disk, in a file of mode 0600.
type selfText struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	ID      key.ID `json:"id"`
	Private string `json:"private_key"`
}

// Initiated tells what [Init] made.
type Initiated struct {
	Name      string               `json:"name"`
	ID        key.ID               `json:"id"`
	PublicKey key.ControllerPublic `json:"public_key"`
	State     string               `json:"state"`
}

// Init makes the state folder with a new controller called name: its key and its
// authority. It refuses to touch one that is there ([ErrExists]), and leaves
// nothing behind when it fails.
func Init(dir, name string) (made Initiated, err error) {
	if err := checkName(name); err != nil {
		return Initiated{}, fmt.Errorf("name: %w", err)
	}
	if err := mustBeNew(dir); err != nil {
		return Initiated{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Initiated{}, fmt.Errorf("make state folder: %w", err)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		return Initiated{}, fmt.Errorf("read state folder: %w", err)
	}
	if len(before) > 0 {
		return Initiated{}, fmt.Errorf("%w: %s is not empty", ErrExists, dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, empty(dir))
		}
	}()
	if _, err := authority.Create(dir, name, time.Now()); err != nil {
		return Initiated{}, err
	}
	me := self{name: name, id: key.NewID(), private: key.NewControllerPrivate()}
	if err := me.save(dir); err != nil {
		return Initiated{}, err
	}
	return Initiated{Name: name, ID: me.id, PublicKey: me.private.Public(), State: dir}, nil
}

func mustBeNew(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, selfFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: in %s", ErrExists, dir), err)
}

// empty removes what is in dir; it was empty before.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func (s self) save(dir string) error {
	b, err := json.MarshalIndent(selfText{selfVersion, s.name, s.id, s.private.Reveal()}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the controller's key: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, selfFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the controller's key: %w", err)
	}
	return nil
}

// loadSelf reads who this controller is. Its errors quote nothing of the file.
func loadSelf(dir string) (self, error) {
	path := filepath.Join(dir, selfFile)
	b, err := atomicfile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return self{}, fmt.Errorf("%w (there is no %s)", ErrNotInitiated, path)
	}
	if err != nil {
		return self{}, fmt.Errorf("read the controller's key: %w", err)
	}
	var text selfText
	if json.Unmarshal(b, &text) != nil {
		return self{}, fmt.Errorf("%s: %w", path, errDamaged)
	}
	if text.Version > selfVersion {
		return self{}, fmt.Errorf("%s: %w", path, errNewer)
	}
	private, err := key.ParseControllerPrivate(text.Private)
	if err != nil || text.Version != selfVersion || text.ID.IsZero() || checkName(text.Name) != nil {
		return self{}, fmt.Errorf("%s: %w", path, errDamaged)
	}
	return self{name: text.Name, id: text.ID, private: private}, nil
}
