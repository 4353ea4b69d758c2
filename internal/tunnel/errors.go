package tunnel

import (
	"errors"
	"fmt"
)

// Errors that callers may ask for with errors.Is. What a [Conn] or a [Stream]
// returns wraps one of them where the cause is known.
var (
	ErrClosed      = errors.New("the session was closed")
	ErrExpired     = errors.New("the session has expired")
	ErrRevoked     = errors.New("the session was revoked")
	ErrShutdown    = errors.New("the other end is shutting down")
	ErrDenied      = errors.New("denied")
	ErrUnreachable = errors.New("the host cannot reach the service")
	ErrBusy        = errors.New("too many connections or streams")
	ErrProtocol    = errors.New("the other end does not follow the protocol")
	ErrNoAnswer    = errors.New("no answer from the host")
	ErrVerify      = errors.New("the other end is not whom it should be")
	ErrRefused     = errors.New("the other end refused our certificate")
	ErrLost        = errors.New("the path to the other end was lost")
	ErrNoAddress   = errors.New("no address to dial")
	ErrPacketSize  = errors.New("the datagram is longer than UDP allows")
	ErrConfig      = errors.New("incomplete configuration")

	errIdle  = errors.New("the flow was silent for too long")
	errMoved = errors.New("the deadline was moved")
)

// Reason is why an end closed a connection: the application error code of
// QUIC's CONNECTION_CLOSE.
type Reason uint64

// The reasons. They are part of the protocol.
const (
	ReasonClosed   Reason = 1 // its user is done with it
	ReasonExpired  Reason = 2 // the deadline has come
	ReasonRevoked  Reason = 3 // taken back by an administrator or by policy
	ReasonShutdown Reason = 4 // the program ends; the session may live on
	ReasonDenied   Reason = 5 // this device may not use this session
	ReasonProtocol Reason = 6 // the other end broke the protocol
	ReasonLost     Reason = 7 // the other end was not heard of for too long
)

// String returns one word, for logs.
func (r Reason) String() string {
	switch r {
	case ReasonClosed:
		return "closed"
	case ReasonExpired:
		return "expired"
	case ReasonRevoked:
		return "revoked"
	case ReasonShutdown:
		return "shutdown"
	case ReasonDenied:
		return "denied"
	case ReasonProtocol:
		return "protocol"
	case ReasonLost:
		return "lost"
	}
	return fmt.Sprintf("reason %d", uint64(r))
}

// sentinel returns the error that stands for r.
func (r Reason) sentinel() error {
	switch r {
	case ReasonExpired:
		return ErrExpired
	case ReasonRevoked:
		return ErrRevoked
	case ReasonShutdown:
		return ErrShutdown
	case ReasonDenied:
		return ErrDenied
	case ReasonProtocol:
		return ErrProtocol
	case ReasonLost:
		return ErrLost
	}
	return ErrClosed
}

// ClosedError is the end of a connection that the other end closed and gave a
// reason for. It wraps the reason's sentinel: errors.Is(err, ErrRevoked).
type ClosedError struct {
	Reason Reason
	Text   string // for people, chosen by the other end
}

// Error implements error.
func (e *ClosedError) Error() string {
	if e.Text == "" {
		return e.Reason.sentinel().Error()
	}
	return fmt.Sprintf("%v: %q", e.Reason.sentinel(), e.Text)
}

// Unwrap returns the reason's sentinel.
func (e *ClosedError) Unwrap() error { return e.Reason.sentinel() }

// Status is the answer to a stream's header.
type Status uint8

// The statuses. They are part of the protocol.
const (
	StatusOK          Status = 0
	StatusDenied      Status = 1 // not this session, or not on this connection
	StatusUnreachable Status = 2 // the service's target does not answer the host
	StatusBusy        Status = 3 // a limit is reached; later it may work
	StatusMalformed   Status = 4 // the header is not one of this version
)

// RefusedError is a stream that the host did not connect. Handlers return it to
// choose what the client is told. It wraps ErrDenied, ErrUnreachable, ErrBusy or
// ErrProtocol.
type RefusedError struct {
	Status Status
	Text   string // for people, at most 255 bytes on the wire
}

// Error implements error.
func (e *RefusedError) Error() string {
	if e.Text == "" {
		return e.sentinel().Error()
	}
	return fmt.Sprintf("%v: %q", e.sentinel(), e.Text)
}

// Unwrap returns the status' sentinel.
func (e *RefusedError) Unwrap() error { return e.sentinel() }

func (e *RefusedError) sentinel() error {
	switch e.Status {
	case StatusDenied:
		return ErrDenied
	case StatusUnreachable:
		return ErrUnreachable
	case StatusBusy:
		return ErrBusy
	}
	return ErrProtocol
}
