package listen

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/postern-sdp/postern/internal/testkit"
)

func TestDatagramIsDeliveredWithItsAddresses(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		c := dial(t, w.stranger, fam)
		port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
		for i, to := range []netip.Addr{fam.host, fam.second} {
			send(t, c, numbered(uint64(i)), to)
			p := wantNext(t, l, uint64(i))
			if want := netip.AddrPortFrom(fam.stranger, port); p.Source != want {
				t.Errorf("source = %s, want %s", p.Source, want)
			}
			if want := netip.AddrPortFrom(to, testPort); p.Destination != want {
				t.Errorf("destination = %s, want %s", p.Destination, want)
			}
		}
	})
}

func TestReplyLeavesFromTheAddressThatWasKnocked(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		c := dial(t, w.stranger, fam)
		for _, to := range []netip.Addr{fam.host, fam.second} {
			for _, length := range []int{testLength, testLength - 1, 1} { // odd ones for the checksum
				send(t, c, numbered(1), to)
				p := wantNext(t, l, 1)
				reply := numbered(uint64(length))[:length]
				if err := l.Reply(reply, p.Source, p.Destination); err != nil {
					t.Fatal(err)
				}
				got, from := receive(t, c)
				if string(got) != string(reply) {
					t.Errorf("reply = % x, want % x", got, reply)
				}
				if want := netip.AddrPortFrom(to, testPort); from != want {
					t.Errorf("reply is from %s, want %s", from, want)
				}
			}
		}
	})
}

func receive(t testing.TB, c *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 2048)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("no reply: %v", err)
	}
	return b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func TestLinkLocalSourceIsAnswered(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			testkit.NoLeak(t)
			w := newWire(t)
			l := k.open(t, w.host)
			c := dial(t, w.stranger, families[1])
			var to netip.Addr
			w.host.Do(t, func() { to = linkLocal(t) })
			w.stranger.Do(t, func() { to = scoped(to, hardware(t).Index) })
			send(t, c, numbered(1), to)
			p := wantNext(t, l, 1)
			if p.Source.Addr().Zone() == "" || p.Destination.Addr().Zone() == "" {
				t.Errorf("addresses without zone: %s, %s", p.Source, p.Destination)
			}
			if err := l.Reply(numbered(2), p.Source, p.Destination); err != nil {
				t.Fatal(err)
			}
			if got, _ := receive(t, c); string(got) != string(numbered(2)) {
				t.Errorf("reply = % x", got)
			}
		})
	}
}

// linkLocal is the address of eth0 in this namespace, once the kernel has made it.
func linkLocal(t testing.TB) netip.Addr {
	t.Helper()
	var found netip.Addr
	testkit.Eventually(t, patience, "eth0 has a link-local address", func() bool {
		addresses, err := hardware(t).Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				found = scoped(p.Addr(), hardware(t).Index)
				return true
			}
		}
		return false
	})
	return found
}

func TestReplyFromAForeignAddressIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		c := dial(t, w.stranger, fam)
		to := netip.AddrPortFrom(fam.stranger, uint16(c.LocalAddr().(*net.UDPAddr).Port))
		foreign := netip.AddrPortFrom(fam.host.Prev().Prev().Prev(), testPort)
		if err := l.Reply(numbered(1), to, foreign); err == nil {
			t.Errorf("a datagram left from %s, which is not ours", foreign)
		}
		for _, pair := range [][2]netip.AddrPort{
			{},
			{to, {}},
			{{}, netip.AddrPortFrom(fam.host, testPort)},
			{netip.AddrPortFrom(fam.stranger, 0), netip.AddrPortFrom(fam.host, testPort)},
			{to, netip.AddrPortFrom(otherFamily(fam).host, testPort)},
		} {
			if err := l.Reply(numbered(1), pair[0], pair[1]); err == nil {
				t.Errorf("a reply to %s from %s is no error", pair[0], pair[1])
			}
		}
		if err := l.Reply(make([]byte, 1<<16), to, netip.AddrPortFrom(fam.host, testPort)); err == nil {
			t.Error("a reply of 64 KiB is no error")
		}
	})
}

func otherFamily(fam family) family {
	if fam.name == families[0].name {
		return families[1]
	}
	return families[0]
}

