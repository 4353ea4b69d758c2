package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/quic-go/quic-go"
)

// ErrReset is the end of a stream that the other end cut off.
var ErrReset = errors.New("the connection was reset")

const (
	streamReset quic.StreamErrorCode = 1 // the TCP connection behind it was reset
	streamDone  quic.StreamErrorCode = 0 // nobody reads any more

	firstAlert = 0x100 // TLS alerts as QUIC errors: RFC 9001, section 4.8
	lastAlert  = 0x1ff
)

// translate gives QUIC's errors the types of this package. It keeps the chain.
func translate(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, ErrVerify) {
		return err
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		reason := Reason(e.ErrorCode)
		if !e.Remote { // closed by ourselves
			return fmt.Errorf("%w: %w", reason.sentinel(), err)
		}
		return &ClosedError{Reason: reason, Text: clip(e.ErrorMessage, maxAnswerText)}
	}
	if e, ok := errors.AsType[*quic.StreamError](err); ok && e.Remote {
		return fmt.Errorf("%w: %w", ErrReset, err)
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return translateTransport(e)
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	if _, ok := errors.AsType[*quic.StatelessResetError](err); ok {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return err
}

// translateDial is translate for a handshake: silence then is no lost path, there
// was none yet. Under load QUIC's idle timer may fire before its handshake timer.
func translateDial(err error) error {
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return translate(err)
}

func translateTransport(e *quic.TransportError) error {
	switch {
	case e.ErrorCode == quic.ConnectionRefused:
		return fmt.Errorf("%w: %w", ErrBusy, e)
	case e.Remote && e.ErrorCode >= firstAlert && e.ErrorCode <= lastAlert:
		return fmt.Errorf("%w: %w", ErrRefused, e)
	}
	return fmt.Errorf("%w: %w", ErrProtocol, e)
}

// cause returns why ctx ended, in the types of this package.
func cause(ctx context.Context) error { return translate(context.Cause(ctx)) }
