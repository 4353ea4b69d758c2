package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// Paths of the administrator's interface.
const (
	pathStatus   = "/v1/status"
	pathTokens   = "/v1/tokens"
	pathDevices  = "/v1/devices"
	pathHosts    = "/v1/hosts"
	pathServices = "/v1/services"
	pathGrants   = "/v1/grants"
	pathSessions = "/v1/sessions"
	pathReload   = "/v1/reload"

	pathEmergencies = "/v1/emergencies"
)

// ErrInUse is returned when another controller serves the socket.
var ErrInUse = errors.New("another controller answers on this socket")

// Administration is what the administrator's commands do. Names stand for
// devices and hosts where they are not ambiguous; ids always do.
type Administration interface {
	Status(context.Context) (Status, error)
	CreateToken(context.Context, TokenRequest) (TokenCreated, error)
	Tokens(context.Context) ([]TokenInfo, error)
	RevokeToken(ctx context.Context, id key.ID) error
	Devices(context.Context) ([]DeviceInfo, error)
	RevokeDevice(ctx context.Context, nameOrID string) (Cut, error)
	Hosts(context.Context) ([]HostInfo, error)
	RemoveHost(ctx context.Context, nameOrID string) (Cut, error)
	AddService(context.Context, ServiceRequest) (ServiceInfo, error)
	AllServices(context.Context) ([]ServiceInfo, error)
	RemoveService(ctx context.Context, name string) (Cut, error)
	AddGrant(context.Context, GrantRequest) error
	Grants(context.Context) ([]GrantInfo, error)
	RemoveGrant(context.Context, GrantRequest) (Cut, error)
	AllSessions(context.Context) ([]control.SessionInfo, error)
	RevokeSession(ctx context.Context, id key.ID) (Cut, error)
	ReloadPolicy(context.Context) (Cut, error)
	Emergencies(context.Context) ([]EmergencyInfo, error)
}

// AdminServer serves the administrator's commands on a unix socket.
type AdminServer struct {
	Path           string // of the socket, made with mode 0600
	Administration Administration
	Log            *slog.Logger
}

// Listen makes the socket, in a folder that is made if missing. A socket that
// a dead process left is replaced; one that answers is [ErrInUse].
func (s *AdminServer) Listen(ctx context.Context) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of the admin socket: %w", err)
	}
	if err := removeStale(ctx, s.Path); err != nil {
		return nil, err
	}
	l, err := listenPrivate(s.Path)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	return l, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the admin socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and no socket: move it away", path)
	}
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", path, ErrInUse)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove a stale admin socket: %w", err)
	}
	return nil
}

// Serve answers on l until ctx ends, and lets requests that run finish in a
// bounded time.
func (s *AdminServer) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: bodyTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	done := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			err = server.Close()
			done <- err
			return
		}
		done <- nil
	})
	err := server.Serve(peersOnly{l, s.Log})
	if !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve the admin socket: %w", err)
	}
	return <-done
}

// peersOnly hands on connections of root and of the daemon's own user only.
type peersOnly struct {
	net.Listener
	log *slog.Logger
}

func (p peersOnly) Accept() (net.Conn, error) {
	for {
		conn, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return conn, nil
		}
		p.log.Warn("stranger at the admin socket", logkeys.User, uid, logkeys.Error, err)
		conn.Close()
	}
}

func (s *AdminServer) handler() http.Handler {
	mux, a := http.NewServeMux(), s.Administration
	get := func(path string, do func(context.Context) (any, error)) {
		handle(mux, "GET "+path, s.Log, func(ctx context.Context, _ empty) (any, error) { return do(ctx) })
	}
	get(pathStatus, func(ctx context.Context) (any, error) { return a.Status(ctx) })
	get(pathTokens, func(ctx context.Context) (any, error) { return a.Tokens(ctx) })
	get(pathDevices, func(ctx context.Context) (any, error) { return a.Devices(ctx) })
	get(pathHosts, func(ctx context.Context) (any, error) { return a.Hosts(ctx) })
	get(pathServices, func(ctx context.Context) (any, error) { return a.AllServices(ctx) })
	get(pathGrants, func(ctx context.Context) (any, error) { return a.Grants(ctx) })
	get(pathEmergencies, func(ctx context.Context) (any, error) { return a.Emergencies(ctx) })
	get(pathSessions, func(ctx context.Context) (any, error) { return a.AllSessions(ctx) })

	handle(mux, "POST "+pathReload, s.Log, func(ctx context.Context, _ empty) (any, error) {
		return a.ReloadPolicy(ctx)
	})
	handle(mux, "POST "+pathTokens, s.Log, func(ctx context.Context, in TokenRequest) (any, error) {
		return a.CreateToken(ctx, in)
	})
	handle(mux, "POST "+pathServices, s.Log, func(ctx context.Context, in ServiceRequest) (any, error) {
		return a.AddService(ctx, in)
	})
	handle(mux, "POST "+pathGrants, s.Log, func(ctx context.Context, in GrantRequest) (any, error) {
		return empty{}, a.AddGrant(ctx, in)
	})
	s.deletions(mux)
	return mux
}

// target is the body of a deletion.
type target struct {
	Name string `json:"name"` // or id
}

func (t target) id() (key.ID, error) {
	id, err := key.ParseID(t.Name)
	if err != nil {
		return key.ID{}, fmt.Errorf("%w: %q: %w", ErrInvalid, t.Name, err)
	}
	return id, nil
}

func (s *AdminServer) deletions(mux *http.ServeMux) {
	a := s.Administration
	handle(mux, "DELETE "+pathTokens, s.Log, func(ctx context.Context, in target) (any, error) {
		id, err := in.id()
		if err != nil {
			return nil, err
		}
		return empty{}, a.RevokeToken(ctx, id)
	})
	handle(mux, "DELETE "+pathSessions, s.Log, func(ctx context.Context, in target) (any, error) {
		id, err := in.id()
		if err != nil {
			return nil, err
		}
		return a.RevokeSession(ctx, id)
	})
	handle(mux, "DELETE "+pathDevices, s.Log, func(ctx context.Context, in target) (any, error) {
		return a.RevokeDevice(ctx, in.Name)
	})
	handle(mux, "DELETE "+pathHosts, s.Log, func(ctx context.Context, in target) (any, error) {
		return a.RemoveHost(ctx, in.Name)
	})
	handle(mux, "DELETE "+pathServices, s.Log, func(ctx context.Context, in target) (any, error) {
		return a.RemoveService(ctx, in.Name)
	})
	handle(mux, "DELETE "+pathGrants, s.Log, func(ctx context.Context, in GrantRequest) (any, error) {
		return a.RemoveGrant(ctx, in)
	})
}

// adminTimeout is how long a command waits for the daemon.
const adminTimeout = 15 * time.Second