func TestOnlyOneLengthIsDelivered(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		c := dial(t, w.stranger, fam)
		for _, length := range []int{0, 1, 2, 7, 8, 255, 257, 264, 512, 1400, 3000, 60000} {
			send(t, c, make([]byte, length), fam.host)
		}
		send(t, c, numbered(1), fam.host)
		wantNext(t, l, 1)
	})
}

func TestSpoiledPacketsAreNeverDelivered(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		in := newInjector(t, w)
		source := netip.AddrPortFrom(fam.stranger, 1234)
		good := func(n uint64) []byte {
			return build(t, source, netip.AddrPortFrom(fam.host, testPort), numbered(n))
		}
		etherType := uint16(layers.EthernetTypeIPv4)
		if fam.host.Is6() {
			etherType = uint16(layers.EthernetTypeIPv6)
		}
		for _, s := range spoiled {
			if s.only != 0 && s.only != good(0)[0]>>4 ||
				s.name == udpLengthZero && k.name == "socket" {
				continue
			}
			in.send(t, in.ethernet(etherType, s.spoil(good(0))))
			in.send(t, in.ethernet(etherType, good(1)))
			if p := next(t, l); string(p.Data) != string(numbered(1)) {
				t.Fatalf("%s: delivered from %s to %s", s.name, p.Source, p.Destination)
			}
		}
		for n := 1; n < len(good(0)); n++ { // truncated everywhere
			in.send(t, in.ethernet(etherType, good(0)[:n]))
		}
		in.send(t, in.ethernet(etherType, append(good(1), 0, 0, 0))) // a link's padding
		wantNext(t, l, 1)
	})
}

func TestFramesForOthersAreNeverDelivered(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		in := newInjector(t, w)
		packet := func(n uint64) []byte {
			return build(t, netip.AddrPortFrom(fam.stranger, 1234),
				netip.AddrPortFrom(fam.host, testPort), numbered(n))
		}
		etherType := uint16(layers.EthernetTypeIPv4)
		if fam.host.Is6() {
			etherType = uint16(layers.EthernetTypeIPv6)
		}
		tagged := func(tag uint16, n uint64) []byte {
			header := []byte{byte(tag >> 8), byte(tag), byte(etherType >> 8), byte(etherType)}
			return in.ethernet(uint16(layers.EthernetTypeDot1Q), append(header, packet(n)...))
		}
		addressed := func(to string) []byte {
			b := in.ethernet(etherType, packet(0))
			copy(b, to)
			return b
		}
		in.send(t, tagged(5, 0))
		in.send(t, tagged(0xe005, 0))
		in.send(t, addressed("\xff\xff\xff\xff\xff\xff"))
		in.send(t, addressed("\x01\x00\x5e\x00\x00\x01"))
		in.send(t, addressed("\x33\x33\x00\x00\x00\x01"))
		in.send(t, addressed("\x02\x11\x11\x11\x11\x11"))
		in.send(t, in.ethernet(uint16(layers.EthernetTypeARP), packet(0)))
		in.send(t, tagged(0xe000, 1)) // VLAN 0 is a priority and no VLAN
		wantNext(t, l, 1)
		in.send(t, in.ethernet(etherType, packet(2)))
		wantNext(t, l, 2)
	})
}

func TestIPv4HeaderLengthIsHonoured(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			w, fam := newWire(t), families[0]
			l := k.open(t, w.host)
			in := newInjector(t, w)
			nop := layers.IPv4Option{OptionType: 1}
			for n := range 41 {
				options := make([]layers.IPv4Option, n)
				for i := range options {
					options[i] = nop
				}
				in.send(t, in.ethernet(uint16(layers.EthernetTypeIPv4), build(t,
					netip.AddrPortFrom(fam.stranger, 1234), netip.AddrPortFrom(fam.host, testPort),
					numbered(uint64(n)), options...)))
				wantNext(t, l, uint64(n))
			}
		})
	}
}

func TestOutgoingCopiesAreNeverDelivered(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		out, in := dial(t, w.host, fam), dial(t, w.stranger, fam)
		for range 3 {
			send(t, out, numbered(0), fam.stranger)
		}
		send(t, in, numbered(1), fam.host)
		wantNext(t, l, 1)
	})
}

