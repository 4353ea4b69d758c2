package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// Errors of [Admin].
var (
	ErrNotRunning = errors.New("the controller is not running here")
	ErrNoAccess   = errors.New("the admin socket belongs to root or the controller's user")
)

// Admin speaks to a running controller over its unix socket. It is safe for
// concurrent use. An answer that is an error is a [control.StatusError].
type Admin struct {
	http *http.Client
	path string
}

// NewAdmin returns a client of the socket at path. It connects when it is used.
func NewAdmin(path string) *Admin {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Admin{
		path: path,
		http: &http.Client{
			Timeout:   adminTimeout,
			Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		},
	}
}

func (a *Admin) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://controller"+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Content-Type", jsonType)
	answer, err := a.http.Do(r)
	if err != nil {
		return a.explain(err)
	}
	defer answer.Body.Close()
	// The administrator's own daemon is trusted: lists may be long.
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("read the controller's answer: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		var e control.ErrorResponse
		_ = json.Unmarshal(b, &e) // without it the status tells
		return &control.StatusError{Status: answer.StatusCode, Text: e.Error}
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the controller's answer: %w", err)
	}
	return nil
}

// hungUp is net/http's error, which it does not export, for a connection that the
// other end closed before the request was written.
const hungUp = "server closed idle connection"

func (a *Admin) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody answers on %s", ErrNotRunning, a.path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), strings.Contains(err.Error(), hungUp):
		return fmt.Errorf("%w: %s", ErrNoAccess, a.path)
	}
	return fmt.Errorf("ask the controller: %w", err)
}

func ask[Out any](ctx context.Context, a *Admin, method, path string, in any) (Out, error) {
	var out Out
	err := a.do(ctx, method, path, in, &out)
	return out, err
}

// Status implements [Administration], as do the methods that follow.
func (a *Admin) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, a, http.MethodGet, pathStatus, nil)
}

// CreateToken returns a new join token. Its text is never to be had again.
func (a *Admin) CreateToken(ctx context.Context, r TokenRequest) (TokenCreated, error) {
	return ask[TokenCreated](ctx, a, http.MethodPost, pathTokens, r)
}

// Tokens lists the join tokens that have not expired.
func (a *Admin) Tokens(ctx context.Context) ([]TokenInfo, error) {
	return ask[[]TokenInfo](ctx, a, http.MethodGet, pathTokens, nil)
}

// RevokeToken withdraws a join token.
func (a *Admin) RevokeToken(ctx context.Context, id key.ID) error {
	_, err := ask[empty](ctx, a, http.MethodDelete, pathTokens, target{id.String()})
	return err
}

// Devices lists the enrolled client machines.
func (a *Admin) Devices(ctx context.Context) ([]DeviceInfo, error) {
	return ask[[]DeviceInfo](ctx, a, http.MethodGet, pathDevices, nil)
}

// RevokeDevice ends a device's identity, sessions and connections.
func (a *Admin) RevokeDevice(ctx context.Context, nameOrID string) (Cut, error) {
	return ask[Cut](ctx, a, http.MethodDelete, pathDevices, target{nameOrID})
}

// Hosts lists the enrolled hosts.
func (a *Admin) Hosts(ctx context.Context) ([]HostInfo, error) {
	return ask[[]HostInfo](ctx, a, http.MethodGet, pathHosts, nil)
}

// RemoveHost ends a host's identity, the sessions to it and its connection.
func (a *Admin) RemoveHost(ctx context.Context, nameOrID string) (Cut, error) {
	return ask[Cut](ctx, a, http.MethodDelete, pathHosts, target{nameOrID})
}

// AddService adds a service.
func (a *Admin) AddService(ctx context.Context, r ServiceRequest) (ServiceInfo, error) {
	return ask[ServiceInfo](ctx, a, http.MethodPost, pathServices, r)
}

// AllServices lists the services.
func (a *Admin) AllServices(ctx context.Context) ([]ServiceInfo, error) {
	return ask[[]ServiceInfo](ctx, a, http.MethodGet, pathServices, nil)
}

// RemoveService removes a service and ends its sessions.
func (a *Admin) RemoveService(ctx context.Context, name string) (Cut, error) {
	return ask[Cut](ctx, a, http.MethodDelete, pathServices, target{name})
}

// AddGrant lets a user reach a service.
func (a *Admin) AddGrant(ctx context.Context, r GrantRequest) error {
	_, err := ask[empty](ctx, a, http.MethodPost, pathGrants, r)
	return err
}

// Grants lists the policy in force.
func (a *Admin) Grants(ctx context.Context) ([]GrantInfo, error) {
	return ask[[]GrantInfo](ctx, a, http.MethodGet, pathGrants, nil)
}

// RemoveGrant takes a grant back and ends the sessions that no other one covers.
func (a *Admin) RemoveGrant(ctx context.Context, r GrantRequest) (Cut, error) {
	return ask[Cut](ctx, a, http.MethodDelete, pathGrants, r)
}

// Emergencies lists what hosts told of their emergency keys, in the order it came.
func (a *Admin) Emergencies(ctx context.Context) ([]EmergencyInfo, error) {
	return ask[[]EmergencyInfo](ctx, a, http.MethodGet, pathEmergencies, nil)
}

// AllSessions lists the live sessions.
func (a *Admin) AllSessions(ctx context.Context) ([]control.SessionInfo, error) {
	return ask[[]control.SessionInfo](ctx, a, http.MethodGet, pathSessions, nil)
}

// RevokeSession ends a session.
func (a *Admin) RevokeSession(ctx context.Context, id key.ID) (Cut, error) {
	return ask[Cut](ctx, a, http.MethodDelete, pathSessions, target{id.String()})
}

// ReloadPolicy reads the policy file again and ends what it no longer covers.
func (a *Admin) ReloadPolicy(ctx context.Context) (Cut, error) {
	return ask[Cut](ctx, a, http.MethodPost, pathReload, nil)
}

var _ Administration = (*Admin)(nil)
