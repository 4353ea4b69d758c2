package controller

import "errors"

// Errors that callers tell apart.
var (
	ErrExists       = errors.New("there is a controller already")
	ErrNotInitiated = errors.New("no controller has been made here: run postern-controller init first")

	errDamaged = errors.New("the file is damaged; it is left as it is: restore it from a backup")
	errNewer   = errors.New("the file was written by a newer version; it is left as it is: " +
		"install that version")
	errOtherName = errors.New("the configured name is not the one this controller was made with")

	errDenied         = errors.New("no grant for this service, or no such service")
	errOffline        = errors.New("the host is not connected")
	errHostRefused    = errors.New("the host refused the session")
	errHostSilent     = errors.New("the host did not answer in time")
	errBusy           = errors.New("the controller is busy, try again in a moment")
	errUnknownSession = errors.New("no such session of this device")
	errReplaced       = errors.New("a newer stream of the same host took over")
	errSlow           = errors.New("the host does not keep up with its orders")
	errRemoved        = errors.New("the identity was revoked")
	errContradicts    = errors.New("another record of this number is known already")
	errNoDoor         = errors.New("nobody was let in from this address")
)
