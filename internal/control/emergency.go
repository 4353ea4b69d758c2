package control

import (
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// EmergencyEvent is a kind of thing that happened with emergency keys.
type EmergencyEvent string

// The events.
const (
	EmergencyCreated  EmergencyEvent = "created"  // a key was made
	EmergencyRevoked  EmergencyEvent = "revoked"  // a key was taken back
	EmergencyAccepted EmergencyEvent = "accepted" // a knock that the host opens its port for
	EmergencyRefused  EmergencyEvent = "refused"  // a valid knock, and the host was not alone
	EmergencyFailed   EmergencyEvent = "failed"   // the firewall could not be changed
	EmergencyClosed   EmergencyEvent = "closed"   // by command, before its deadline
)

// Valid reports whether e is one of the events.
func (e EmergencyEvent) Valid() bool {
	switch e {
	case EmergencyCreated, EmergencyRevoked, EmergencyAccepted, EmergencyRefused, EmergencyFailed,
		EmergencyClosed:
		return true
	}
	return false
}

// EmergencyRecord is one line of a host's emergency audit. It has no secret.
type EmergencyRecord struct {
	Sequence uint64         `json:"sequence"` // from 1, without gaps
	Time     time.Time      `json:"time"`     // by the host's own clock
	Event    EmergencyEvent `json:"event"`
	Key      key.ID         `json:"key"`
	Opening  key.ID         `json:"opening,omitzero"`
	Counter  uint64         `json:"counter,omitempty"`
	Service  string         `json:"service"`
	Port     ServicePort    `json:"port"`
	Source   netip.Addr     `json:"source,omitzero"`
	For      Duration       `json:"for,omitempty"`
	Until    time.Time      `json:"until,omitzero"` // by the host's own clock
	Note     string         `json:"note,omitempty"`
}

// EmergencyReport tells the controller of one record that it has not acknowledged.
// A host sends them in their order, again on each stream until each is acknowledged
// by a [Told].
type EmergencyReport struct {
	Record EmergencyRecord `json:"record"`
	Hash   string          `json:"hash"` // of the record's line in the host's chain, hexadecimal
}

// Told acknowledges all emergency records up to one.
type Told struct {
	Sequence uint64 `json:"sequence"`
}
