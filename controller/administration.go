package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// administration is the Controller as the administrator's commands see it:
// [api.Administration].
type administration struct{ *Controller }

var _ api.Administration = administration{}

// Status implements [api.Administration].
func (a administration) Status(context.Context) (api.Status, error) {
	s := api.Status{
		Name: a.config.Name, ID: a.id, Version: a.version, Since: a.since,
		Knock: a.addresses.Knock, Control: a.addresses.Control,
		Source: a.config.Knock.Source, Firewall: a.config.Firewall.Backend,
		Capture: a.config.Control.Capture, Identities: a.directory.hints.Len(),
		Services: len(a.directory.allServices()),
		Knocks:   byReason(&a.counters.knocks), HostKnocks: byReason(&a.counters.hostKnocks),
		Granted: a.counters.granted.Load(), Denied: a.counters.denied.Load(),
		Busy: a.counters.busy.Load(), Dropped: a.kernelDrops(),
		CertificateExpires: a.certificate.expires().UTC(),
		Emergencies:        a.counters.emergencies.Load(), BadReports: a.counters.badReports.Load(),
	}
	a.directory.mu.RLock()
	for _, m := range a.directory.machines {
		switch {
		case !m.Revoked.IsZero():
		case m.Role == control.RoleHost:
			s.Hosts++
		default:
			s.Devices++
		}
	}
	a.directory.mu.RUnlock()
	s.Sessions, s.Online = a.sessions.count()
	return s, nil
}

// CreateToken implements [api.Administration].
func (a administration) CreateToken(_ context.Context, r api.TokenRequest) (api.TokenCreated, error) {
	d := a.directory
	d.change.Lock()
	defer d.change.Unlock()
	t, err := d.registry.CreateToken(identity.TokenRequest{
		Role: r.Role, User: r.User, Name: r.Name, Lifetime: time.Duration(r.Expires),
	}, time.Now())
	if err != nil {
		return api.TokenCreated{}, told(err)
	}
	token := control.JoinToken{
		Controller: a.config.Name, Addresses: a.config.knockAddresses(a.addresses.Knock.Port()), PublicKey: a.private.Public(),
		Token: t.ID, Knock: t.Knock, Role: t.Role, Expires: t.Expires,
		RootPin: control.PublicKeyPin(a.authority.Root()),
	}
	text, err := token.Encode()
	if err != nil { // nobody could use it
		return api.TokenCreated{}, errors.Join(err, d.registry.RevokeToken(t.ID))
	}
	d.putToken(t)
	a.log.Info("join token created", logkeys.Token, t.ID, logkeys.Role, t.Role, logkeys.Name, t.Name,
		logkeys.User, t.User, logkeys.Deadline, t.Expires)
	link, err := token.Invitation()
	if err != nil { // the text form does
		a.log.Warn("no invitation for a join token", logkeys.Token, t.ID, logkeys.Error, err)
	}
	return api.TokenCreated{TokenInfo: tokenInfo(t), Text: text, Invitation: link}, nil
}

func tokenInfo(t identity.Token) api.TokenInfo {
	return api.TokenInfo{
		ID: t.ID, Role: t.Role, User: t.User, Name: t.Name, Created: t.Created, Expires: t.Expires,
		Used: !t.Used.IsZero(),
	}
}

// Tokens implements [api.Administration].
func (a administration) Tokens(context.Context) ([]api.TokenInfo, error) {
	tokens, err := a.directory.registry.Tokens(time.Now())
	if err != nil {
		return nil, err
	}
	infos := []api.TokenInfo{}
	for _, t := range tokens {
		infos = append(infos, tokenInfo(t))
	}
	slices.SortFunc(infos, func(a, b api.TokenInfo) int { return a.Created.Compare(b.Created) })
	return infos, nil
}

// RevokeToken implements [api.Administration].
func (a administration) RevokeToken(_ context.Context, id key.ID) error {
	a.directory.change.Lock()
	defer a.directory.change.Unlock()
	if err := a.directory.registry.RevokeToken(id); err != nil {
		return told(err)
	}
	a.directory.dropToken(id)
	a.door.disconnect(id, errRemoved)
	a.log.Info("join token revoked", logkeys.Token, id)
	return nil
}

