package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

// Errors of installing.
var (
	ErrNoManager    = errors.New("this system has no service manager that is known here")
	ErrNotInstalled = errors.New("the service is not installed")
)

// file is a service that a file defines, and whose manager is told by commands.
type file struct {
	path      string
	text      string
	installed [][]string // commands that make a new file count, and start
	removing  [][]string // before the file goes
	removed   [][]string // after that
	start     []string
	stop      []string
	status    []string
}

func (f file) exists() error {
	if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
		return ErrNotInstalled
	} else if err != nil {
		return fmt.Errorf("look for the service: %w", err)
	}
	return nil
}

// install writes the file and, with start, has the manager run it.
func (f file) install(ctx context.Context, start bool) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return fmt.Errorf("make the service's folder: %w", err)
	}
	if err := atomicfile.Write(f.path, []byte(f.text), 0o644); err != nil {
		return err
	}
	if !start {
		return nil
	}
	return runAll(ctx, f.installed)
}

// uninstall stops the service and removes its file. A manager that does not run it is
// no hindrance.
func (f file) uninstall(ctx context.Context) error {
	if err := f.exists(); err != nil {
		return err
	}
	_ = runAll(ctx, f.removing)
	if err := os.Remove(f.path); err != nil {
		return fmt.Errorf("remove the service: %w", err)
	}
	_ = runAll(ctx, f.removed)
	return nil
}

// order gives the manager one of the orders.
func (f file) order(ctx context.Context, command []string) error {
	if err := f.exists(); err != nil {
		return err
	}
	return run(ctx, command)
}

func runAll(ctx context.Context, commands [][]string) error {
	for _, c := range commands {
		if err := run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, command []string) error {
	_, err := output(ctx, command)
	return err
}

// output runs a command and returns what it printed. Its error has what it said.
func output(ctx context.Context, command []string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, text)
	}
	return text, nil
}