func TestDatagramOverLoopbackIsDeliveredOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		c := dial(t, w.host, fam)
		for i, to := range []netip.Addr{fam.loopback, fam.host, fam.second, fam.loopback} {
			send(t, c, numbered(uint64(i)), to)
			p := wantNext(t, l, uint64(i)) // a second copy would be the next one's
			if p.Destination.Addr() != to {
				t.Errorf("destination = %s, want %s", p.Destination, to)
			}
			if err := l.Reply(numbered(9), p.Source, p.Destination); err != nil {
				t.Fatal(err)
			}
			if _, from := receive(t, c); from != netip.AddrPortFrom(to, testPort) {
				t.Errorf("reply is from %s, want %s", from, to)
			}
		}
	})
}

func TestBatchesKeepTheOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, w *wire, k kind, fam family) {
		l := k.open(t, w.host)
		c := dial(t, w.stranger, fam)
		const total = 1000
		for i := range total {
			send(t, c, numbered(uint64(i)), fam.host)
		}
		alarm := time.AfterFunc(patience, func() { l.Close() })
		defer alarm.Stop()
		packets := make([]Packet, 64)
		for got := 0; got < total; {
			n, err := l.ReadBatch(packets)
			if err != nil {
				t.Fatalf("after %d packets: %v", got, err)
			}
			for _, p := range packets[:n] {
				if string(p.Data) != string(numbered(uint64(got))) {
					t.Fatalf("packet %d has % x", got, p.Data[:8])
				}
				got++
			}
		}
		if n, err := l.ReadBatch(nil); n != 0 || err != nil {
			t.Errorf("ReadBatch(nil) = %d, %v", n, err)
		}
	})
}

func TestCloseWakesAWaitingReader(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			testkit.NoLeak(t)
			w := newWire(t)
			l := k.open(t, w.host)
			waiting := make(chan error, 1)
			go func() {
				_, err := l.ReadBatch(make([]Packet, 8))
				waiting <- err
			}()
			testkit.Eventually(t, patience, "the reader waits", func() bool { return parked(l) })
			var closers sync.WaitGroup
			for range 4 {
				closers.Go(func() {
					if err := l.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				})
			}
			select {
			case err := <-waiting:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("ReadBatch = %v, want net.ErrClosed", err)
				}
			case <-time.After(patience):
				t.Fatal("ReadBatch did not return")
			}
			closers.Wait()
			if _, err := l.ReadBatch(make([]Packet, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadBatch after Close = %v, want net.ErrClosed", err)
			}
			fam := families[0]
			err := l.Reply(numbered(1), netip.AddrPortFrom(fam.stranger, 9),
				netip.AddrPortFrom(fam.host, testPort))
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("Reply after Close = %v, want net.ErrClosed", err)
			}
			l.Stats() // must not touch what is gone
		})
	}
}

// parked reports whether a ReadBatch of l is under way.
func parked(l Listener) bool {
	var mu *sync.Mutex
	switch l := l.(type) {
	case *socket:
		mu = &l.read.Mutex
	case *capture:
		mu = &l.mu
	}
	if mu.TryLock() {
		mu.Unlock()
		return false
	}
	return true
}

// TestLossIsCounted leaves a listener unread until the kernel has to drop.
func TestLossIsCounted(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			w, fam := newWire(t), families[0]
			l := k.open(t, w.host)
			if got := l.Stats().Dropped; got != 0 {
				t.Errorf("before anything was sent: %d dropped", got)
			}
			f := newFlooder(t, w, fam)
			sent := 0
			for sent < 200_000 {
				sent += f.burst(t)
			}
			received, dropped := 0, uint64(0)
			packets := make([]Packet, 256)
			alarm := time.AfterFunc(patience, func() { l.Close() })
			defer alarm.Stop()
			c := dial(t, w.stranger, fam)
			// The socket hears of the loss from a datagram that was queued after it.
			for received+int(dropped) < sent {
				n, err := l.ReadBatch(packets)
				if err != nil {
					t.Fatalf("%d sent, %d received, %d counted as dropped: %v",
						sent, received, dropped, err)
				}
				received += n
				if dropped = l.Stats().Dropped; n < len(packets) && dropped == 0 {
					sent++
					send(t, c, numbered(1), fam.host)
				}
			}
			if dropped == 0 || received+int(dropped) != sent {
				t.Errorf("%d sent, %d received, %d counted as dropped", sent, received, dropped)
			}
			if l.Close(); l.Stats().Dropped != dropped {
				t.Errorf("after Close: %d dropped, want %d", l.Stats().Dropped, dropped)
			}
		})
	}
}
