package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// wiretap records UDP datagrams that pass a machine, as an eavesdropper would.
type wiretap struct{ fd int }

// tap starts to listen on all interfaces of a machine.
func (l *Lab) tap(where string) (*wiretap, error) {
	var fd int
	err := l.in(where, func() (err error) {
		fd, err = openEar()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tap the wires of %s: %w", where, err)
	}
	return &wiretap{fd}, nil
}

func (w *wiretap) close() { unix.Close(w.fd) }

// recorded returns the payloads of what went to the port so far, each once.
func (w *wiretap) recorded(port uint16) [][]byte {
	var found [][]byte
	seen := make(map[string]bool)
	buf := make([]byte, 65536)
	for until := time.Now().Add(200 * time.Millisecond); time.Now().Before(until); {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			continue // nothing within the ear's time-out
		}
		payload, ok := udpPayload(buf[:n], port)
		if ok && !seen[string(payload)] {
			seen[string(payload)] = true
			found = append(found, append([]byte(nil), payload...))
		}
	}
	return found
}

// udpPayload returns what an IPv4 packet carries to a UDP port.
func udpPayload(packet []byte, port uint16) ([]byte, bool) {
	if len(packet) < 28 || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_UDP {
		return nil, false
	}
	header := int(packet[0]&0x0f) * 4
	if len(packet) < header+8 || binary.BigEndian.Uint16(packet[header+2:]) != port {
		return nil, false
	}
	size := int(binary.BigEndian.Uint16(packet[header+4:]))
	if size < 8 || header+size > len(packet) {
		return nil, false
	}
	return packet[header+8 : header+size], true
}

// send sends raw UDP payloads from a machine and returns how many packets came
// back from target within the settling time.
func (l *Lab) send(from string, target netip.AddrPort, payloads [][]byte) (answers int, err error) {
	var ear, out int
	err = l.in(from, func() (err error) {
		if ear, err = openEar(); err != nil {
			return err
		}
		out, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer unix.Close(ear)
	defer unix.Close(out)
	to := &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())}
	for _, p := range payloads {
		if err := unix.Sendto(out, p, 0, to); err != nil {
			return 0, fmt.Errorf("send to %s: %w", target, err)
		}
	}
	buf := make([]byte, 2048)
	for until := time.Now().Add(settle); time.Now().Before(until); {
		n, sender, err := unix.Recvfrom(ear, buf, 0)
		if err != nil {
			continue
		}
		link, ok := sender.(*unix.SockaddrLinklayer)
		outgoing := ok && link.Pkttype == unix.PACKET_OUTGOING
		if !outgoing && answerKind(buf[:n], target.Addr()) != "" {
			answers++
		}
	}
	return answers, nil
}
