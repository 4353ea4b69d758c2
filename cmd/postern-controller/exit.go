package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/listen"
)

const program = "postern-controller"

// Exit codes. They are part of the interface: scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1 // anything not named below
	exitUsage       = 2 // the command line or the configuration is wrong
	exitDenied      = 3 // rights are missing
	exitUnavailable = 4 // the controller is not running, or cannot do it now
	exitNotFound    = 5 // there is no such token, device, host, service, grant or session
	exitConflict    = 6 // it exists already, or is still in use
)

// usageError is a wrong command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// configError is a wrong configuration.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// explain writes what went wrong, and last what to do next.
func explain(w io.Writer, err error) int {
	if err == nil || errors.Is(err, context.Canceled) {
		return exitOK
	}
	code, hint := classify(err)
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "%s: %s\n", program, strings.TrimRight(line, "\n"))
	}
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return code
}

func classify(err error) (code int, hint string) {
	var usage usageError
	var config configError
	var answer *control.StatusError
	switch {
	case errors.As(err, &usage):
		return exitUsage, "add --help to see how the command is used"
	case errors.As(err, &config):
		return exitUsage, "correct the file or name another with --config; serve --check reads it only"
	case errors.Is(err, api.ErrNotRunning):
		return exitUnavailable, "start it with postern-controller serve, or name its socket with --socket"
	case errors.Is(err, api.ErrNoAccess):
		return exitDenied, "run the command as root or as the controller's user"
	case errors.Is(err, api.ErrInUse), errors.Is(err, store.ErrLocked), errors.Is(err, errRunning):
		return exitConflict, "stop the controller that runs here first"
	case errors.Is(err, controller.ErrNotInitiated):
		return exitUnavailable, "make a controller with postern-controller init --name NAME"
	case errors.Is(err, controller.ErrExists):
		return exitConflict, "the controller that is there stays; choose another folder with --state"
	case errors.Is(err, firewall.ErrPermission):
		return exitDenied, "run it as root, or in a systemd unit with AmbientCapabilities=CAP_NET_ADMIN"
	case errors.Is(err, listen.ErrPermission):
		return exitDenied, "or do without: knock.source = \"socket\" and control.capture = false"
	case errors.As(err, &answer):
		return classifyAnswer(answer)
	}
	return exitFailed, ""
}

func classifyAnswer(answer *control.StatusError) (code int, hint string) {
	switch answer.Status {
	case http.StatusBadRequest:
		return exitUsage, "add --help to see what is allowed"
	case http.StatusForbidden:
		return exitDenied, ""
	case http.StatusNotFound:
		return exitNotFound, "the list commands show what there is"
	case http.StatusConflict:
		return exitConflict, "remove what stands in the way first, or choose another name"
	case http.StatusServiceUnavailable:
		return exitUnavailable, "try again in a moment"
	}
	return exitFailed, "the controller's log knows why"
}
