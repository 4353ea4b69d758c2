package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Spec says what runs in the background.
type Spec struct {
	Program string   // its absolute path
	Args    []string // without the program's name
	Log     string   // the file that output is appended to; systemd has its journal and ignores it
}

// State is what the system's manager says of the service.
type State struct {
	Installed bool   `json:"installed"`
	Running   bool   `json:"running"`
	Manager   string `json:"manager"` // systemd, launchd or task scheduler
	Name      string `json:"name"`    // what the manager calls it
	File      string `json:"file"`    // what Install writes
}

// A Service is the one background service of a user. Its methods start the manager's
// own programs, and may be called again: installing what is installed replaces and
// restarts it, starting what runs and stopping what does not are no errors. Start,
// Stop and Uninstall are [ErrNotInstalled] where nothing is.
type Service struct{ manager }

// manager is what differs between systems.
type manager interface {
	state() State // without Running; Installed is whether the file is there
	text(Spec) (string, error)
	encode(text string) []byte
	load(context.Context) error   // after the file was written: enabled, and started anew
	unload(context.Context) error // before the file is removed: stopped and disabled
	forget(context.Context) error // after that
	start(context.Context) error
	stop(context.Context) error
	running(context.Context) (bool, error)
}

// ForUser returns the service of the user whose process this is. It is
// [ErrNoManager] on a system without a manager that this package knows.
func ForUser() (*Service, error) {
	who, err := user.Current() // on Windows its id is the security identifier
	if err != nil {
		return nil, fmt.Errorf("find the user: %w", err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("find the home folder: %w", err)
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("find the configuration folder: %w", err)
	}
	return newService(runtime.GOOS, home, config, who.Uid)
}

func newService(goos, home, config, user string) (*Service, error) {
	switch goos {
	case "linux":
		return &Service{systemd{filepath.Join(config, "systemd", "user", unitName)}}, nil
	case "darwin":
		return &Service{launchd{user, filepath.Join(home, "Library", "LaunchAgents", label+".plist")}}, nil
	case "windows":
		return &Service{taskScheduler{user, filepath.Join(config, "postern", "service.xml")}}, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNoManager, goos)
}

// Text returns the file that Install writes for spec, as UTF-8.
func (s *Service) Text(spec Spec) (string, error) {
	if !filepath.IsAbs(spec.Program) {
		return "", fmt.Errorf("%w: %s", ErrRelative, spec.Program)
	}
	for _, text := range append([]string{spec.Program, spec.Log}, spec.Args...) {
		if err := printable(text); err != nil {
			return "", err
		}
	}
	return s.text(spec)
}

// printable refuses what no format can quote for certain. The text may be of use to
// whoever reads the error, so it is quoted.
func printable(text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return fmt.Errorf("%q %w", text, ErrText)
	}
	return nil
}

// Install writes the service's file, has the manager start it at each login, and
// starts it now. When that fails nothing is installed.
func (s *Service) Install(ctx context.Context, spec Spec) error {
	text, err := s.Text(spec)
	if err != nil {
		return fmt.Errorf("install the service: %w", err)
	}
	file := s.state().File
	if err := write(file, s.encode(text)); err != nil {
		return fmt.Errorf("install the service: %w", err)
	}
	if err := s.load(ctx); err != nil {
		undo := context.WithoutCancel(ctx) // an interrupted one is undone too
		_ = s.unload(undo)
		os.Remove(file)
		_ = s.forget(undo)
		return fmt.Errorf("install the service: %w", err)
	}
	return nil
}

// Uninstall stops the service and removes it.
func (s *Service) Uninstall(ctx context.Context) error {
	if err := s.needed(); err != nil {
		return err
	}
	if err := s.unload(ctx); err != nil {
		return fmt.Errorf("uninstall the service: %w", err)
	}
	if err := os.Remove(s.state().File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("uninstall the service: %w", err)
	}
	if err := s.forget(ctx); err != nil {
		return fmt.Errorf("uninstall the service: %w", err)
	}
	return nil
}

// Start starts the service.
func (s *Service) Start(ctx context.Context) error {
	if err := s.needed(); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("start the service: %w", err)
	}
	return nil
}

// Stop stops the service until it is started, or the user logs in anew.
func (s *Service) Stop(ctx context.Context) error {
	if err := s.needed(); err != nil {
		return err
	}
	if err := s.stop(ctx); err != nil {
		return fmt.Errorf("stop the service: %w", err)
	}
	return nil
}

// Status asks the manager.
func (s *Service) Status(ctx context.Context) (State, error) {
	state := s.state()
	if !state.Installed {
		return state, nil
	}
	running, err := s.running(ctx)
	if err != nil {
		return state, fmt.Errorf("ask for the service: %w", err)
	}
	state.Running = running
	return state, nil
}

func (s *Service) needed() error {
	if !s.state().Installed {
		return ErrNotInstalled
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}
