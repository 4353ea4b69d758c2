package tunnel

import (
	"net"
	"slices"
	"testing"
	"time"
)

// BenchmarkPacketEcho sends a datagram to an echo service and back, one at a time,
// through a tunnel and straight. They take turns, so that a busy machine is unfair
// to both.
func BenchmarkPacketEcho(b *testing.B) {
	h := newHouse(b, loopback4)
	address := newPacketEcho(b)
	h.dialPacketTo(address)
	tunnelled := openFlow(b, h.dial(h.grant()))
	bare, err := net.Dial("udp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	for _, size := range []struct {
		name  string
		bytes int
	}{{"100", 100}, {"1200", 1200}, {"9000", 9000}} {
		b.Run(size.name, func(b *testing.B) {
			datagram := pattern(size.bytes)
			var ours, theirs []time.Duration
			timed := func(c net.Conn) time.Duration {
				begin := time.Now()
				bounce(b, c, datagram)
				return time.Since(begin)
			}
			timed(tunnelled)
			for b.Loop() {
				theirs = append(theirs, timed(bare))
				ours = append(ours, timed(tunnelled))
			}
			slices.Sort(ours)
			slices.Sort(theirs)
			b.ReportMetric(float64(ours[len(ours)/2].Microseconds()), "tunnel-p50-µs")
			b.ReportMetric(float64(ours[len(ours)*99/100].Microseconds()), "tunnel-p99-µs")
			b.ReportMetric(float64(theirs[len(theirs)/2].Microseconds()), "bare-p50-µs")
			b.ReportMetric(float64(theirs[len(theirs)*99/100].Microseconds()), "bare-p99-µs")
		})
	}
}

// BenchmarkPacketsOneWay sends as many datagrams as the path takes, and counts those
// that arrive.
func BenchmarkPacketsOneWay(b *testing.B) {
	const size = 1200
	h := newHouse(b, loopback4)
	arrived := make(chan int, 1)
	h.dialPacketTo(newPacketService(b, func(c *net.UDPConn) {
		n := 0
		for buffer := make([]byte, MaxPacket); ; n++ {
			if _, err := c.Read(buffer); err != nil {
				arrived <- n
				return
			}
			if n == 0 {
				continue
			}
			c.SetReadDeadline(time.Now().Add(time.Second))
		}
	}))
	p := openFlow(b, h.dial(h.grant()))
	datagram, sent := pattern(size), 0
	begin := time.Now()
	for b.Loop() {
		if _, err := p.Write(datagram); err != nil {
			b.Fatal(err)
		}
		sent++
	}
	took := time.Since(begin)
	n := <-arrived
	b.ReportMetric(float64(n)/took.Seconds(), "datagrams/s")
	b.ReportMetric(float64(n)*size*8/1e6/took.Seconds(), "Mbit/s")
	b.ReportMetric(100*float64(sent-n)/float64(sent), "%lost")
}
