package service

import "errors"

// Errors of this package.
var (
	ErrNoManager    = errors.New("this system has no service manager that Postern knows")
	ErrNotInstalled = errors.New("the background service is not installed")
	ErrText         = errors.New("cannot be written into a service's file")
	ErrRelative     = errors.New("the program's path is not absolute")
)
