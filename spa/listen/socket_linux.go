package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// receiveBuffer is what the kernel may queue, in bytes. It counts a datagram of
// 256 bytes as 768 and more and allows itself twice the number asked for, so this
// bridges about 80,000 datagrams: 0.1 s of a flood at the rate of one core.
const receiveBuffer = 32 << 20

// Socket opens a batched UDP socket. ctx bounds only the opening.
func Socket(ctx context.Context, cfg SocketConfig) (Listener, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("listen on UDP socket: %w", err)
	}
	network, address := dialect(cfg.Address)
	wide := false
	lc := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		wide = strings.HasSuffix(network, "6")
		return prepare(raw, wide)
	}}
	conn, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on UDP socket: %w", err)
	}
	udp := conn.(*net.UDPConn) // ListenPacket's documented type for "udp"
	return &socket{
		udp: udp, batch: ipv4.NewPacketConn(udp), wide: wide, length: cfg.Length,
	}, nil
}

// dialect says it in package net's words: only the empty host means "both families,
// or the one that there is".
func dialect(a netip.AddrPort) (network, address string) {
	switch addr := a.Addr(); {
	case addr.Is4() || addr.Is4In6():
		return "udp4", netip.AddrPortFrom(addr.Unmap(), a.Port()).String()
	case addr.IsUnspecified():
		return "udp", ":" + strconv.Itoa(int(a.Port()))
	}
	return "udp6", a.String()
}

// prepare sets the socket's options before it is bound.
func prepare(raw syscall.RawConn, wide bool) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) { err = setOptions(int(fd), wide) })
	return errors.Join(controlErr, err)
}

func setOptions(fd int, wide bool) error {
	filter, err := filterUnicast()
	if err != nil {
		return err
	}
	if err := attachFilter(fd, filter); err != nil {
		return err
	}
	// Beyond net.core.rmem_max needs CAP_NET_ADMIN; without it there is what the limit allows.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		if err != nil {
			return fmt.Errorf("set receive buffer: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		return fmt.Errorf("ask for drop counter: %w", err)
	}
	level, option := unix.SOL_IP, unix.IP_PKTINFO
	if wide {
		level, option = unix.SOL_IPV6, unix.IPV6_RECVPKTINFO
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("ask for destination addresses: %w", err)
	}
	return nil
}

// socket is the Listener over a UDP socket.
type socket struct {
	udp    *net.UDPConn
	batch  *ipv4.PacketConn // for IPv6 too: reading a batch is the same system call
	wide   bool             // AF_INET6
	length int

	read struct { // scratch space of ReadBatch
		sync.Mutex
		messages []ipv4.Message
	}
	dropped atomic.Uint64
}

// ReadBatch implements Listener.
func (s *socket) ReadBatch(p []Packet) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.read.Lock()
	defer s.read.Unlock()
	for len(s.read.messages) < len(p) {
		s.read.messages = append(s.read.messages, ipv4.Message{
			Buffers: [][]byte{make([]byte, s.length+1)}, // one more shows what is too long
			OOB:     make([]byte, ancillarySize),
		})
	}
	for {
		n, err := s.batch.ReadBatch(s.read.messages[:len(p)], 0)
		if errors.Is(err, net.ErrClosed) {
			return 0, net.ErrClosed
		}
		if err != nil {
			return 0, fmt.Errorf("read from UDP socket: %w", err)
		}
		kept := 0
		for i := range s.read.messages[:n] {
			if packet, ok := s.packet(&s.read.messages[i]); ok {
				p[kept] = packet
				kept++
			}
		}
		if kept > 0 {
			return kept, nil
		}
	}
}

func (s *socket) packet(m *ipv4.Message) (Packet, bool) {
	a, err := parseAncillary(m.OOB[:m.NN])
	if err != nil || m.Flags&unix.MSG_CTRUNC != 0 {
		return Packet{}, false
	}
	s.countDrops(a.dropped)
	from, ok := m.Addr.(*net.UDPAddr)
	if !ok || m.N != s.length || !a.destination.IsValid() || from.Port == 0 {
		return Packet{}, false
	}
	source, _ := netip.AddrFromSlice(from.IP)
	source = source.Unmap()
	if !plausible(source, a.destination, true) { // the kernel knows about loopback
		return Packet{}, false
	}
	local := s.udp.LocalAddr().(*net.UDPAddr)
	return Packet{
		Data:   m.Buffers[0][:m.N],
		Source: netip.AddrPortFrom(scoped(source, a.ifindex), uint16(from.Port)),
		Destination: netip.AddrPortFrom(
			scoped(a.destination, a.ifindex), uint16(local.Port)),
	}, true
}

// countDrops extends the kernel's 32-bit counter. Only the reader writes it.
func (s *socket) countDrops(counter uint32) {
	known := s.dropped.Load()
	if since := counter - uint32(known); int32(since) > 0 {
		s.dropped.Store(known + uint64(since))
	}
}

// Reply implements Listener.
func (s *socket) Reply(b []byte, to, from netip.AddrPort) error {
	to, from, err := pair(to, from)
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	control, err := sendFrom(from.Addr(), s.wide)
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if _, _, err := s.udp.WriteMsgUDPAddrPort(b, control, to); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return nil
}

// Addr implements Listener.
func (s *socket) Addr() netip.AddrPort {
	a := s.udp.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Stats implements Listener. The kernel tells the count with each datagram, so
// it is that of the last one read.
func (s *socket) Stats() Stats { return Stats{Dropped: s.dropped.Load()} }

// Close implements Listener.
func (s *socket) Close() error {
	err := s.udp.Close()
	s.read.Lock() // waits for the reader
	defer s.read.Unlock()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close UDP socket: %w", err)
	}
	return nil
}
