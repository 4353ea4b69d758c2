package controller

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/authority"
	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/controller/policy"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// broker is the Controller as the control API sees it: [api.Broker].
type broker struct{ *Controller }

var _ api.Broker = broker{}

// Who implements [api.Broker].
func (b broker) Who(id key.ID) (api.Caller, bool) { return b.directory.who(id, time.Now()) }

// Roots implements [api.Broker].
func (b broker) Roots() *x509.CertPool { return b.roots }

// Authority implements [api.Broker].
func (b broker) Authority() string { return b.config.Name }

// Enroll implements [api.Broker].
func (b broker) Enroll(ctx context.Context, caller api.Caller,
	request control.EnrollRequest) (control.EnrollResponse, error) {
	if request.Token != caller.ID {
		return control.EnrollResponse{}, fmt.Errorf("%w: not the join token that knocked", api.ErrDenied)
	}
	if _, err := control.VerifyEnroll(request); err != nil {
		return control.EnrollResponse{}, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	m, err := b.redeem(request)
	if err != nil {
		return control.EnrollResponse{}, told(err)
	}
	chain, err := b.issue(ctx, m, m.PublicKey)
	if err != nil {
		return control.EnrollResponse{}, err
	}
	b.log.Info("enrolled", logkeys.Identity, m.ID, logkeys.Role, m.Role, logkeys.Name, m.Name,
		logkeys.User, m.User, logkeys.Token, caller.ID, logkeys.Source, caller.Source)
	return control.EnrollResponse{
		ID: m.ID, Name: m.Name, Role: m.Role, KnockSecret: m.Knock.Reveal(), Certificates: chain,
		Authority: b.authority.Root().Raw,
	}, nil
}

func (b broker) redeem(request control.EnrollRequest) (identity.Machine, error) {
	d := b.directory
	d.change.Lock()
	defer d.change.Unlock()
	m, err := d.registry.Redeem(request.Token, request.Name, request.PublicKey, time.Now())
	if err != nil {
		return identity.Machine{}, err
	}
	d.putMachine(m)
	return m, nil
}

func (b broker) issue(ctx context.Context, m identity.Machine, publicKey []byte) ([][]byte, error) {
	chain, err := b.authority.Issue(ctx, authority.Request{
		Role: m.Role, ID: m.ID, PublicKey: publicKey, Name: m.Name,
	}, time.Duration(b.config.Control.Certificate))
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return chain, nil
}

// Renew implements [api.Broker]. A new key replaces the old one: certificates
// for that one are refused from then on.
func (b broker) Renew(ctx context.Context, caller api.Caller,
	request control.RenewRequest) (control.RenewResponse, error) {
	if _, err := control.VerifyRenew(caller.ID, request); err != nil {
		return control.RenewResponse{}, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	m, err := b.rekey(caller.ID, request.PublicKey)
	if err != nil {
		return control.RenewResponse{}, told(err)
	}
	chain, err := b.issue(ctx, m, request.PublicKey)
	if err != nil {
		return control.RenewResponse{}, err
	}
	b.log.Info("certificate renewed", logkeys.Identity, m.ID, logkeys.Name, m.Name)
	return control.RenewResponse{Certificates: chain}, nil
}

func (b broker) rekey(id key.ID, publicKey []byte) (identity.Machine, error) {
	d := b.directory
	d.change.Lock()
	defer d.change.Unlock()
	m, ok := d.machine(id)
	if !ok {
		return identity.Machine{}, identity.ErrRevoked
	}
	if bytes.Equal(m.PublicKey, publicKey) {
		return m, nil
	}
	if err := d.registry.Rekey(id, publicKey); err != nil {
		return identity.Machine{}, err
	}
	m.PublicKey = publicKey
	d.putMachine(m)
	return m, nil
}

// Services implements [api.Broker]: those the caller has a grant for and, of the
// others, the names of those that are listed for all.
func (b broker) Services(_ context.Context, caller api.Caller) (control.ServicesResponse, error) {
	out := control.ServicesResponse{Device: caller.Name, User: caller.User, Services: []control.Service{}}
	now := time.Now()
	for _, s := range b.directory.allServices() {
		v, ok := b.directory.judge(caller.ID, s.Name, 0, now)
		if !ok && s.Listed {
			out.Others = append(out.Others, control.Other{Name: s.Name, Reason: "not granted to " + caller.User})
		}
		if !ok {
			continue
		}
		host, _ := b.directory.machine(s.Host)
		out.Services = append(out.Services, control.Service{
			Name: s.Name, Host: host.Name, Port: s.Port(), Online: b.sessions.online(s.Host) != nil,
			For: control.Duration(v.until.Sub(now)), Access: v.access,
		})
	}
	slices.SortFunc(out.Services, func(a, b control.Service) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Others, func(a, b control.Other) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Sessions implements [api.Broker]: the caller's own.
func (b broker) Sessions(_ context.Context, caller api.Caller) (control.SessionsResponse, error) {
	return control.SessionsResponse{Sessions: b.sessionInfos(caller.ID)}, nil
}

// CloseSession implements [api.Broker]: one of the caller's own.
func (b broker) CloseSession(ctx context.Context, caller api.Caller, id key.ID) error {
	_, err := b.sessions.close(ctx, id, caller.ID, reasonOwner)
	return told(err)
}

// Agent implements [api.Broker].
func (b broker) Agent(ctx context.Context, caller api.Caller, stream api.AgentStream) error {
	return b.serveLink(ctx, caller, stream)
}

// sessionInfos returns what people see of the live sessions: all, or those of a device.
func (c *Controller) sessionInfos(device key.ID) []control.SessionInfo {
	infos := []control.SessionInfo{}
	for _, s := range c.sessions.list(device) {
		device, _ := c.directory.machine(s.device)
		host, _ := c.directory.machine(s.host)
		infos = append(infos, control.SessionInfo{
			ID: s.id, Device: s.device, Name: device.Name, User: s.user, Service: s.service,
			Host: host.Name, Source: s.source, Started: s.started.UTC(), Deadline: s.deadline.UTC(),
		})
	}
	return infos
}

func (c *Controller) known(id key.ID, now time.Time) bool { return c.directory.known(id, now) }

// hostPin is the SHA-256 of the key that the host's certificate has.
func (c *Controller) hostPin(id key.ID) ([sha256.Size]byte, bool) {
	m, ok := c.directory.machine(id)
	return sha256.Sum256(m.PublicKey), ok
}

// told gives an error of the registry, of policy or of the sessions the status
// that its caller is answered with.
func told(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []struct{ is, as error }{
		{errUnknownSession, api.ErrNotFound},
		{identity.ErrUnknown, api.ErrNotFound},
		{policy.ErrNoGrant, api.ErrNotFound},
		{identity.ErrTaken, api.ErrConflict},
		{identity.ErrHasServices, api.ErrConflict},
		{identity.ErrTokenUsed, api.ErrDenied},
		{identity.ErrTokenExpired, api.ErrDenied},
		{identity.ErrRevoked, api.ErrDenied},
		{identity.ErrName, api.ErrInvalid},
		{identity.ErrRole, api.ErrInvalid},
		{identity.ErrUser, api.ErrInvalid},
		{identity.ErrLifetime, api.ErrInvalid},
		{identity.ErrTarget, api.ErrInvalid},
		{control.ErrAccess, api.ErrInvalid},
		{policy.ErrFor, api.ErrInvalid},
		{policy.ErrEmpty, api.ErrInvalid},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%w: %w", known.as, err)
		}
	}
	return err
}
