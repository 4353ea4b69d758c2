package client

import (
	"errors"
	"net/http"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

// Errors that callers may ask for with errors.Is.
var errNoMore = errors.New("policy gives this session no more time")

var (
	ErrNotEnrolled  = control.ErrNotEnrolled // no identity in the folder
	ErrEnrolled     = control.ErrEnrolled    // an identity is there already
	ErrJoinToken    = control.ErrJoinToken
	ErrTokenOver    = control.ErrTokenOver
	ErrTokenRole    = control.ErrRole       // a join token for a host, say
	ErrNoAnswer     = control.ErrNoAnswer   // of the controller to knocks
	ErrNoAddress    = control.ErrNoAddress  // no way to the controller from here
	ErrNoControl    = control.ErrNoControl  // the control port is silent after a grant
	ErrHostSilent   = tunnel.ErrNoAnswer    // the host is silent after a grant
	ErrUnreachable  = tunnel.ErrUnreachable // the host does not reach the service
	ErrRevoked      = tunnel.ErrRevoked     // taken back
	ErrExpired      = tunnel.ErrExpired     // the deadline has come
	ErrOtherEnd     = tunnel.ErrVerify      // not the host that was granted
	ErrLost         = tunnel.ErrLost        // the path to the host broke
	ErrNotTCP       = errors.New("the service is no TCP service")
	ErrNotUDP       = errors.New("the service is no UDP service")
	ErrClosed       = errors.New("the access is closed")
	ErrCertificate  = errors.New("this device's certificate has expired and could not be renewed")
	ErrRole         = errors.New("the identity is not a client's")
	ErrOneAtATime   = errors.New("the service is direct with binding exact, which lets in one connection of a session at a time")
	ErrPublicListen = errors.New("the address is not of the loopback interface: others could use your session")
)

// DeniedError is the controller's reasoned refusal of a knock.
type DeniedError = control.DeniedError

// StatusError is a refusal of the control API, of an enrolment for one.
type StatusError = control.StatusError

// IsDenied reports whether err is a refusal that asking again will not change
// before an administrator acts.
func IsDenied(err error) bool {
	if denied, ok := errors.AsType[*DeniedError](err); ok {
		return denied.Code == spa.CodeNotGranted
	}
	if refused, ok := errors.AsType[*StatusError](err); ok {
		return refused.Status == http.StatusForbidden
	}
	return errors.Is(err, tunnel.ErrDenied)
}

// IsHostOffline reports whether err says that the service's host is not connected
// to the controller.
func IsHostOffline(err error) bool {
	denied, ok := errors.AsType[*DeniedError](err)
	return ok && denied.Code == spa.CodeHostOffline
}

func isBusy(err error) bool {
	denied, ok := errors.AsType[*DeniedError](err)
	return ok && (denied.Code == spa.CodeBusy || denied.Code == spa.CodeHostOffline ||
		denied.Code == spa.CodeInternal)
}
