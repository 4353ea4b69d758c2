package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// Bounds of what is kept. A Sync of maxHostSessions fits into control.MaxBody.
const (
	maxSessions       = 100_000
	maxHostSessions   = 1_000
	maxDeviceSessions = 64
	rejudgeBatch      = 256 // sessions judged under one hold of the lock
)

// Reasons for which sessions end, as hosts and clients are told.
const (
	reasonExpired = "expired"
	reasonRevoked = "revoked"
	reasonOwner   = "closed by its owner"
	reasonUnheld  = "the host did not confirm it"
)

// verdict is a yes: on whose behalf, where, until when.
type verdict struct {
	user   string
	host   key.ID
	target string
	access control.Access // resolved
	until  time.Time
}

// judge decides from identities, services and policy as they are now. It does
// no waiting: it is called under the lock of [sessions].
type judge interface {
	judge(device key.ID, service string, asked time.Duration, now time.Time) (verdict, bool)
}

// sessions are all live accesses and the hosts' links.
//
// Whatever changes a session, changes the map and queues the host's order under
// one hold of the lock: a host reads the changes in the order they were made.
type sessions struct {
	judge  judge
	ledger *ledger
	log    *slog.Logger

	mu       sync.Mutex // guards what follows
	byID     map[key.ID]*session
	byHost   map[key.ID]map[key.ID]*session
	byDevice map[key.ID]map[key.ID]*session
	ends     ends
	links    map[key.ID]*link
	// rules grows with each change of policy, identities and services. A verdict
	// of older rules is never acted on.
	rules uint64
}

func newSessions(j judge, ledger *ledger, log *slog.Logger) *sessions {
	return &sessions{
		judge: j, ledger: ledger, log: log,
		byID:     make(map[key.ID]*session),
		byHost:   make(map[key.ID]map[key.ID]*session),
		byDevice: make(map[key.ID]map[key.ID]*session),
		ends:     newEnds(),
		links:    make(map[key.ID]*link),
	}
}

// restore takes over what an earlier run recorded.
func (m *sessions) restore(records []record, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		if r.Ended != "" {
			m.ends.add(r.Host, r.ID, r.Ended, now.Add(r.Deadline.Add(endedGrace).Sub(now)))
			continue
		}
		m.addLocked(r.session(now))
	}
}

func (m *sessions) addLocked(s *session) {
	m.byID[s.id] = s
	index(m.byHost, s.host, s)
	index(m.byDevice, s.device, s)
}

func (m *sessions) removeLocked(s *session) {
	delete(m.byID, s.id)
	unindex(m.byHost, s.host, s)
	unindex(m.byDevice, s.device, s)
}

func index(by map[key.ID]map[key.ID]*session, of key.ID, s *session) {
	if by[of] == nil {
		by[of] = make(map[key.ID]*session)
	}
	by[of][s.id] = s
}

func unindex(by map[key.ID]map[key.ID]*session, of key.ID, s *session) {
	if delete(by[of], s.id); len(by[of]) == 0 {
		delete(by, of)
	}
}

// ownLocked counts the sessions that the device asked for itself: what a host reports
// in its name takes none of its room.
func (m *sessions) ownLocked(device key.ID) (n int) {
	for _, s := range m.byDevice[device] {
		if !s.adopted {
			n++
		}
	}
	return n
}

// opened is what a grant needs to know.
type opened struct {
	session   key.ID
	host      key.ID
	user      string
	deadline  time.Time
	knock     key.HostKnock
	addresses []netip.AddrPort // of the tunnel's end
	target    string
	access    control.Access
}

// ask is a client's wish for an access.
type ask struct {
	device   key.ID
	service  string
	source   netip.Addr
	duration time.Duration // 0: policy's
	renew    key.ID        // zero: a new session
}

// open grants a session that the host has acknowledged, or renews one.
func (m *sessions) open(ctx context.Context, a ask) (opened, error) {
	for {
		m.mu.Lock()
		rules := m.rules
		m.mu.Unlock()
		now := time.Now()
		v, ok := m.judge.judge(a.device, a.service, a.duration, now)
		if !ok || !v.until.After(now) {
			return opened{}, errDenied
		}
		s, t, err := m.place(a, v, rules, now)
		if errors.Is(err, errRules) {
			continue
		}
		if err != nil {
			return opened{}, err
		}
		err = t.wait(ctx, orderTimeout)
		return m.settle(s, t.link, err)
	}
}

