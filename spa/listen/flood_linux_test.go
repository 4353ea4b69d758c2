package listen

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/testkit"
)

// floodBatch is how many datagrams one system call sends.
const floodBatch = 256

// flooder sends garbage of the right length as fast as one goroutine can.
type flooder struct {
	conn     *ipv4.PacketConn
	messages []ipv4.Message
}

func newFlooder(t testing.TB, w *wire, fam family) *flooder {
	t.Helper()
	c := dial(t, w.stranger, fam)
	f := &flooder{conn: ipv4.NewPacketConn(c)}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(fam.host, testPort))
	for range floodBatch {
		b := make([]byte, testLength)
		b[0] = 0xff
		f.messages = append(f.messages, ipv4.Message{Buffers: [][]byte{b}, Addr: to})
	}
	return f
}

// burst sends one batch and returns how many datagrams were sent.
func (f *flooder) burst(t testing.TB) int {
	n, err := f.conn.WriteBatch(f.messages, 0)
	if err != nil {
		t.Errorf("flood: %v", err)
	}
	return n
}

// cannon sends the same frames over and over, from a transmission ring past the queueing
// discipline: the most that one core can send without a driver of its own.
type cannon struct {
	injector
	memory []byte
}

const (
	cannonSlots    = 1024
	cannonSlotSize = 512
	cannonBlock    = 1 << 16
	cannonData     = 32 // offset of the frame in a slot: struct tpacket2_hdr, aligned
)

// newCannon loads a frame into each slot. The kernel sends them from where they are, so
// they are never changed.
func newCannon(t testing.TB, w *wire, load func(slot int) []byte) *cannon {
	t.Helper()
	c := &cannon{injector: *newInjector(t, w)}
	req := unix.TpacketReq{
		Block_size: cannonBlock, Block_nr: cannonSlots * cannonSlotSize / cannonBlock,
		Frame_size: cannonSlotSize, Frame_nr: cannonSlots,
	}
	err := errors.Join(
		unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2),
		unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptTpacketReq(c.fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &req),
		unix.Bind(c.fd, &unix.SockaddrLinklayer{Ifindex: c.index}))
	if err != nil {
		t.Fatalf("prepare transmission ring: %v", err)
	}
	c.memory, err = unix.Mmap(c.fd, 0, cannonSlots*cannonSlotSize,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("map transmission ring: %v", err)
	}
	t.Cleanup(func() { unix.Munmap(c.memory) })
	for i := range cannonSlots {
		slot := c.memory[i*cannonSlotSize:][:cannonSlotSize]
		n := copy(slot[cannonData:], load(i))
		binary.NativeEndian.PutUint32(slot[4:], uint32(n))
	}
	return c
}

// fire sends all the frames once. It returns when the kernel has taken them over the cable.
func (c *cannon) fire(t testing.TB) {
	for i := range cannonSlots {
		status(c.memory[i*cannonSlotSize:]).Store(unix.TP_STATUS_SEND_REQUEST)
	}
	to := unix.SockaddrLinklayer{Ifindex: c.index, Protocol: 0}
	for {
		err := unix.Sendto(c.fd, nil, 0, &to)
		if err == unix.ENOBUFS || err == unix.EAGAIN {
			continue // the far end's queue is full
		}
		if err != nil {
			t.Fatalf("fire: %v", err)
		}
		return
	}
}

const (
	benchHints = 1_000_000 // of enrolled devices
	validEach  = 512       // datagrams: one among them is valid
)

// BenchmarkFlood sends garbage of the right length at the rate of one core, with valid
// datagrams in between, and reads as the controller does: a look-up in a million hints for
// each datagram. The sender's core also does the kernel's receiving. Besides ns for a datagram
// it reports how many of the valid ones, and of all, were delivered. On a machine that is
// busy with something else, loss means that the reader did not get a core.
func BenchmarkFlood(b *testing.B) {
	hints := make(map[uint64]struct{}, benchHints)
	for n := range uint64(benchHints) {
		hints[n<<1|1] = struct{}{} // odd; garbage is even
	}
	for _, k := range kinds {
		for _, fam := range families {
			b.Run(k.name+"/"+fam.name, func(b *testing.B) { benchFlood(b, k, fam, hints) })
		}
	}
}

// flooding loads one valid datagram in validEach.
func flooding(b *testing.B, w *wire, fam family) *cannon {
	random := rand.NewPCG(1, 2)
	in := newInjector(b, w)
	etherType := uint16(layers.EthernetTypeIPv4)
	if fam.host.Is6() {
		etherType = uint16(layers.EthernetTypeIPv6)
	}
	source := netip.AddrPortFrom(fam.stranger, 1234)
	to := netip.AddrPortFrom(fam.host, testPort)
	return newCannon(b, w, func(slot int) []byte {
		datagram := make([]byte, testLength)
		hint := random.Uint64() &^ 1
		if slot%validEach == 0 {
			hint = 1
		}
		binary.LittleEndian.PutUint64(datagram, hint)
		return in.ethernet(etherType, build(b, source, to, datagram))
	})
}

func benchFlood(b *testing.B, k kind, fam family, hints map[uint64]struct{}) {
	w := newWire(b)
	l := k.open(b, w.host)
	f := flooding(b, w, fam)
	if k.name == "capture" {
		dropEverything(b, w.host) // as it is meant to be used
	}
	var delivered, valid atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		packets := make([]Packet, 256)
		for {
			n, err := l.ReadBatch(packets)
			if err != nil {
				return
			}
			for _, p := range packets[:n] {
				if _, known := hints[binary.LittleEndian.Uint64(p.Data)]; known {
					valid.Add(1)
				}
			}
			delivered.Add(int64(n))
		}
	}()
	occupyOneCore(b)
	sent := 0
	b.ReportAllocs()
	b.ResetTimer()
	for ; sent < b.N; sent += cannonSlots {
		f.fire(b)
	}
	b.StopTimer()
	// What is still queued counts as well: wait until nothing more comes.
	testkit.Eventually(b, patience, "the queue is empty", func() bool {
		return delivered.Load() >= int64(sent) || delivered.Load() == quiet(&delivered)
	})
	l.Close()
	<-ended
	b.ReportMetric(100*float64(valid.Load())*validEach/float64(sent), "%valid")
	b.ReportMetric(100*float64(delivered.Load())/float64(sent), "%delivered")
	b.ReportMetric(float64(l.Stats().Dropped), "dropped")
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "sent/s")
}

// occupyOneCore keeps the sender on the last core. Its thread ends with the benchmark.
func occupyOneCore(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Fatal(err)
	}
}

// quiet waits a moment and returns the counter.
func quiet(counter *atomic.Int64) int64 {
	<-time.After(100 * time.Millisecond)
	return counter.Load()
}
