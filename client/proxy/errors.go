package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/postern-sdp/postern/client"
)

// Errors that Notify is told, and callers may ask for with errors.Is.
var (
	ErrOther    = errors.New("not a service of yours, and this proxy goes nowhere else")
	ErrUnlisted = errors.New("not a service that you may reach")
	ErrPort     = errors.New("the service does not listen on that port")
	ErrName     = errors.New("not a name of a host or service")
	ErrOwn      = errors.New("an address of this machine, which this proxy does not reach for others")
	ErrNoList   = errors.New("the controller has not said which services there are")
	ErrPassword = errors.New("want one line USER:PASSWORD, the password of 12 characters or more")
)

// What is wrong with what a client says.
var (
	errMalformed = errors.New("malformed SOCKS message")
	errFamily    = errors.New("unknown kind of address")
	errLeft      = errors.New("the client has left")
	errHalf      = errors.New("the connection cannot end in one direction")
)

// failure says in the terms of both protocols why there is no connection.
type failure struct {
	socks byte // the reply of RFC 1928, section 6
	http  int
}

// explain finds the reply for an error of dial.
func explain(err error) failure {
	var dns *net.DNSError
	var network net.Error
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	switch {
	case is(ErrOther, ErrUnlisted, ErrPort, ErrOwn, client.ErrRevoked, client.ErrNotEnrolled), client.IsDenied(err):
		return failure{replyNotAllowed, http.StatusForbidden}
	case is(ErrName):
		return failure{replyFailed, http.StatusBadRequest}
	case client.IsHostOffline(err):
		return failure{replyHostUnreachable, http.StatusServiceUnavailable}
	case is(client.ErrUnreachable, client.ErrNotTCP, client.ErrNotUDP, syscall.ECONNREFUSED):
		return failure{replyRefused, http.StatusBadGateway}
	case is(client.ErrNoAddress, syscall.ENETUNREACH):
		return failure{replyNetUnreachable, http.StatusBadGateway}
	case is(client.ErrNoAnswer, client.ErrHostSilent, client.ErrNoControl, ErrNoList,
		context.DeadlineExceeded, os.ErrDeadlineExceeded):
		return failure{replyTimeout, http.StatusGatewayTimeout}
	case is(syscall.EHOSTUNREACH), errors.As(err, &dns):
		return failure{replyHostUnreachable, http.StatusBadGateway}
	case errors.As(err, &network) && network.Timeout():
		return failure{replyTimeout, http.StatusGatewayTimeout}
	}
	return failure{replyFailed, http.StatusBadGateway}
}