// errRules asks for another verdict: the rules changed since.
var errRules = errors.New("the rules changed")

// place enters the session, or its renewal, and orders it from the host.
func (m *sessions) place(a ask, v verdict, rules uint64, now time.Time) (*session, ticket, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rules != rules {
		return nil, ticket{}, errRules
	}
	l := m.links[v.host]
	s, err := m.pickLocked(a, v, now)
	if err != nil {
		return nil, ticket{}, err
	}
	if l == nil {
		return nil, ticket{}, errOffline
	}
	order := s.order(v.until)
	order.Source, order.Target, order.Access = a.source, v.target, v.access
	t, err := l.send(control.ToHost{Open: &order})
	if err != nil {
		return nil, ticket{}, errOffline
	}
	s.ordered, s.source, s.target, s.access = v.until, a.source, v.target, v.access
	if s.state == opening {
		m.addLocked(s)
	} else {
		s.renewing = true
	}
	return s, t, nil
}

// pickLocked returns the session to renew, or a new one that is in no map yet.
func (m *sessions) pickLocked(a ask, v verdict, now time.Time) (*session, error) {
	if !a.renew.IsZero() {
		s := m.byID[a.renew]
		if s == nil || s.device != a.device || s.service != a.service || s.host != v.host ||
			s.state != live || !now.Before(s.deadline) {
			return nil, errUnknownSession
		}
		if s.renewing {
			return nil, errBusy
		}
		return s, nil
	}
	if m.crowdedLocked(v.host) || m.ownLocked(a.device) >= maxDeviceSessions {
		return nil, errBusy
	}
	return &session{
		id: key.NewID(), device: a.device, user: v.user, service: a.service, host: v.host,
		target: v.target, access: v.access, source: a.source, started: now, deadline: v.until,
		knock: key.NewHostKnock(), state: opening,
	}, nil
}

// settle makes the ordered session, or its renewal, valid if the host said yes
// on the stream that is still the host's.
func (m *sessions) settle(s *session, l *link, answer error) (opened, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.renewing = false
	if s.state == ended {
		return opened{}, errDenied // revoked while the host answered
	}
	if answer == nil && m.links[s.host] != l {
		answer = errOffline
	}
	if answer != nil {
		if s.state == opening {
			m.endLocked(s, reasonUnheld).forget()
		} else {
			s.ordered = s.deadline
		}
		return opened{}, answer
	}
	s.state, s.deadline = live, s.ordered
	m.ledger.put(s.record())
	return opened{
		session: s.id, host: s.host, user: s.user, deadline: s.deadline, knock: s.knock,
		addresses: l.addresses(), target: s.target, access: s.access,
	}, nil
}

// endLocked ends s here, tells the host, and leaves the record to the ledger.
// The ticket is zero when the host has no stream.
func (m *sessions) endLocked(s *session, reason string) ticket {
	m.finishLocked(s, reason)
	l := m.links[s.host]
	if l == nil {
		return ticket{}
	}
	t, err := l.send(control.ToHost{Close: &control.CloseHost{Session: s.id, Reason: reason}}, s.id)
	if err != nil {
		return ticket{}
	}
	return t
}

// finishLocked is endLocked without a word to the host.
func (m *sessions) finishLocked(s *session, reason string) {
	s.state = ended
	m.removeLocked(s)
	last := s.deadline
	if s.ordered.After(last) {
		last = s.ordered
	}
	m.ends.add(s.host, s.id, reason, last.Add(endedGrace))
	m.ledger.put(s.endedRecord(reason))
	m.log.Info("session ended", logkeys.Session, s.id, logkeys.User, s.user, logkeys.Service,
		s.service, logkeys.Reason, reason)
}

