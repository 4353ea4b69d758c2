package listen

import (
	"fmt"
	"net/netip"
)

// MaxLength is the longest payload, in bytes, that a listener can be made for:
// what fits an IPv6 packet of 1280 bytes, the least that every link carries
// (RFC 8200, section 5).
const MaxLength = 1280 - 40 - udpHeaderSize

// Packet is one received datagram.
type Packet struct {
	// Data is the UDP payload. It is valid until the next ReadBatch.
	Data []byte
	// Source and Destination are as the datagram carried them, never IPv4-mapped
	// and never with port 0. Link-local addresses have the interface's index as zone.
	Source, Destination netip.AddrPort
}

// Stats counts since the listener was made.
type Stats struct {
	// Dropped is the number of datagrams that the kernel threw away because the
	// listener was not read fast enough.
	Dropped uint64
}

// Listener is a source of datagrams. ReadBatch is for one goroutine at a time;
// everything else is safe for concurrent use, also with ReadBatch.
type Listener interface {
	// ReadBatch waits for datagrams, fills p from its start and returns their
	// number, at least 1 unless p is empty or there is an error. After Close it
	// returns net.ErrClosed. After another error it may be called again.
	ReadBatch(p []Packet) (int, error)

	// Reply sends one UDP datagram to a packet's Source from the same packet's
	// Destination. A from that is not an address of this host is an error.
	Reply(b []byte, to, from netip.AddrPort) error

	// Addr is what is listened on; its address is unspecified when that is any.
	Addr() netip.AddrPort

	// Stats returns the counters; after Close, their last values.
	Stats() Stats

	// Close wakes a waiting ReadBatch and frees everything. It waits for a
	// ReadBatch that is under way and is safe to call multiple times.
	Close() error
}

// SocketConfig says what [Socket] listens on.
type SocketConfig struct {
	// Address is one local address, 0.0.0.0 for all of IPv4, or :: for all of
	// IPv6 and IPv4. Port 0 lets the kernel choose one, see Listener.Addr.
	Address netip.AddrPort
	// Length is the only payload length delivered, 1 to MaxLength bytes.
	Length int
}

func (c SocketConfig) validate() error {
	if !c.Address.IsValid() || c.Address.Addr().IsMulticast() {
		return fmt.Errorf("address %s: %w", c.Address, ErrAddress)
	}
	return validateLength(c.Length)
}

// CaptureConfig says what [Capture] captures.
type CaptureConfig struct {
	// Port is the destination port, not 0.
	Port uint16
	// Interfaces are the names of the interfaces to read from; none means all,
	// also those that appear later. A named interface must exist, and when it is
	// removed and made anew the listener has to be made anew too.
	Interfaces []string
	// Length is the only payload length delivered, 1 to MaxLength bytes.
	Length int
}

func (c CaptureConfig) validate() error {
	if c.Port == 0 {
		return fmt.Errorf("port: %w", ErrPort)
	}
	return validateLength(c.Length)
}

func validateLength(length int) error {
	if length < 1 || length > MaxLength {
		return fmt.Errorf("length %d: %w", length, ErrLength)
	}
	return nil
}
