package spa

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

// Sizes that every implementation shares, in bytes unless said otherwise.
const (
	// Size is the length of every datagram. PROTOCOL 1.1
	Size = 256

	hintSize            = 8
	ephemeralSize       = 32
	knockBodySize       = 184 // sealed
	nonceSize           = 24
	hostBodySize        = 192 // sealed
	macSize             = 32
	tagSize             = 16
	timeSize            = 8
	authenticated       = Size - macSize          // what the mac covers, besides the audience
	knockPlainSize      = knockBodySize - tagSize // 168
	hostPlainSize       = hostBodySize - tagSize  // 176
	replyPlainSize      = Size - tagSize          // 240
	maxAudience         = 64
	maxService          = 63
	maxText             = 120
	versionOne     byte = 1
)

// The parts add up, or this does not compile.
const (
	_ = uint(Size - (hintSize + ephemeralSize + knockBodySize + macSize))
	_ = uint((hintSize + ephemeralSize + knockBodySize + macSize) - Size)
	_ = uint(Size - (hintSize + nonceSize + hostBodySize + macSize))
	_ = uint((hintSize + nonceSize + hostBodySize + macSize) - Size)
	_ = uint(tagSize - chacha20poly1305.Overhead)
	_ = uint(nonceSize - chacha20poly1305.NonceSizeX)
	_ = uint(maxAudience - 2*key.IDSize)
)

// Times that every implementation shares.
const (
	// Epoch is how long one hint is in use.
	Epoch = 60 * time.Second
	// Tolerance is how far a datagram's time may lie from the receiver's clock,
	// either way.
	Tolerance = 90 * time.Second
)

// timely reports whether t has a form on the wire.
func timely(t time.Time) bool {
	return t.Unix() >= 0 && !t.After(time.Unix(0, math.MaxInt64))
}

// EpochOf returns the number of the epoch that t lies in.
func EpochOf(t time.Time) int64 {
	s, e := t.Unix(), int64(Epoch/time.Second)
	n := s / e
	if s%e < 0 {
		n--
	}
	return n
}

// writer fills a fixed plaintext from front to back; what is not written stays zero.
type writer struct{ rest []byte }

func (w *writer) byte(b byte) { w.rest[0] = b; w.rest = w.rest[1:] }
func (w *writer) bytes(b []byte, size int) {
	copy(w.rest[:size], b)
	w.rest = w.rest[size:]
}
func (w *writer) uint16(v uint16) { binary.BigEndian.PutUint16(w.rest, v); w.rest = w.rest[2:] }
func (w *writer) uint32(v uint32) { binary.BigEndian.PutUint32(w.rest, v); w.rest = w.rest[4:] }
func (w *writer) time(t time.Time) {
	binary.BigEndian.PutUint64(w.rest, uint64(t.UnixNano()))
	w.rest = w.rest[8:]
}

// address writes 16 bytes, IPv4 mapped (RFC 4291, 2.5.5.2), zero for none.
func (w *writer) address(a netip.Addr) {
	if a.IsValid() {
		b := a.As16()
		copy(w.rest, b[:])
	}
	w.rest = w.rest[16:]
}

// reader takes a plaintext apart from front to back. Its callers check the
// whole length before the first take.
type reader struct{ rest []byte }

func (r *reader) take(n int) []byte {
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}
func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) id() key.ID     { return key.ID(r.take(key.IDSize)) }

// time reads what writer.time wrote; ok is false for what a [time.Time] of
// nanoseconds cannot hold.
func (r *reader) time() (t time.Time, ok bool) {
	ns := binary.BigEndian.Uint64(r.take(8))
	if ns > math.MaxInt64 {
		return time.Time{}, false
	}
	return time.Unix(0, int64(ns)), true
}

// address reads what writer.address wrote; ok is false for what it cannot have
// written: unspecified addresses other than all zero.
func (r *reader) address() (a netip.Addr, ok bool) {
	b := [16]byte(r.take(16))
	if b == [16]byte{} {
		return netip.Addr{}, true
	}
	a = netip.AddrFrom16(b).Unmap()
	return a, !a.IsUnspecified()
}

// text reads a length byte and a zero-padded field of size bytes.
func (r *reader) text(size int) (s string, ok bool) {
	n := int(r.byte())
	field := r.take(size)
	if n > size || !allZero(field[n:]) {
		return "", false
	}
	return string(field[:n]), true
}

// end reports whether what was not taken is all zero, as it must be.
func (r *reader) end() bool { return allZero(r.rest) }

func allZero(b []byte) bool {
	var or byte
	for _, v := range b {
		or |= v
	}
	return or == 0
}
