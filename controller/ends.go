package controller

import (
	"maps"
	"slices"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

const (
	endedGrace = time.Hour // how long past its deadline an end is remembered
	// maxHostEnds is how many ends one host may owe the acknowledgement of. An honest
	// one owes those of a moment, or of the time that it was away.
	maxHostEnds = 4 * maxHostSessions
)

// ends are the sessions that are over here and that a host might still report as
// live. A host that has acknowledged the end has it on disk: it is forgotten, or
// opening and closing without end would fill memory and disk. What an administrator
// revoked is remembered all the same, for a host that is set back to an earlier state.
type ends struct {
	revoked map[key.ID]time.Time // until when
	owed    map[key.ID]map[key.ID]time.Time
}

func newEnds() ends {
	return ends{revoked: make(map[key.ID]time.Time), owed: make(map[key.ID]map[key.ID]time.Time)}
}

func (e ends) add(host, id key.ID, reason string, until time.Time) {
	if reason == reasonRevoked {
		e.revoked[id] = until
		return
	}
	if e.owed[host] == nil {
		e.owed[host] = make(map[key.ID]time.Time)
	}
	e.owed[host][id] = until
}

func (e ends) has(host, id key.ID) bool {
	_, revoked := e.revoked[id]
	_, owed := e.owed[host][id]
	return revoked || owed
}

// full reports whether the host owes so much that no more is to be begun with it.
func (e ends) full(host key.ID) bool { return len(e.owed[host]) >= maxHostEnds }

// owedBy lists what the host has not acknowledged.
func (e ends) owedBy(host key.ID) []key.ID { return slices.Collect(maps.Keys(e.owed[host])) }

// settle forgets those of ids that the host owes, and returns them.
func (e ends) settle(host key.ID, ids []key.ID) (settled []key.ID) {
	for _, id := range ids {
		if _, owed := e.owed[host][id]; owed {
			delete(e.owed[host], id)
			settled = append(settled, id)
		}
	}
	if len(e.owed[host]) == 0 {
		delete(e.owed, host)
	}
	return settled
}

// expire forgets what nobody can report any more, and returns it.
func (e ends) expire(now time.Time) (gone []key.ID) {
	over := func(id key.ID, until time.Time) bool {
		if !now.After(until) {
			return false
		}
		gone = append(gone, id)
		return true
	}
	maps.DeleteFunc(e.revoked, over)
	for host, owed := range e.owed {
		if maps.DeleteFunc(owed, over); len(owed) == 0 {
			delete(e.owed, host)
		}
	}
	return gone
}