// Devices implements [api.Administration].
func (a administration) Devices(context.Context) ([]api.DeviceInfo, error) {
	machines, err := a.directory.registry.Machines(control.RoleClient)
	if err != nil {
		return nil, err
	}
	counts := make(map[key.ID]int)
	for _, s := range a.sessions.list(key.ID{}) {
		counts[s.device]++
	}
	infos := []api.DeviceInfo{}
	for _, m := range machines {
		infos = append(infos, api.DeviceInfo{
			ID: m.ID, Name: m.Name, User: m.User, Created: m.Created, Revoked: !m.Revoked.IsZero(),
			Sessions: counts[m.ID],
		})
	}
	slices.SortFunc(infos, func(a, b api.DeviceInfo) int { return a.Created.Compare(b.Created) })
	return infos, nil
}

// RevokeDevice implements [api.Administration].
func (a administration) RevokeDevice(ctx context.Context, nameOrID string) (api.Cut, error) {
	return a.revoke(ctx, control.RoleClient, nameOrID)
}

// revoke ends an identity: its knocks are unknown, its connections and sessions
// end, and its record says so.
func (a administration) revoke(ctx context.Context, role control.Role, nameOrID string) (api.Cut, error) {
	m, err := a.erase(role, nameOrID)
	if err != nil {
		return api.Cut{}, told(err)
	}
	a.log.Info("identity revoked", logkeys.Identity, m.ID, logkeys.Role, m.Role, logkeys.Name, m.Name)
	cut, err := a.rejudge(ctx)
	a.door.disconnect(m.ID, errRemoved) // a host's stream with it
	return cut, err
}

func (a administration) erase(role control.Role, nameOrID string) (identity.Machine, error) {
	d := a.directory
	d.change.Lock()
	defer d.change.Unlock()
	m, err := d.registry.Find(role, nameOrID)
	if err != nil {
		return identity.Machine{}, err
	}
	if m, err = d.registry.Revoke(m.ID, time.Now()); err != nil {
		return identity.Machine{}, err
	}
	d.putMachine(m)
	return m, nil
}

func (a administration) rejudge(ctx context.Context) (api.Cut, error) {
	n, confirmed, err := a.sessions.rejudge(ctx)
	return api.Cut{Sessions: n, Confirmed: confirmed}, err
}

// Hosts implements [api.Administration].
func (a administration) Hosts(context.Context) ([]api.HostInfo, error) {
	machines, err := a.directory.registry.Machines(control.RoleHost)
	if err != nil {
		return nil, err
	}
	counts := make(map[key.ID]int)
	for _, s := range a.sessions.list(key.ID{}) {
		counts[s.host]++
	}
	infos := []api.HostInfo{}
	for _, m := range machines {
		if !m.Revoked.IsZero() {
			continue
		}
		h := api.HostInfo{ID: m.ID, Name: m.Name, Created: m.Created, Sessions: counts[m.ID]}
		if l := a.sessions.online(m.ID); l != nil {
			h.Online, h.Since, h.Version = true, l.since.UTC(), l.hello.Version
			h.Addresses = l.addresses()
		}
		infos = append(infos, h)
	}
	slices.SortFunc(infos, func(a, b api.HostInfo) int { return cmp.Compare(a.Name, b.Name) })
	return infos, nil
}

// RemoveHost implements [api.Administration].
func (a administration) RemoveHost(ctx context.Context, nameOrID string) (api.Cut, error) {
	return a.revoke(ctx, control.RoleHost, nameOrID)
}

// AddService implements [api.Administration].
func (a administration) AddService(_ context.Context, r api.ServiceRequest) (api.ServiceInfo, error) {
	d := a.directory
	d.change.Lock()
	defer d.change.Unlock()
	host, err := d.registry.Find(control.RoleHost, r.Host)
	if err != nil {
		return api.ServiceInfo{}, told(err)
	}
	s := identity.Service{Name: r.Name, Host: host.ID, Target: r.Target, Access: r.Access.Resolved(),
		Listed: r.Listed, Created: time.Now().UTC()}
	if err := d.registry.AddService(s); err != nil {
		return api.ServiceInfo{}, told(err)
	}
	d.mu.Lock()
	d.services[s.Name] = s
	d.mu.Unlock()
	a.log.Info("service added", logkeys.Service, s.Name, logkeys.Host, s.Host, logkeys.Target, s.Target)
	return a.serviceInfo(s), nil
}

