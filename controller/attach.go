package controller

import (
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// attach makes l the host's stream, in the place of an older one, and queues the
// Sync: the sessions that are live here, and those of reported that were not
// known but hold by today's policy.
func (m *sessions) attach(l *link, reported []control.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.links[l.host]; old != nil {
		old.cancel(errReplaced)
	}
	m.links[l.host] = l
	refused := 0
	for _, r := range reported {
		if !m.adoptLocked(l.host, r, time.Now()) {
			refused++
		}
	}
	if refused > 0 {
		m.log.Info("sessions of a host not adopted", logkeys.Count, refused, logkeys.Host, l.host)
	}
	sync := control.Sync{}
	for _, s := range m.byHost[l.host] {
		if s.state == live { // one that is opening failed with the stream before
			sync.Sessions = append(sync.Sessions, s.order(s.deadline))
		}
	}
	if t, err := l.send(control.ToHost{Sync: &sync}, m.ends.owedBy(l.host)...); err == nil {
		t.forget()
	}
}

// adoptLocked judges a session that the host serves and nobody here knows: the
// controller died before it was written. It reports whether it is known now, or is
// over here.
func (m *sessions) adoptLocked(host key.ID, r control.Session, now time.Time) bool {
	if m.byID[r.ID] != nil || m.ends.has(host, r.ID) || r.TTL <= 0 {
		return true
	}
	v, ok := m.judge.judge(r.Device, r.Service, 0, now)
	if !ok || v.host != host || v.target != r.Target || v.access != r.Access.Resolved() ||
		r.ID.IsZero() || r.Knock.IsZero() || m.crowdedLocked(host) {
		return false
	}
	deadline := now.Add(time.Duration(r.TTL))
	if v.until.Before(deadline) {
		deadline = v.until
	}
	s := &session{
		id: r.ID, device: r.Device, user: v.user, service: r.Service, host: host, target: v.target, access: v.access,
		source: r.Source.Unmap().WithZone(""), started: now, deadline: deadline, ordered: deadline,
		knock: r.Knock.HostKnock, state: live, adopted: true,
	}
	m.addLocked(s)
	m.ledger.put(s.record())
	m.log.Info("session of a host adopted", logkeys.Session, r.ID, logkeys.User, v.user,
		logkeys.Host, host)
	return true
}

// crowdedLocked reports whether there is no room for another session of the host, or no
// time to write it.
func (m *sessions) crowdedLocked(host key.ID) bool {
	return len(m.byID) >= maxSessions || len(m.byHost[host]) >= maxHostSessions || m.ends.full(host) ||
		m.ledger.behind()
}

// detach forgets l, unless a newer stream took its place.
func (m *sessions) detach(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.links[l.host] == l {
		delete(m.links, l.host)
	}
}

// online returns the host's link, or nil.
func (m *sessions) online(host key.ID) *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.links[host]
}
