package agent

import (
	"errors"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

// Errors of the agent.
var (
	ErrNoAgent = errors.New("no agent of this identity's is running")
	ErrRunning = errors.New("an agent of this identity's is running already")
	ErrFolder  = errors.New("the folder of the agent's socket is not this user's alone")
	errDied    = errors.New("the agent has ended, and the connection with it")
	errGone    = errors.New("it ended before it answered")
	errRetired = errors.New("the agent is about to end")
	errVersion = errors.New("the agent is of another version")
)

// fault is an error on its way to another process.
type fault struct {
	Code   string   `json:"code,omitempty"` // what it is, of those that somebody may ask for
	Denied spa.Code `json:"denied,omitempty"`
	Text   string   `json:"text"`
}

// kinds are the errors that keep their identity on the way. The first that fits
// counts: what ends everything says more than what became of one connection.
func kinds() []kind {
	return []kind{
		{"revoked", client.ErrRevoked}, {"expired", client.ErrExpired}, {"not-enrolled", client.ErrNotEnrolled},
		{"certificate", client.ErrCertificate}, {"no-answer", client.ErrNoAnswer},
		{"no-address", client.ErrNoAddress}, {"no-control", client.ErrNoControl},
		{"host-silent", client.ErrHostSilent}, {"unreachable", client.ErrUnreachable},
		{"refused", tunnel.ErrDenied}, {"other-end", client.ErrOtherEnd}, {"not-tcp", client.ErrNotTCP},
		{"not-udp", client.ErrNotUDP}, {"lost", client.ErrLost}, {"closed", client.ErrClosed},
		{"one-at-a-time", client.ErrOneAtATime},
		{"retired", errRetired}, {"version", errVersion},
	}
}

// kind is an error that somebody may ask for, by the code that it travels under.
type kind struct {
	code string
	err  error
}

func faultOf(err error) *fault {
	if err == nil {
		return nil
	}
	if denied, ok := errors.AsType[*client.DeniedError](err); ok {
		return &fault{Code: codeDenied, Denied: denied.Code, Text: denied.Text}
	}
	f := &fault{Text: err.Error()}
	for _, k := range kinds() {
		if errors.Is(err, k.err) {
			f.Code = k.code
			break
		}
	}
	return f
}

const codeDenied = "denied"

// err returns the error as it was, as far as somebody may ask.
func (f *fault) err() error {
	if f == nil {
		return nil
	}
	if f.Code == codeDenied {
		return &client.DeniedError{Code: f.Denied, Text: f.Text}
	}
	for _, k := range kinds() {
		if k.code == f.Code {
			return &told{text: f.Text, kind: k.err}
		}
	}
	return errors.New(f.Text)
}

// told is an error that another process had.
type told struct {
	text string
	kind error
}

// Error implements error.
func (t *told) Error() string { return t.text }

// Unwrap returns what it is.
func (t *told) Unwrap() error { return t.kind }