func (a administration) serviceInfo(s identity.Service) api.ServiceInfo {
	host, _ := a.directory.machine(s.Host)
	return api.ServiceInfo{
		Name: s.Name, Host: host.Name, Target: s.Target, Access: s.Access.Resolved(), Listed: s.Listed, Created: s.Created,
		Online: a.sessions.online(s.Host) != nil,
	}
}

// AllServices implements [api.Administration].
func (a administration) AllServices(context.Context) ([]api.ServiceInfo, error) {
	infos := []api.ServiceInfo{}
	for _, s := range a.directory.allServices() {
		infos = append(infos, a.serviceInfo(s))
	}
	slices.SortFunc(infos, func(a, b api.ServiceInfo) int { return cmp.Compare(a.Name, b.Name) })
	return infos, nil
}

// RemoveService implements [api.Administration].
func (a administration) RemoveService(ctx context.Context, name string) (api.Cut, error) {
	if err := a.dropService(name); err != nil {
		return api.Cut{}, told(err)
	}
	a.log.Info("service removed", logkeys.Service, name)
	return a.rejudge(ctx)
}

func (a administration) dropService(name string) error {
	d := a.directory
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.registry.RemoveService(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.services, name)
	return nil
}

// AddGrant implements [api.Administration].
func (a administration) AddGrant(ctx context.Context, r api.GrantRequest) error {
	err := a.changePolicy(func() error { return a.directory.book.Add(r.User, r.Service, r.For) })
	if err != nil {
		return told(err)
	}
	a.log.Info("grant added", logkeys.User, r.User, logkeys.Service, r.Service)
	_, err = a.rejudge(ctx) // it may have shortened an earlier one
	return err
}

func (a administration) changePolicy(change func() error) error {
	a.directory.change.Lock()
	defer a.directory.change.Unlock()
	if err := change(); err != nil {
		return err
	}
	return a.directory.compile(a.directory.inFile)
}

// Grants implements [api.Administration].
func (a administration) Grants(context.Context) ([]api.GrantInfo, error) {
	infos := []api.GrantInfo{}
	for _, g := range a.directory.policy.Load().Grants() {
		infos = append(infos, api.GrantInfo{Users: g.Users, Services: g.Services, For: g.For, From: g.Origin})
	}
	return infos, nil
}

// RemoveGrant implements [api.Administration].
func (a administration) RemoveGrant(ctx context.Context, r api.GrantRequest) (api.Cut, error) {
	err := a.changePolicy(func() error { return a.directory.book.Remove(r.User, r.Service) })
	if err != nil {
		return api.Cut{}, told(err)
	}
	a.log.Info("grant removed", logkeys.User, r.User, logkeys.Service, r.Service)
	return a.rejudge(ctx)
}

// AllSessions implements [api.Administration].
func (a administration) AllSessions(context.Context) ([]control.SessionInfo, error) {
	return a.sessionInfos(key.ID{}), nil
}

// RevokeSession implements [api.Administration].
func (a administration) RevokeSession(ctx context.Context, id key.ID) (api.Cut, error) {
	confirmed, err := a.sessions.close(ctx, id, key.ID{}, reasonRevoked)
	if err != nil {
		return api.Cut{}, told(err)
	}
	return api.Cut{Sessions: 1, Confirmed: confirmed}, nil
}

// ReloadPolicy implements [api.Administration]: the policy file is read again. A
// file with a fault changes nothing.
func (a administration) ReloadPolicy(ctx context.Context) (api.Cut, error) {
	a.directory.change.Lock()
	err := a.directory.readPolicy()
	a.directory.change.Unlock()
	if err != nil {
		return api.Cut{}, fmt.Errorf("%w: the old policy stays in force: %w", api.ErrInvalid, err)
	}
	cut, err := a.rejudge(ctx)
	a.log.Info("policy loaded", logkeys.Count, len(a.directory.policy.Load().Grants()))
	return cut, err
}
