package spa

import "fmt"

// Reason says why a receiver took or dropped a datagram. It is for counters and
// logs; no sender ever learns it. The zero Reason is a rejection.
type Reason uint8

// The reasons, in the order in which the checks run, but for the last two.
const (
	ReasonNone   Reason = 0 // not checked
	ReasonSize   Reason = 1 // not 256 bytes
	ReasonHint   Reason = 2 // no such device or session in an acceptable epoch
	ReasonMAC    Reason = 3 // not from who the hint names, or not for this audience
	ReasonReplay Reason = 4 // accepted before, or its epoch is closed
	ReasonSeal   Reason = 5 // the body does not open
	ReasonBody   Reason = 6 // the body is malformed
	ReasonOwner  Reason = 7 // the body names another device or session than the hint
	ReasonTime   Reason = 8 // too far from the receiver's clock
	ReasonOK     Reason = 9 // accepted

	ReasonSignature Reason = 10 // of emergency knocks only, last: not made with the emergency key itself
	ReasonPace      Reason = 11 // after the MAC: too many of one identity or session
)

// ReasonCount is how many reasons there are.
const ReasonCount = 12

// String returns the counter's label.
func (r Reason) String() string {
	names := [ReasonCount]string{
		"none", "size", "hint", "mac", "replay", "seal", "body", "owner", "time", "ok",
		"signature", "pace",
	}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}
