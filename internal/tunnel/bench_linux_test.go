package tunnel

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// BenchmarkCopyAgainstBareQUIC carries the same bytes, up and down, over a tunnel
// and over a copy loop on QUIC with mutual TLS as it comes. They take turns, so
// that a busy machine is unfair to both. Both ends and the load share the process.
func BenchmarkCopyAgainstBareQUIC(b *testing.B) {
	const amount = 256 << 20 // bytes, of one turn
	tunnel, bare := tunnelDialer(b), bareDialer(b)
	for name, up := range map[string]bool{"up": true, "down": false} {
		b.Run(name, func(b *testing.B) {
			var ours, theirs spent
			carry(b, tunnel, up, amount/8) // windows open
			carry(b, bare, up, amount/8)
			for b.Loop() {
				theirs.add(carry(b, bare, up, amount))
				ours.add(carry(b, tunnel, up, amount))
			}
			b.SetBytes(2 * amount)
			b.ReportMetric(ours.mbits(), "tunnel-Mbit/s")
			b.ReportMetric(theirs.mbits(), "bare-Mbit/s")
			b.ReportMetric(ours.mbits()/theirs.mbits(), "times-bare")
			b.ReportMetric(ours.cpuPerGB(), "tunnel-cpu-s/GB")
			b.ReportMetric(theirs.cpuPerGB(), "bare-cpu-s/GB")
		})
	}
}

// spent is what carrying some bytes took.
type spent struct {
	bytes     int
	wall, cpu time.Duration
}

func (s *spent) add(o spent) {
	s.bytes += o.bytes
	s.wall += o.wall
	s.cpu += o.cpu
}

func (s spent) mbits() float64    { return float64(s.bytes) * 8 / 1e6 / s.wall.Seconds() }
func (s spent) cpuPerGB() float64 { return s.cpu.Seconds() / (float64(s.bytes) / 1e9) }

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dialFunc returns the two TCP ends of a new way.
type dialFunc func(b *testing.B) (app, service net.Conn)

func carry(b *testing.B, dial dialFunc, up bool, amount int) spent {
	from, to := dial(b)
	if !up {
		from, to = to, from
	}
	defer from.Close()
	defer to.Close()
	cpu, begin := cpuTime(b), time.Now()
	var sending sync.WaitGroup
	sending.Go(func() {
		block := make([]byte, 256<<10)
		for left := amount; left > 0; {
			n, err := from.Write(block[:min(left, len(block))])
			if err != nil {
				b.Error(err)
				return
			}
			left -= n
		}
	})
	if _, err := io.CopyBuffer(onlyWriter{}, io.LimitReader(to, int64(amount)),
		make([]byte, 256<<10)); err != nil {
		b.Error(err)
	}
	sending.Wait()
	return spent{amount, time.Since(begin), cpuTime(b) - cpu}
}

type onlyWriter struct{}

func (onlyWriter) Write(b []byte) (int, error) { return len(b), nil }

// tcpEnds returns a local TCP connection as (application's end, proxy's end).
func tcpEnds(b *testing.B) (outer, inner *net.TCPConn) { return tcpPair(b) }

func tunnelDialer(b *testing.B) dialFunc {
	h := newHouse(b, loopback4)
	services := make(chan *net.TCPConn, 1)
	h.handle(func(context.Context, Peer) (Duplex, error) {
		outer, inner := tcpEnds(b)
		services <- outer
		return inner, nil
	})
	conn := h.dial(h.grant())
	return func(b *testing.B) (net.Conn, net.Conn) {
		app, local := tcpEnds(b)
		stream, err := conn.OpenStream(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		go Copy(context.Background(), local, stream)
		return app, <-services
	}
}

// bareDialer is what a few lines on top of quic-go make.
func bareDialer(b *testing.B) dialFunc {
	ca := newAuthority(b)
	server := ca.issue(b, control.RoleHost, key.NewID(), time.Hour)
	client := ca.issue(b, control.RoleClient, key.NewID(), time.Hour)
	listener, err := quic.ListenAddr(loopback4, &tls.Config{
		Certificates: []tls.Certificate{server}, NextProtos: []string{ALPN},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.roots(),
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() })
	conn, err := quic.DialAddr(b.Context(), listener.Addr().String(), &tls.Config{
		Certificates: []tls.Certificate{client}, NextProtos: []string{ALPN},
		InsecureSkipVerify: true,
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	accepted, err := listener.Accept(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	loop := func(c *net.TCPConn, s *quic.Stream) {
		go func() {
			io.Copy(s, c)
			s.Close()
		}()
		io.Copy(c, s)
		c.CloseWrite()
	}
	return func(b *testing.B) (net.Conn, net.Conn) {
		app, local := tcpEnds(b)
		service, backend := tcpEnds(b)
		out, err := conn.OpenStream()
		if err != nil {
			b.Fatal(err)
		}
		out.Write([]byte{1}) // a stream begins with its first byte
		in, err := accepted.AcceptStream(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		io.ReadFull(in, make([]byte, 1))
		go loop(local, out)
		go loop(backend, in)
		return app, service
	}
}

// BenchmarkConnect is a knock, a handshake and a first stream.
func BenchmarkConnect(b *testing.B) {
	h := newHouse(b, loopback4)
	s := h.grant()
	c := h.config(s)
	for b.Loop() {
		conn, err := Dial(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		stream, err := conn.OpenStream(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		stream.Close()
		conn.Close()
	}
}
