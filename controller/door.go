package controller

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	wideTTL       = 10 * time.Second // from the knock to the host knock
	connectTTL    = 10 * time.Second // from the first host knock to the connection
	exactTTL      = 60 * time.Second // of the pinhole while the connection lives
	exactRefresh  = 20 * time.Second
	maxAdmissions = 20_000
	maxPerCaller  = 16 // admissions of one identity
	maxSources    = 4  // of one admission: a client may try several addresses at once
	// maxConnections are live for one identity: each may have requests of megabytes.
	maxConnections = maxPerCaller
	// maxHostKnocks are valid for one admission: each is remembered for a while, and there
	// is room for so many of all callers together.
	maxHostKnocks = 256
)

// gate is the part of a [tunnel.Gate] that the door works.
type gate interface {
	Admit(source netip.AddrPort, session key.ID)
	Revoke(source netip.AddrPort)
}

// admission is one identity's way to the control port:
//
//	knocked ──host knock──> bound ──QUIC connection──> connected ──its end──> gone
//	   └─────10 s─────────────└──────────10 s────────────────────────────────^
type admission struct {
	id       key.ID
	identity key.ID
	wide     netip.Addr // whom the wide pinhole is for; invalid once narrowed
	until    time.Time  // for host knocks, and for sources to connect
	knocks   int        // valid host knocks so far
	// sources are those that host knocks came from, with what ends the connection;
	// nil until there is one.
	sources map[netip.AddrPort]func(error)
}

// door is the control port's: nothing reaches QUIC there before it has knocked.
type door struct {
	firewall firewall.Firewall // nil: none is kept
	rules    rulesFunc         // set by install
	table    *spa.Table[key.HostKnock]
	receiver *spa.HostKnockReceiver
	log      *slog.Logger
	counters *counters

	mu         sync.Mutex // guards what follows and serialises host knocks
	gate       gate
	port       uint16 // set once, before the first knock is read
	admissions map[key.ID]*admission
	callers    map[key.ID]int     // admissions of each identity
	connected  map[key.ID]int     // connections of each identity
	wide       map[netip.Addr]int // admissions that need the wide pinhole
	sources    map[netip.AddrPort]*admission
}

func newDoor(self key.ID, fw firewall.Firewall, guard spa.Guard, counters *counters,
	log *slog.Logger) *door {
	table := spa.NewTable[key.HostKnock](time.Now())
	return &door{
		firewall: fw, table: table, log: log, counters: counters,
		receiver:   spa.NewHostKnockReceiver(self, table, guard),
		admissions: make(map[key.ID]*admission),
		callers:    make(map[key.ID]int),
		connected:  make(map[key.ID]int),
		wide:       make(map[netip.Addr]int),
		sources:    make(map[netip.AddrPort]*admission),
	}
}

// open tells the door its gate. Before, nobody is let in.
func (d *door) open(g gate, port uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gate, d.port = g, port
}

// pass is what the knocker needs to come in.
type pass struct {
	session  key.ID
	knock    key.HostKnock
	deadline time.Time
}

// admit opens the wide pinhole for source and waits for the host knock.
func (d *door) admit(ctx context.Context, identity key.ID, source netip.Addr,
	now time.Time) (pass, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.callers[identity] >= maxPerCaller || len(d.admissions) >= maxAdmissions {
		return pass{}, errBusy
	}
	source = source.Unmap().WithZone("")
	wide := d.pinhole(netip.AddrPortFrom(source, 0), wideTTL)
	if err := d.applyLocked(ctx, firewall.Change{Open: []firewall.Pinhole{wide}}); err != nil {
		return pass{}, err
	}
	a := &admission{
		id: key.NewID(), identity: identity, wide: source, until: now.Add(wideTTL),
		sources: make(map[netip.AddrPort]func(error)),
	}
	secret := key.NewHostKnock()
	d.table.Put(a.id, secret)
	d.admissions[a.id] = a
	d.callers[identity]++
	d.wide[source]++
	return pass{session: a.id, knock: secret, deadline: a.until}, nil
}

// hostKnock is the gate's [tunnel.KnockFunc], and capture's too. It reports
// whether the datagram is a host knock, valid or not. The lock is held from the
// check to the admission: the same datagram, read by capture and by the socket,
// is let in once, and the reader that comes second goes on only when the source
// is in.
func (d *door) hostKnock(datagram []byte, source, _ netip.AddrPort) bool {
	now := time.Now()
	if !d.receiver.MayBeKnock(datagram, now) {
		return false
	}
	source = netip.AddrPortFrom(source.Addr().Unmap().WithZone(""), source.Port())
	d.mu.Lock()
	defer d.mu.Unlock()
	id, reason := d.receiver.Receive(datagram, now)
	d.counters.hostKnock(reason)
	if a := d.admissions[id]; reason == spa.ReasonOK && a != nil && d.gate != nil {
		if a.knocks++; a.knocks >= maxHostKnocks {
			d.table.Remove(a.id)
		}
		d.bindLocked(a, source, now)
	}
	return true // a knock all the same, and not QUIC's
}

