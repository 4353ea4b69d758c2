package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxInterfaces bounds the list in the kernel's filter, whose jumps are short.
const maxInterfaces = 64

// Capture reads passively and needs CAP_NET_RAW. Interfaces are those of the
// network namespace of the calling thread. Where nothing else has the port it has
// to be closed in the firewall, or the kernel answers its datagrams with ICMP errors.
//
// An incoming packet is seen before the firewall and NAT, once, and also when it is to be
// forwarded. Datagrams that the card or the kernel merged (UDP GRO, for example on a port
// of a socket with UDP_GRO) are not seen: senders keep equal datagrams a moment apart.
func Capture(cfg CaptureConfig) (Listener, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	c := &capture{port: cfg.Port, decoder: decoder{port: cfg.Port, length: cfg.Length}}
	if err := c.open(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("capture: %w", err), c.Close())
	}
	return c, nil
}

// capture is the Listener over packet sockets, one for each family.
type capture struct {
	port    uint16
	wake    *os.File // an epoll of the rings, itself pollable by the runtime
	raw     syscall.RawConn
	replies *replier
	closed  atomic.Bool

	mu       sync.Mutex // held by ReadBatch while it is under way; guards what follows
	rings    []*ring
	turn     int // the ring that is read first
	decoder  decoder
	buffers  [][]byte
	closing  sync.Once
	closeErr error
}

func (c *capture) open(cfg CaptureConfig) error {
	indexes, err := interfaceIndexes(cfg.Interfaces)
	if err != nil {
		return err
	}
	families := []struct {
		protocol layers.EthernetType
		filter   func(uint16, int, []int) ([]bpf.RawInstruction, error)
	}{
		{layers.EthernetTypeIPv4, filterIPv4},
		{layers.EthernetTypeIPv6, filterIPv6},
	}
	for _, family := range families {
		filter, err := family.filter(cfg.Port, cfg.Length, indexes)
		if err != nil {
			return err
		}
		r, err := openRing(family.protocol, filter, cfg.Length)
		if err != nil {
			return err
		}
		c.rings = append(c.rings, r)
	}
	if c.replies, err = newReplier(); err != nil {
		return err
	}
	return c.watch()
}

func interfaceIndexes(names []string) ([]int, error) {
	if len(names) > maxInterfaces {
		return nil, fmt.Errorf("%d interfaces named, the limit is %d", len(names), maxInterfaces)
	}
	var indexes []int
	for _, name := range names {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %q: %w", name, err)
		}
		indexes = append(indexes, ifi.Index)
	}
	return indexes, nil
}

// watch puts all rings behind one descriptor that the runtime can wait for: one
// reader sleeps on both families and is woken by Close, without a goroutine each.
func (c *capture) watch() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make epoll: %w", err)
	}
	// Non-blocking tells os.NewFile that the descriptor can be polled.
	err = unix.SetNonblock(epoll, true)
	for _, r := range c.rings {
		if err == nil {
			event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(r.fd)}
			err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, r.fd, &event)
		}
	}
	if err != nil {
		unix.Close(epoll)
		return fmt.Errorf("prepare epoll: %w", err)
	}
	c.wake = os.NewFile(uintptr(epoll), "packet sockets")
	if c.raw, err = c.wake.SyscallConn(); err != nil {
		return fmt.Errorf("prepare epoll: %w", err)
	}
	return nil
}

// ReadBatch implements Listener.
func (c *capture) ReadBatch(p []Packet) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buffers) < len(p) {
		c.buffers = append(c.buffers, make([]byte, c.decoder.length))
	}
	n := 0
	// The runtime calls back when a ring has become readable, until there is something.
	err := c.raw.Read(func(uintptr) bool {
		n = c.take(p)
		return n > 0
	})
	switch {
	case err != nil && c.closed.Load(): // the runtime's own error here is not os.ErrClosed
		return 0, net.ErrClosed
	case err != nil:
		return 0, fmt.Errorf("wait for packets: %w", err)
	}
	return n, nil
}

// take moves from the rings into p what there is, as far as there is room; it returns
// 0 only when the rings are empty or closed. The rings take turns at being the first, so
// that a flood over one family does not starve the other, not even one of bad packets.
func (c *capture) take(p []Packet) int {
	n := 0
	keep := func(f frame) {
		if packet, ok := c.decoder.decode(f); ok {
			// The slot goes back to the kernel, and Close unmaps it: keep a copy.
			copy(c.buffers[n], packet.Data)
			packet.Data = c.buffers[n]
			p[n] = packet
			n++
		}
	}
	for busy := true; busy && n == 0 && !c.closed.Load(); {
		busy = false
		c.turn++
		for i := range c.rings {
			r := c.rings[(c.turn+i)%len(c.rings)]
			for seen := 0; n < len(p) && seen < len(p) && r.read(keep); seen++ {
				busy = true
			}
		}
	}
	return n
}

// Reply implements Listener. From must have the captured port.
func (c *capture) Reply(b []byte, to, from netip.AddrPort) error {
	if err := c.replies.send(b, to, from); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return nil
}

// Addr implements Listener.
func (c *capture) Addr() netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv6Unspecified(), c.port)
}

// Stats implements Listener.
func (c *capture) Stats() Stats {
	var s Stats
	for _, r := range c.rings {
		s.Dropped += r.dropped()
	}
	return s
}

// Close implements Listener.
func (c *capture) Close() error {
	c.closing.Do(func() {
		var errs []error
		c.closed.Store(true)
		if c.wake != nil {
			errs = append(errs, c.wake.Close())
		}
		c.mu.Lock() // waits for the reader: nobody may look at memory that is unmapped
		defer c.mu.Unlock()
		for _, r := range c.rings {
			errs = append(errs, r.close())
		}
		if c.replies != nil {
			errs = append(errs, c.replies.close())
		}
		c.closeErr = errors.Join(errs...)
	})
	return c.closeErr
}
