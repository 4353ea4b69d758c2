package spa

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// Kind is what a knock asks for.
type Kind uint8

// The kinds.
const (
	KindAccess  Kind = 1 // a session for a service, or to renew one
	KindControl Kind = 2 // the way to the control API
	KindClose   Kind = 3 // the end of the sender's own session
)

// Request is the body of a knock.
type Request struct {
	Kind    Kind
	Device  key.ID
	Service string     // of KindAccess, 1 to 63 bytes
	Time    time.Time  // the sender's clock
	Claimed netip.Addr // the source address the sender believes it has; invalid for none
	Session key.ID     // to renew (KindAccess) or to end (KindClose); zero for none
	// Duration is the session length that KindAccess asks for, in whole seconds; 0
	// leaves it to policy.
	Duration time.Duration
}

// validate holds for all that is sealed, and for all that is opened. PROTOCOL 3.7
func (r Request) validate() error {
	access := r.Kind == KindAccess
	switch {
	case r.Kind < KindAccess || r.Kind > KindClose:
		return ErrKind
	case access != (r.Service != "") || len(r.Service) > maxService:
		return ErrService
	case r.Kind == KindControl && !r.Session.IsZero() || r.Kind == KindClose && r.Session.IsZero():
		return ErrSession
	case r.Claimed.IsValid() && r.Claimed.Unmap().IsUnspecified():
		return ErrClaimed
	case !timely(r.Time):
		return ErrTime
	case !access && r.Duration != 0 || r.Duration < 0 ||
		r.Duration%time.Second != 0 || r.Duration/time.Second > math.MaxUint32:
		return ErrDuration
	}
	return nil
}

// appendRequest appends the 168 bytes of r's plaintext.
//
//	version 1 | kind 1 | device 16 | time 8 | claimed 16 | session 16 |
//	duration 4, seconds | service length 1 | service 63 | zero 42
func appendRequest(dst []byte, r Request) ([]byte, error) {
	if err := r.validate(); err != nil {
		return dst, fmt.Errorf("encode knock: %w", err)
	}
	n := len(dst)
	dst = append(dst, make([]byte, knockPlainSize)...)
	w := writer{dst[n:]}
	w.byte(versionOne)
	w.byte(byte(r.Kind))
	w.bytes(r.Device[:], key.IDSize)
	w.time(r.Time)
	w.address(r.Claimed)
	w.bytes(r.Session[:], key.IDSize)
	w.uint32(uint32(r.Duration / time.Second))
	w.byte(byte(len(r.Service)))
	w.bytes([]byte(r.Service), maxService)
	return dst, nil
}

// parseRequest is the only reader of appendRequest's form: whatever it accepts,
// appendRequest writes back byte for byte.
func parseRequest(b []byte) (Request, bool) {
	if len(b) != knockPlainSize {
		return Request{}, false
	}
	r := reader{b}
	if r.byte() != versionOne { // PROTOCOL 3.5
		return Request{}, false
	}
	q := Request{Kind: Kind(r.byte()), Device: r.id()}
	var okTime, okAddress, okService bool
	q.Time, okTime = r.time()
	q.Claimed, okAddress = r.address()
	q.Session = r.id()
	q.Duration = time.Duration(r.uint32()) * time.Second
	q.Service, okService = r.text(maxService)
	if !okTime || !okAddress || !okService || !r.end() || q.validate() != nil { // PROTOCOL 3.6
		return Request{}, false
	}
	return q, true
}