// ending waits for what must be true before an end is acknowledged: it is on
// disk. It reports whether each host confirmed too, within its time; one that is
// away ends the session when it is back, or at the deadline.
func (m *sessions) ending(ctx context.Context, tickets []ticket) (confirmed bool, err error) {
	confirmed = true
	limit := time.Now().Add(orderTimeout)
	for _, t := range tickets {
		if t.link == nil {
			confirmed = false
		} else if err := t.wait(ctx, time.Until(limit)); err != nil {
			confirmed = false
		}
	}
	return confirmed, m.ledger.sync(ctx)
}

// close ends one session; owner, if not zero, is the device it must belong to.
func (m *sessions) close(ctx context.Context, id, owner key.ID,
	reason string) (confirmed bool, err error) {
	m.mu.Lock()
	s := m.byID[id]
	if s == nil || !owner.IsZero() && s.device != owner {
		m.mu.Unlock()
		return false, errUnknownSession
	}
	t := m.endLocked(s, reason)
	m.mu.Unlock()
	return m.ending(ctx, []ticket{t})
}

// endedByHost takes note that a host ended one of its own sessions. The order to close
// it is for the host's acknowledgement, which says that it is on the host's disk.
func (m *sessions) endedByHost(host key.ID, e control.Ended) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.byHost[host][e.Session]; s != nil {
		m.endLocked(s, "by the host: "+printable(e.Reason)).forget()
	}
}

// settled takes note that the host has ends on its disk.
func (m *sessions) settled(host key.ID, ids []key.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.ends.settle(host, ids) {
		m.ledger.drop(id)
	}
}

// rejudge asks the rules as they are now about every session and ends those
// that no longer hold, or shortens them. Call it after each change of policy,
// identities or services; it returns when the ends are on disk.
func (m *sessions) rejudge(ctx context.Context) (cut int, confirmed bool, err error) {
	m.mu.Lock()
	m.rules++ // from here on no verdict of the old rules opens anything
	ids := make([]key.ID, 0, len(m.byID))
	for id := range m.byID {
		ids = append(ids, id)
	}
	m.mu.Unlock()
	var tickets []ticket
	for batch := range slices.Chunk(ids, rejudgeBatch) {
		tickets = append(tickets, m.rejudgeBatch(batch)...)
	}
	confirmed, err = m.ending(ctx, tickets)
	return len(tickets), confirmed, err
}

func (m *sessions) rejudgeBatch(ids []key.ID) (tickets []ticket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, id := range ids {
		s := m.byID[id]
		if s == nil || !s.ordered.After(now) {
			continue // the sweep's
		}
		v, ok := m.judge.judge(s.device, s.service, 0, now)
		if !ok || v.host != s.host || v.target != s.target || v.access != s.access || v.user != s.user {
			tickets = append(tickets, m.endLocked(s, reasonRevoked))
			continue
		}
		if v.until.Before(s.ordered) {
			m.shortenLocked(s, v.until)
		}
	}
	return tickets
}

func (m *sessions) shortenLocked(s *session, until time.Time) {
	s.ordered = until
	if s.deadline.After(until) {
		s.deadline = until
	}
	if s.state == live {
		m.ledger.put(s.record())
	}
	if l := m.links[s.host]; l != nil {
		order := s.order(until)
		l.post(control.ToHost{Open: &order})
	}
}

// sweep ends what is past its deadline and forgets old ends. The host's kernel
// has shut the door by itself; this is the book-keeping.
func (m *sessions) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.byID {
		if s.over(now) {
			m.endLocked(s, reasonExpired).forget()
		}
	}
	for _, id := range m.ends.expire(now) {
		m.ledger.drop(id)
	}
}

// list returns copies of the live sessions, oldest first: all, or those of a device.
func (m *sessions) list(device key.ID) []session {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.byID
	if !device.IsZero() {
		all = m.byDevice[device]
	}
	var out []session
	for _, s := range all {
		if s.state == live {
			out = append(out, *s)
		}
	}
	slices.SortFunc(out, func(a, b session) int { return a.started.Compare(b.started) })
	return out
}

// count returns the numbers of live sessions and of hosts that are connected.
func (m *sessions) count() (sessions, hosts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.byID), len(m.links)
}
