package host

import (
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/spa/key"
)

// drift is how far the kernel's time left may be from the books' before
// reconciling corrects it.
const drift = 2 * time.Second

// claim is a session's right to one opening until a time on the boot clock.
type claim struct {
	opening firewall.Pinhole // without TTL
	until   time.Duration
}

// pinholes are the books of what is to be open in the kernel. Several sessions
// may claim one opening, as two devices behind one address do: it stays for the
// longest of its claims. Only the owner goroutine uses them.
type pinholes struct {
	claims map[key.ID][]claim
	owners map[firewall.Pinhole]map[key.ID]time.Duration
}

func newPinholes() *pinholes {
	return &pinholes{
		claims: make(map[key.ID][]claim),
		owners: make(map[firewall.Pinhole]map[key.ID]time.Duration),
	}
}

// replace makes want the claims of the sessions in it, none for an empty slice,
// and returns the one change that brings the kernel there: what a session claimed
// before goes in the same transaction. PROTOCOL 5.2
func (p *pinholes) replace(want map[key.ID][]claim, now time.Duration) firewall.Change {
	before := make(map[firewall.Pinhole]time.Duration)
	touch := func(opening firewall.Pinhole) {
		if _, known := before[opening]; !known {
			before[opening] = p.until(opening)
		}
	}
	for id, claims := range want {
		for _, c := range p.claims[id] {
			touch(c.opening)
			p.drop(id, c.opening)
		}
		delete(p.claims, id)
		for _, c := range claims {
			touch(c.opening)
			if c.until > now {
				p.add(id, c)
			}
		}
	}
	var change firewall.Change
	for opening, was := range before {
		switch until := p.until(opening); {
		case until <= now:
			change.Revoke = append(change.Revoke, opening)
		case until != was:
			change.Open = append(change.Open, timed(opening, until-now))
		}
	}
	return change
}

func (p *pinholes) add(id key.ID, c claim) {
	p.claims[id] = append(p.claims[id], c)
	if p.owners[c.opening] == nil {
		p.owners[c.opening] = make(map[key.ID]time.Duration)
	}
	p.owners[c.opening][id] = c.until
}

func (p *pinholes) drop(id key.ID, opening firewall.Pinhole) {
	delete(p.owners[opening], id)
	if len(p.owners[opening]) == 0 {
		delete(p.owners, opening)
	}
}

// until returns the latest claim on an opening, 0 when there is none.
func (p *pinholes) until(opening firewall.Pinhole) time.Duration {
	var latest time.Duration
	for _, until := range p.owners[opening] {
		latest = max(latest, until)
	}
	return latest
}

// of returns a copy of a session's claims.
func (p *pinholes) of(id key.ID) []claim { return append([]claim(nil), p.claims[id]...) }

// all returns every opening that is claimed now, with its time left.
func (p *pinholes) all(now time.Duration) []firewall.Pinhole {
	var open []firewall.Pinhole
	for opening := range p.owners {
		if until := p.until(opening); until > now {
			open = append(open, timed(opening, until-now))
		}
	}
	return open
}

// reconcile returns the change that brings what the kernel holds to the books.
func (p *pinholes) reconcile(kernel []firewall.Pinhole, now time.Duration) firewall.Change {
	var change firewall.Change
	held := make(map[firewall.Pinhole]bool, len(kernel))
	for _, k := range kernel {
		opening := k.Opening()
		held[opening] = true
		left := p.until(opening) - now
		switch off := k.TTL - left; {
		case left <= 0:
			change.Revoke = append(change.Revoke, opening)
		case off > drift || off < -drift:
			change.Open = append(change.Open, timed(opening, left))
		}
	}
	for _, open := range p.all(now) {
		if !held[open.Opening()] {
			change.Open = append(change.Open, open)
		}
	}
	return change
}

func timed(opening firewall.Pinhole, ttl time.Duration) firewall.Pinhole {
	opening.TTL = ttl
	return opening
}