// bindLocked lets source in for a, and narrows the pinhole to it.
func (d *door) bindLocked(a *admission, source netip.AddrPort, now time.Time) {
	_, bound := a.sources[source]
	switch {
	case bound && !a.wide.IsValid():
		return // it is in: one that says so in a flood has no work done for it
	case !bound && (len(a.sources) >= maxSources || now.After(a.until)):
		return
	}
	var change firewall.Change
	if other := d.sources[source]; other != nil && other != a {
		// A source has one admission. Nobody can push a live connection of another
		// identity out by a forged source.
		if other.sources[source] != nil && other.identity != a.identity {
			return
		}
		d.unbindLocked(other, source, &change, errReplaced)
	}
	if a.wide.IsValid() {
		d.narrowLocked(a, &change)
		a.until = now.Add(connectTTL)
	}
	change.Revoke = withoutOpening(change.Revoke, d.pinhole(source, exactTTL))
	change.Open = []firewall.Pinhole{d.pinhole(source, exactTTL)}
	d.applyLoggedLocked(change)
	if !bound {
		a.sources[source] = nil
		d.sources[source] = a
		d.gate.Admit(source, a.id)
	}
}

// narrowLocked gives up a's need of the wide pinhole, which is shut when nobody
// else behind the same address waits for it.
func (d *door) narrowLocked(a *admission, change *firewall.Change) {
	if !a.wide.IsValid() {
		return
	}
	if d.wide[a.wide]--; d.wide[a.wide] <= 0 {
		delete(d.wide, a.wide)
		change.Revoke = append(change.Revoke, d.pinhole(netip.AddrPortFrom(a.wide, 0), 0))
	}
	a.wide = netip.Addr{}
}

// unbindLocked shuts source out again and ends its connection.
func (d *door) unbindLocked(a *admission, source netip.AddrPort, change *firewall.Change,
	cause error) {
	disconnect, bound := a.sources[source]
	if !bound {
		return
	}
	if disconnect != nil {
		disconnect(cause)
		if d.connected[a.identity]--; d.connected[a.identity] <= 0 {
			delete(d.connected, a.identity)
		}
	}
	delete(a.sources, source)
	delete(d.sources, source)
	d.gate.Revoke(source)
	change.Revoke = append(change.Revoke, d.pinhole(source, 0))
}

// forgetLocked ends the admission and its connections.
func (d *door) forgetLocked(a *admission, change *firewall.Change, cause error) {
	if d.admissions[a.id] != a {
		return
	}
	delete(d.admissions, a.id)
	d.table.Remove(a.id)
	if d.callers[a.identity]--; d.callers[a.identity] <= 0 {
		delete(d.callers, a.identity)
	}
	d.narrowLocked(a, change)
	for source := range a.sources {
		d.unbindLocked(a, source, change, cause)
	}
}

// Connected implements [api.Door].
func (d *door) Connected(source netip.AddrPort, disconnect func(error)) (key.ID, func(), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.sources[source]
	if a == nil || a.sources[source] != nil {
		return key.ID{}, nil, errNoDoor
	}
	if d.connected[a.identity] >= maxConnections {
		return key.ID{}, nil, errBusy
	}
	d.connected[a.identity]++
	a.sources[source] = disconnect
	return a.identity, func() { d.gone(a, source) }, nil
}

// gone takes note that the connection from source ended.
func (d *door) gone(a *admission, source netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sources[source] != a {
		return // shut out already
	}
	var change firewall.Change
	d.unbindLocked(a, source, &change, nil)
	if len(a.sources) == 0 {
		d.forgetLocked(a, &change, nil)
	}
	d.applyLoggedLocked(change)
}

// disconnect ends every admission and connection of an identity.
func (d *door) disconnect(identity key.ID, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var change firewall.Change
	for _, a := range d.admissions {
		if a.identity == identity {
			d.forgetLocked(a, &change, cause)
		}
	}
	d.applyLoggedLocked(change)
}

// sweep shuts out what did not connect in time.
func (d *door) sweep(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var change firewall.Change
	for _, a := range d.admissions {
		if !now.After(a.until) {
			continue
		}
		for source, disconnect := range a.sources {
			if disconnect == nil {
				d.unbindLocked(a, source, &change, errNoDoor)
			}
		}
		if len(a.sources) == 0 {
			d.forgetLocked(a, &change, errNoDoor)
		}
	}
	d.applyLoggedLocked(change)
}

// refresh prolongs the pinholes of the connections that live. When nobody does
// so any more, the kernel shuts them.
func (d *door) refresh() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var change firewall.Change
	for source, a := range d.sources {
		if a.sources[source] != nil {
			change.Open = append(change.Open, d.pinhole(source, exactTTL))
		}
	}
	d.applyLoggedLocked(change)
}
