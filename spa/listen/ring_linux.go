package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The ring: ringSlots slots in blocks of ringBlockSize bytes. As the filter lets
// packets of one size through, slots of one size (TPACKET_V2) waste nothing, and
// unlike the blocks of TPACKET_V3 they reach the reader without a timer's delay.
const (
	ringSlots     = 32768 // 40 ms of 800,000 packets a second
	ringBlockSize = 1 << 16
)

// Offsets in a slot, from the kernel's linux/if_packet.h: struct tpacket2_hdr
// and, behind it, struct sockaddr_ll.
const (
	slotStatus   = 0
	slotSnapLen  = 8
	slotNet      = 14
	slotIfindex  = 32 + 4
	slotHardware = 32 + 8
	slotType     = 32 + 10
	slotMinimum  = 96 // both headers, and the alignment that the kernel puts behind them
)

// ring is a packet socket for one protocol and the memory that the kernel writes
// packets to. It is for one goroutine at a time, but for stats.
type ring struct {
	fd       int
	protocol layers.EthernetType
	memory   []byte
	slotSize int
	next     int // the slot that is read next

	drops struct {
		sync.Mutex
		total  uint64
		closed bool
	}
}

// openRing makes a packet socket that receives nothing until it is bound; by then
// the filter and the ring are in place.
func openRing(protocol layers.EthernetType, filter []bpf.RawInstruction,
	length int) (*ring, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("open packet socket: %w", ErrPermission)
	}
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	r := &ring{fd: fd, protocol: protocol}
	if err := r.prepare(filter, length); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ring) prepare(filter []bpf.RawInstruction, length int) error {
	if err := attachFilter(r.fd, filter); err != nil {
		return err
	}
	err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2)
	if err != nil {
		return fmt.Errorf("set ring version: %w", err)
	}
	r.slotSize = 1 << bits.Len(uint(slotMinimum+maxIPv4HeaderSize+udpHeaderSize+length-1))
	size := ringSlots * r.slotSize
	req := unix.TpacketReq{
		Block_size: ringBlockSize, Block_nr: uint32(size / ringBlockSize),
		Frame_size: uint32(r.slotSize), Frame_nr: ringSlots,
	}
	if err := unix.SetsockoptTpacketReq(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("make ring of %d bytes: %w", size, err)
	}
	r.memory, err = unix.Mmap(r.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map ring: %w", err)
	}
	// Bound to a protocol, unlike to "all", the socket gets no outgoing packets, and those
	// of a bridge or bond once: from the interface that has the address.
	var protocol [2]byte
	binary.BigEndian.PutUint16(protocol[:], uint16(r.protocol))
	address := unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(protocol[:])}
	if err := unix.Bind(r.fd, &address); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// status is shared with the kernel: whose the slot is, and flags.
func status(slot []byte) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&slot[slotStatus]))
}

// read calls use with the next frame, then gives its slot back to the kernel, and
// reports whether there was one. The frame is not valid after use returns.
func (r *ring) read(use func(frame)) bool {
	slot := r.memory[r.next*r.slotSize:][:r.slotSize]
	flags := status(slot).Load()
	if flags&unix.TP_STATUS_USER == 0 {
		return false
	}
	size := int(binary.NativeEndian.Uint32(slot[slotSnapLen:]))
	start := int(binary.NativeEndian.Uint16(slot[slotNet:]))
	own := slot[slotType] == unix.PACKET_HOST
	if own && start >= slotHardware && start+size <= len(slot) {
		const vouched = unix.TP_STATUS_CSUM_VALID | unix.TP_STATUS_CSUMNOTREADY
		use(frame{
			data: slot[start:][:size], protocol: r.protocol,
			ifindex:    int(binary.NativeEndian.Uint32(slot[slotIfindex:])),
			loopback:   binary.NativeEndian.Uint16(slot[slotHardware:]) == unix.ARPHRD_LOOPBACK,
			checksumOK: flags&vouched != 0,
		})
	}
	status(slot).Store(unix.TP_STATUS_KERNEL)
	r.next = (r.next + 1) % ringSlots
	return true
}

// dropped is the number of packets that found the ring full.
func (r *ring) dropped() uint64 {
	r.drops.Lock()
	defer r.drops.Unlock()
	if !r.drops.closed {
		// Reading resets the kernel's count.
		s, err := unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			r.drops.total += uint64(s.Drops)
		}
	}
	return r.drops.total
}

func (r *ring) close() error {
	r.dropped()
	r.drops.Lock()
	defer r.drops.Unlock()
	r.drops.closed = true
	var unmap error
	if r.memory != nil {
		unmap = unix.Munmap(r.memory)
		r.memory = nil
	}
	return errors.Join(unmap, unix.Close(r.fd))
}
