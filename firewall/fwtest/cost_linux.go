package fwtest

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// lane is one host under test and the way to it.
type lane struct {
	size  int // pinholes; 0 is a host without a firewall
	host  station
	send  [2]*batch
	costs [2][]float64 // nanoseconds a packet, per round
}

// kinds of packets: let in, to a socket with a full buffer, and not let in.
func kinds() [2]string { return [2]string{"in", "drop"} }

// PacketCost measures what a packet costs in the firewall of a host with so many
// pinholes: its way over a virtual cable and through the host, less the same
// without a firewall. Connection tracking, where a backend uses it, is part of it.
// There is one host for each size, made ready by fill with the pinholes to open,
// the last of which is that of the sender; all have their turn in each round, so
// that what slows the machine down slows all of them. Reported are the medians in
// nanoseconds for a packet that is let in and for one that is dropped.
func PacketCost(b *testing.B, sizes []int,
	fill func(b *testing.B, host *testkit.Namespace, open []firewall.Pinhole)) {
	lanes := []*lane{newLane(b, 0, nil)}
	for _, size := range sizes {
		lanes = append(lanes, newLane(b, size, fill))
	}
	for b.Loop() {
		for _, l := range lanes {
			for kind := range l.send {
				l.costs[kind] = append(l.costs[kind], l.round(b, kind))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for kind, name := range kinds() {
		without := median(lanes[0].costs[kind])
		b.ReportMetric(without, name+"-without-ns")
		for _, l := range lanes[1:] {
			b.ReportMetric(median(l.costs[kind])-without, fmt.Sprintf("%s-%d-ns", name, l.size))
		}
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func newLane(b *testing.B, size int,
	fill func(b *testing.B, host *testkit.Namespace, open []firewall.Pinhole)) *lane {
	b.Helper()
	host := station{Namespace: testkit.Netns(b), v4: netip.MustParseAddr("192.0.2.1")}
	client := station{Namespace: testkit.Netns(b), v4: netip.MustParseAddr("192.0.2.2")}
	testkit.Cable(b, host.Namespace, testkit.Interface, []string{"192.0.2.1/24"},
		client.Namespace, testkit.Interface, []string{"192.0.2.2/24"})
	source := netip.AddrPortFrom(client.v4, 20000)
	if size > 0 {
		fill(b, host.Namespace, append(others(size-1), exact(firewall.UDP, source, portA)))
	}
	host.Do(b, func() {
		full, err := net.ListenUDP("udp", &net.UDPAddr{Port: portA})
		if err != nil {
			b.Fatal(err)
		}
		full.SetReadBuffer(1) // the kernel's least
		b.Cleanup(func() { full.Close() })
	})
	l := &lane{size: size, host: host}
	at := netip.AddrPortFrom(host.v4, portA)
	for kind, port := range []uint16{source.Port(), source.Port() + 1} {
		l.send[kind] = newBatch(b, client, host, netip.AddrPortFrom(client.v4, port), at)
	}
	l.round(b, 0) // the buffer is full
	return l
}

// perRound is how many batches are sent before the next host has its turn.
const perRound = 100

// round returns the nanoseconds for each packet that the host received.
func (l *lane) round(b *testing.B, kind int) float64 {
	b.Helper()
	before := l.host.received(b)
	began := time.Now()
	for range perRound {
		l.send[kind].send(b)
	}
	took := time.Since(began)
	n := l.host.received(b) - before
	if n < perRound*batchSize/2 {
		b.Fatalf("%d of %d packets were received", n, perRound*batchSize)
	}
	return float64(took.Nanoseconds()) / float64(n)
}

// received reads the kernel's count of IP packets that came in.
func (s station) received(b *testing.B) int {
	b.Helper()
	_, values, _ := strings.Cut(s.read(b, "thread-self/net/snmp"), "\nIp: ")
	fields := strings.Fields(values)
	if len(fields) < 3 {
		b.Fatal("the kernel does not count packets")
	}
	n, err := strconv.Atoi(fields[2]) // InReceives
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// batchSize is how many packets one system call sends.
const batchSize = 64

// batch is the same frame many times over, ready for sendmmsg(2).
type batch struct {
	fd       int
	frame    []byte
	part     syscall.Iovec
	messages [batchSize]struct {
		header syscall.Msghdr
		length uint32
	}
}

func newBatch(b *testing.B, client, host station, from, to netip.AddrPort) *batch {
	b.Helper()
	var link *net.Interface
	var err error
	host.Do(b, func() { link, err = net.InterfaceByName(testkit.Interface) })
	if err != nil {
		b.Fatal(err)
	}
	packet := firstFragment(from.Addr(), to.Addr(), syscall.IPPROTO_UDP, udpSegment(from, to, 18))
	packet[6], packet[10], packet[11] = 0, 0, 0 // whole, not a fragment
	sum := checksum(packet[:20])
	packet[10], packet[11] = byte(sum>>8), byte(sum)
	made := &batch{frame: slices.Concat(link.HardwareAddr, make([]byte, 6), []byte{8, 0}, packet)}
	made.part.Base = &made.frame[0]
	made.part.SetLen(len(made.frame))
	for i := range made.messages {
		made.messages[i].header.Iov, made.messages[i].header.Iovlen = &made.part, 1
	}
	client.Do(b, func() {
		made.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		link, err = net.InterfaceByName(testkit.Interface)
		if err == nil {
			err = syscall.Bind(made.fd, &syscall.SockaddrLinklayer{Ifindex: link.Index})
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { syscall.Close(made.fd) })
	return made
}

// send hands the whole batch to the kernel.
func (m *batch) send(b *testing.B) {
	n, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(m.fd),
		uintptr(unsafe.Pointer(&m.messages[0])), batchSize, 0, 0, 0)
	if errno != 0 || n != batchSize {
		b.Fatalf("sendmmsg: %d of %d, %v", n, batchSize, errno)
	}
}
