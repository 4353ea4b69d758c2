//go:build linux || darwin

package service

import "context"

// Text returns what defines the service on this system, and where it goes.
func Text(d Definition) (path, text string, err error) {
	f, err := define(d)
	return f.path, f.text, err
}

// Install defines the service for this user and, with start, runs it now and at each
// login.
func Install(ctx context.Context, d Definition, start bool) error {
	f, err := define(d)
	if err != nil {
		return err
	}
	return f.install(ctx, start)
}

// Uninstall stops it and takes it away: [ErrNotInstalled] when there is none.
func Uninstall(ctx context.Context) error {
	f, err := define(Definition{Program: "/"})
	if err != nil {
		return err
	}
	return f.uninstall(ctx)
}

// Start starts it.
func Start(ctx context.Context) error {
	f, err := define(Definition{Program: "/"})
	if err != nil {
		return err
	}
	return f.order(ctx, f.start)
}

// Stop stops it until the next login.
func Stop(ctx context.Context) error {
	f, err := define(Definition{Program: "/"})
	if err != nil {
		return err
	}
	return f.order(ctx, f.stop)
}

// Status returns what the manager says of it.
func Status(ctx context.Context) (string, error) {
	f, err := define(Definition{Program: "/"})
	if err == nil {
		err = f.exists()
	}
	if err != nil {
		return "", err
	}
	return output(ctx, f.status)
}
