//go:build !linux && !darwin && !windows

package service

import "context"

// Text fails: [ErrNoManager], as all others do here.
func Text(Definition) (path, text string, err error) { return "", "", ErrNoManager }

// Install fails.
func Install(context.Context, Definition, bool) error { return ErrNoManager }

// Uninstall fails.
func Uninstall(context.Context) error { return ErrNoManager }

// Start fails.
func Start(context.Context) error { return ErrNoManager }

// Stop fails.
func Stop(context.Context) error { return ErrNoManager }

// Status fails.
func Status(context.Context) (string, error) { return "", ErrNoManager }
