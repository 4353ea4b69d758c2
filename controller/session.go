package controller

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// state of a session:
//
//	opening ──ack──> live ──deadline, revocation, owner, host──> ended
//	   └──────────no ack, revocation─────────────────────────────^
type state uint8

const (
	opening state = 1
	live    state = 2
	ended   state = 3
)

// session is one access, guarded by the lock of the [sessions] that holds it.
// Its times carry the monotonic clock.
type session struct {
	id       key.ID
	device   key.ID
	user     string
	service  string
	host     key.ID
	target   string
	access   control.Access // resolved
	source   netip.Addr
	started  time.Time
	deadline time.Time // as the host acknowledged it
	knock    key.HostKnock

	state state
	// ordered is the deadline last ordered from the host: deadline, unless a
	// renewal waits for its acknowledgement.
	ordered  time.Time
	renewing bool
	adopted  bool // reported by its host, and not known here before
}

// order returns what the host is told. The TTL is filled in when it is written.
func (s *session) order(deadline time.Time) control.Session {
	return control.Session{
		ID: s.id, Device: s.device, Service: s.service, Target: s.target, Access: s.access, Source: s.source,
		Deadline: deadline, Knock: control.HostKnockText{HostKnock: s.knock},
	}
}

// over reports whether nothing that was ordered for s can still be open.
func (s *session) over(now time.Time) bool {
	return !now.Before(s.deadline) && !now.Before(s.ordered)
}

// record is a session in the store: a live one with its secret, or the note that
// it has ended.
type record struct {
	ID      key.ID `json:"id"`
	Device  key.ID `json:"device"`
	User    string `json:"user"`
	Service string `json:"service"`
	Host    key.ID `json:"host"`
	Target  string `json:"target"`
	control.Access
	Source   netip.Addr             `json:"source"`
	Started  time.Time              `json:"started"`
	Deadline time.Time              `json:"deadline"`
	Knock    *control.HostKnockText `json:"knock,omitempty"`
	Ended    string                 `json:"ended,omitempty"` // the reason; empty while live
	Adopted  bool                   `json:"adopted,omitempty"`
}

func (s *session) record() record {
	return record{
		ID: s.id, Device: s.device, User: s.user, Service: s.service, Host: s.host,
		Target: s.target, Access: s.access, Source: s.source, Started: s.started, Deadline: s.deadline,
		Knock: &control.HostKnockText{HostKnock: s.knock}, Adopted: s.adopted,
	}
}

// endedRecord has no secret any more.
func (s *session) endedRecord(reason string) record {
	r := s.record()
	r.Knock, r.Ended = nil, reason
	return r
}

// session returns a live record's session. The time left is counted on the
// monotonic clock from now on.
func (r record) session(now time.Time) *session {
	deadline := now.Add(r.Deadline.Sub(now))
	return &session{
		id: r.ID, device: r.Device, user: r.User, service: r.Service, host: r.Host,
		target: r.Target, access: r.Access.Resolved(), source: r.Source, started: r.Started, deadline: deadline,
		knock: r.Knock.HostKnock, state: live, ordered: deadline,
		adopted: r.Adopted,
	}
}

// parseRecord refuses what it did not write itself, so that a damaged store is
// noticed at the start and not overwritten.
func parseRecord(id string, value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return record{}, fmt.Errorf("session record %s: %w", id, store.ErrCorrupt)
	}
	if r.ID.String() != id || r.Ended == "" && (r.Knock == nil || r.Knock.IsZero()) {
		return record{}, fmt.Errorf("session record %s: %w", id, store.ErrCorrupt)
	}
	return r, nil
}
