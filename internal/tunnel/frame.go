package tunnel

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

const (
	// MaxPacket is the largest datagram there is, in bytes: UDP's length field, less its
	// header. PROTOCOL 8.3
	MaxPacket = 65_527

	// mayFit is how long a datagram can be for one QUIC packet: what is longer goes
	// over the stream unasked. QUIC packets have 1,452 bytes at most.
	mayFit = 1452
)

// flowID is the number of a stream's flow on the wire: that of the stream without
// its two lowest bits, which are zero for all streams that clients open.
func flowID(id quic.StreamID) uint64 { return uint64(id) / 4 }

// appendDatagram appends a QUIC DATAGRAM frame's payload.
func appendDatagram(dst []byte, id uint64, payload []byte) []byte {
	return append(quicvarint.Append(dst, id), payload...)
}

// parseDatagram reads what appendDatagram writes. The payload aliases b.
func parseDatagram(b []byte) (id uint64, payload []byte, ok bool) {
	id, n, err := quicvarint.Parse(b)
	if err != nil {
		return 0, nil, false
	}
	return id, b[n:], true
}

// appendFrame appends a datagram as it travels on a flow's stream.
func appendFrame(dst, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	return append(dst, payload...)
}

// readFrame reads one datagram and not a byte more. The end of the stream ahead of
// it is [io.EOF], within it [io.ErrUnexpectedEOF].
func readFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	payload := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, fmt.Errorf("read datagram from stream: %w", unexpected(err))
	}
	return payload, nil
}
