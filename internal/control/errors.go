package control

import (
	"errors"
	"fmt"

	"github.com/postern-sdp/postern/spa"
)

// Errors of the control plane's client part.
var (
	ErrNoAnswer    = errors.New("the controller did not answer")
	ErrNoAddress   = errors.New("no address of the controller can be reached from here")
	errLookUp      = errors.New("names take too long to resolve")
	ErrAnswer      = errors.New("the controller's answer makes no sense")
	ErrNoControl   = errors.New("the controller let us in, but its control port does not answer")
	ErrOtherEnd    = errors.New("the other end is not the controller that was granted")
	ErrNotEnrolled = errors.New("not enrolled")
	ErrEnrolled    = errors.New("already enrolled")
	ErrWideFolder  = errors.New("the folder is open to others: it must be yours, with mode 0700 or less")
	ErrDamaged     = errors.New("the enrolled identity is damaged")
	ErrNewer       = errors.New("the enrolled identity was written by a newer version")
	ErrCertificate = errors.New("not a usable certificate")
	ErrSignature   = errors.New("the signature does not match the key")
	ErrPublicKey   = errors.New("the public key is not an ECDSA key on P-256")
	ErrTooLong     = errors.New("the message is longer than 1 MiB")
	ErrMessage     = errors.New("not a message of the agent stream")
	ErrTokenOver   = errors.New("the join token has expired")
)

// DeniedError is the controller's reasoned refusal of a knock.
type DeniedError struct {
	Code spa.Code
	Text string // for people, at most 120 bytes
}

// Error implements error.
func (e *DeniedError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("denied by the controller (code %d)", e.Code)
	}
	return "denied by the controller: " + e.Text
}

// StatusError is an answer of the control API that is not a success.
type StatusError struct {
	Status int    // HTTP status code
	Text   string // ErrorResponse.Error
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the controller answered %d: %s", e.Status, e.Text)
}
