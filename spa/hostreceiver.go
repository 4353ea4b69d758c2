package spa

import (
	"encoding/binary"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

// HostKnockReceiver is the host's end of the host knock. It is safe for
// concurrent use.
type HostKnockReceiver struct {
	audience string
	table    *Table[key.HostKnock]
	guard    Guard
}

// NewHostKnockReceiver returns a receiver of host knocks for the host of that id.
func NewHostKnockReceiver(host key.ID, table *Table[key.HostKnock],
	guard Guard) *HostKnockReceiver {
	return &HostKnockReceiver{host.String(), table, guard}
}

// MayBeKnock reports whether the datagram has a host knock's length and a known
// hint. It costs a look-up.
func (v *HostKnockReceiver) MayBeKnock(datagram []byte, now time.Time) bool {
	if len(datagram) != Size {
		return false
	}
	_, ok := v.table.lookup(binary.BigEndian.Uint64(datagram), now)
	return ok
}

// Receive checks a datagram at the receiver's time now and returns the session
// it opens for its sender. On any reason but [ReasonOK] the session is zero.
func (v *HostKnockReceiver) Receive(datagram []byte, now time.Time) (key.ID, Reason) {
	if len(datagram) != Size {
		return key.ID{}, ReasonSize
	}
	found, ok := v.table.lookup(binary.BigEndian.Uint64(datagram), now)
	if !ok {
		return key.ID{}, ReasonHint
	}
	mac := [macSize]byte(datagram[authenticated:])
	if !macOK(found.key.MACKey(), datagram, v.audience) {
		return key.ID{}, ReasonMAC
	}
	if reason := admit(v.guard, found.epoch, &mac, found.pace, now); reason != ReasonOK {
		return key.ID{}, reason
	}
	plain := v.open(found.key, datagram)
	if plain == nil {
		return key.ID{}, ReasonSeal
	}
	session, t, ok := parseHostBody(plain)
	switch {
	case !ok:
		return key.ID{}, ReasonBody
	case session != found.id:
		return key.ID{}, ReasonOwner
	case !fresh(t, now):
		return key.ID{}, ReasonTime
	}
	return session, ReasonOK
}

func (v *HostKnockReceiver) open(k key.HostKnock, datagram []byte) []byte {
	aead, err := chacha20poly1305.NewX(k.SealKey().AEADKey()[:])
	if err != nil {
		return nil
	}
	rest := datagram[hintSize:authenticated]
	plain, err := aead.Open(nil, rest[:nonceSize], rest[nonceSize:],
		bodyData(datagram[:hintSize], v.audience))
	if err != nil {
		return nil
	}
	return plain
}
