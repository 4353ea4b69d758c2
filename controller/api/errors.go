package api

import (
	"errors"
	"net/http"
)

// Errors that a caller is told, and their HTTP status.
var (
	ErrInvalid     = errors.New("the request is not valid")       // 400
	ErrDenied      = errors.New("not allowed")                    // 403
	ErrNotFound    = errors.New("there is no such thing")         // 404
	ErrConflict    = errors.New("it contradicts what is there")   // 409
	ErrTooLarge    = errors.New("the body is larger than 1 MiB")  // 413
	ErrInternal    = errors.New("the controller's log knows why") // 500
	ErrUnavailable = errors.New("not possible at the moment")     // 503
)

// Errors of connections that are not served at all.
var (
	errNoCertificate = errors.New("no certificate was presented")
	errOtherIdentity = errors.New("the certificate is not for the identity that knocked")
	errUnknown       = errors.New("the identity is not enrolled, or was revoked")
	errReplacedKey   = errors.New("the certificate is for a key that was replaced")
)

// status returns the HTTP status that stands for err.
func status(err error) int {
	for _, known := range []struct {
		err  error
		code int
	}{
		{ErrInvalid, http.StatusBadRequest},
		{ErrDenied, http.StatusForbidden},
		{ErrNotFound, http.StatusNotFound},
		{ErrConflict, http.StatusConflict},
		{ErrTooLarge, http.StatusRequestEntityTooLarge},
		{ErrUnavailable, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return http.StatusInternalServerError
}
