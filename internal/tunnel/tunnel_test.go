package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

func TestTunnelCarriesBytesBothWays(t *testing.T) {
	testkit.NoLeak(t)
	for _, address := range []string{loopback4, loopback6, "[::]:0"} {
		t.Run(address, func(t *testing.T) {
			h := newHouse(t, address)
			conn := h.dial(h.grant())
			s := open(t, conn)
			echo(t, s, "hello")
			echo(t, s, strings.Repeat("0123456789abcdef", 100_000))
			if got := conn.Address(); got != h.address() {
				t.Errorf("address: got %v, want %v", got, h.address())
			}
			state := conn.quic.ConnectionState().TLS
			if state.CurveID != tls.X25519MLKEM768 || state.Version != tls.VersionTLS13 {
				t.Errorf("got %v, TLS %x", state.CurveID, state.Version)
			}
		})
	}
}

func TestHostThatIsNotTheOneIsRefused(t *testing.T) {
	for what, change := range map[string]func(h *house, c *DialConfig){
		"another id":        func(_ *house, c *DialConfig) { c.Host = key.NewID() },
		"another key":       func(_ *house, c *DialConfig) { c.Pin[5] ^= 1 },
		"another authority": func(h *house, c *DialConfig) { c.Roots = newAuthority(h.t).roots() },
		"expired": func(_ *house, c *DialConfig) {
			c.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
		},
		"a client's certificate": func(h *house, c *DialConfig) {
			h.cert = h.ca.issue(h.t, control.RoleClient, h.id, time.Hour)
			c.Pin = control.PublicKeyPin(h.cert.Leaf)
		},
		"a controller's certificate": func(h *house, c *DialConfig) {
			h.cert = h.ca.issue(h.t, control.RoleController, h.id, time.Hour)
			c.Pin = control.PublicKeyPin(h.cert.Leaf)
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := openHouse(t, loopback4)
			c := h.config(h.grant())
			change(h, &c)
			h.serve()
			conn, err := Dial(t.Context(), c)
			if !errors.Is(err, ErrVerify) || conn != nil {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestClientThatIsNotTheOneIsRefused(t *testing.T) {
	for what, test := range map[string]struct {
		cert func(h *house, s session) tls.Certificate
		want error
	}{
		"another device": {func(h *house, _ session) tls.Certificate {
			return h.ca.issue(h.t, control.RoleClient, key.NewID(), time.Hour)
		}, ErrDenied},
		"another authority": {func(h *house, s session) tls.Certificate {
			return newAuthority(h.t).issue(h.t, control.RoleClient, s.device, time.Hour)
		}, ErrRefused},
		"expired": {func(h *house, s session) tls.Certificate {
			return h.ca.issue(h.t, control.RoleClient, s.device, -time.Minute)
		}, ErrRefused},
		"a host's certificate": {func(h *house, s session) tls.Certificate {
			return h.ca.issue(h.t, control.RoleHost, s.device, time.Hour)
		}, ErrRefused},
		"somebody else's certificate without its key": {func(h *house, s session) tls.Certificate {
			stolen := h.ca.issue(h.t, control.RoleClient, s.device, time.Hour)
			stolen.PrivateKey = h.ca.issue(h.t, control.RoleClient, s.device, time.Hour).PrivateKey
			return stolen
		}, ErrRefused},
	} {
		t.Run(what, func(t *testing.T) {
			testkit.NoLeak(t)
			h := newHouse(t, loopback4)
			h.handle(func(context.Context, Peer) (Duplex, error) {
				t.Error("the service was reached")
				return nil, ErrUnreachable
			})
			s := h.grant()
			c := h.config(s)
			c.Certificate = test.cert(h, s)
			conn, err := Dial(t.Context(), c)
			if err == nil { // the client's side is done before the host has judged it
				defer conn.Close()
				_, err = conn.OpenStream(t.Context())
				<-conn.Done()
				if !errors.Is(conn.Err(), test.want) {
					t.Errorf("connection: got %v, want %v", conn.Err(), test.want)
				}
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestClientWithoutCertificateIsRefused(t *testing.T) {
	h := newHouse(t, loopback4)
	s := h.grant()
	gate := testGate(t, "127.0.0.1:0", nil)
	gate.Admit(h.address(), h.id)
	gate.send(h.seal(s), h.address())
	transport := &quic.Transport{Conn: gate}
	defer transport.Close()
	config := tlsConfig(time.Now)
	config.InsecureSkipVerify = true
	conn, err := transport.Dial(t.Context(), net.UDPAddrFromAddrPort(h.address()), config,
		quicConfig(time.Minute, 0, 0))
	if err == nil {
		<-conn.Context().Done()
		err = context.Cause(conn.Context())
	}
	if !errors.Is(translate(err), ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestSessionsAreNeverResumed(t *testing.T) {
	h := newHouse(t, loopback4)
	cache := tls.NewLRUClientSessionCache(8)
	for range 2 {
		s := h.grant()
		c := h.config(s)
		gate := testGate(t, "127.0.0.1:0", nil)
		gate.Admit(h.address(), h.id)
		gate.send(h.seal(s), h.address())
		config := (&dialer{DialConfig: c}).tls()
		config.Time = time.Now
		config.VerifyConnection = nil
		config.SessionTicketsDisabled = false
		config.ClientSessionCache = cache
		config.ServerName = "one-name"
		transport := &quic.Transport{Conn: gate}
		conn, err := transport.Dial(t.Context(), net.UDPAddrFromAddrPort(h.address()), config,
			quicConfig(time.Minute, 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := (&Conn{quic: conn, session: s.id}).OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		echo(t, stream, "a ticket would have come by now")
		if conn.ConnectionState().TLS.DidResume {
			t.Error("resumed")
		}
		if _, ok := cache.Get("one-name"); ok {
			t.Error("the host hands out tickets")
		}
		closeConn(conn, ReasonClosed, "")
		transport.Close()
	}
}

func TestStreamForAnotherSessionIsRefused(t *testing.T) {
	h := newHouse(t, loopback4)
	conn, other := h.dial(h.grant()), h.grant()
	conn.session = other.id
	_, err := conn.OpenStream(t.Context())
	if !errors.Is(err, ErrDenied) {
		t.Errorf("got %v", err)
	}
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Text == "" {
		t.Errorf("no text: %v", err)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	for _, test := range []struct {
		give error
		want error
		text string
	}{
		{&RefusedError{StatusDenied, "over at noon"}, ErrDenied, "over at noon"},
		{&RefusedError{StatusBusy, ""}, ErrBusy, ""},
		{fmt.Errorf("wrapped: %w", &RefusedError{StatusUnreachable, "down"}), ErrUnreachable, "down"},
		{errors.New("secret detail"), ErrUnreachable, "the host cannot reach the service"},
		{&RefusedError{StatusOK, "a slip"}, ErrDenied, "a slip"},
		{nil, ErrUnreachable, "the host cannot reach the service"},
	} {
		h.handle(func(context.Context, Peer) (Duplex, error) { return nil, test.give })
		_, err := conn.OpenStream(t.Context())
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || !errors.Is(err, test.want) || refused.Text != test.text {
			t.Errorf("%v: got %v", test.give, err)
		}
	}
}

func TestEndsAreTyped(t *testing.T) {
	for reason, want := range map[Reason]error{
		ReasonClosed: ErrClosed, ReasonExpired: ErrExpired, ReasonRevoked: ErrRevoked,
		ReasonShutdown: ErrShutdown, ReasonDenied: ErrDenied,
	} {
		h := newHouse(t, loopback4)
		s := h.grant()
		conn := h.dial(s)
		stream := open(t, conn)
		echo(t, stream, "hello")
		if got := h.server.CloseSession(s.id, reason, "by the test"); got != 1 {
			t.Errorf("closed %d connections", got)
		}
		_, readErr := io.ReadAll(stream)
		<-conn.Done()
		_, openErr := conn.OpenStream(t.Context())
		for _, err := range []error{conn.Err(), readErr, openErr} {
			closed, ok := errors.AsType[*ClosedError](err)
			if !ok || !errors.Is(err, want) || closed.Text != "by the test" {
				t.Errorf("%v: got %v", reason, err)
			}
		}
	}
}

func TestStoppingServerSaysSoAndLeavesNothingRunning(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	echo(t, open(t, conn), "hello")
	h.stop()
	<-conn.Done()
	if !errors.Is(conn.Err(), ErrShutdown) {
		t.Errorf("got %v", conn.Err())
	}
}

func TestRevokedSourceIsCutOffInTheMiddle(t *testing.T) {
	h := newHouse(t, loopback4)
	h.dialTo(newService(t, func(c *net.TCPConn) { // pours and drains without end
		go io.Copy(io.Discard, c)
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	s := h.grant()
	stream := open(t, h.dial(s))
	if _, err := io.CopyN(io.Discard, stream, 10<<20); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	source := h.sources[s.id]
	h.table.Remove(s.id) // its knocks are a stranger's from now on
	h.mu.Unlock()
	h.gate.Revoke(source)
	before := h.gate.Counters().Unsent
	// What is under way still arrives; nothing that is sent from now on does.
	if err := stream.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, stream)
	if err == nil || n > 2*streamWindowMax {
		t.Errorf("%d bytes came after the end, %v", n, err)
	}
	if h.gate.Counters().Unsent == before {
		t.Error("nothing was held back")
	}
	h.stop()
}

func TestHalfCloseLeavesTheOtherDirectionOpen(t *testing.T) {
	testkit.NoLeak(t)
	t.Run("client first", func(t *testing.T) {
		h := newHouse(t, loopback4)
		h.dialTo(newService(t, func(c *net.TCPConn) {
			all, err := io.ReadAll(c) // until the client's end
			if err == nil {
				fmt.Fprintf(c, "got %d bytes", len(all))
				c.CloseWrite()
			}
		}))
		s := open(t, h.dial(h.grant()))
		s.Write(make([]byte, 3<<20))
		s.CloseWrite()
		got, err := io.ReadAll(s)
		if want := fmt.Sprintf("got %d bytes", 3<<20); string(got) != want || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("service first", func(t *testing.T) {
		received := make(chan string, 1)
		h := newHouse(t, loopback4)
		h.dialTo(newService(t, func(c *net.TCPConn) {
			io.WriteString(c, "goodbye")
			c.CloseWrite()
			all, _ := io.ReadAll(c)
			received <- string(all)
		}))
		s := open(t, h.dial(h.grant()))
		got, err := io.ReadAll(s)
		if string(got) != "goodbye" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		io.WriteString(s, "one more thing")
		s.CloseWrite()
		if got := <-received; got != "one more thing" {
			t.Errorf("the service got %q", got)
		}
	})
}

func TestThousandStreamsAtOnce(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	var all, opened sync.WaitGroup
	opened.Add(1000)
	errs := make(chan error, 1000)
	for i := range 1000 {
		all.Go(func() {
			err := func() error {
				s, err := conn.OpenStream(t.Context())
				opened.Done()
				if err != nil {
					return err
				}
				defer s.Close()
				opened.Wait() // all are open now
				text := bytes.Repeat([]byte{byte(i)}, 10_000)
				if _, err := s.Write(text); err != nil {
					return err
				}
				s.CloseWrite()
				got, err := io.ReadAll(s)
				if err == nil && !bytes.Equal(got, text) {
					err = fmt.Errorf("stream %d: got %d bytes", i, len(got))
				}
				return err
			}()
			if err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func TestStreamsAreLimited(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	for range DefaultMaxStreams {
		if _, err := conn.OpenStream(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := conn.OpenStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one too many: got %v", err)
	}
}

// A client that lost its memory, or slept, comes again and again.
func TestNewerConnectionsOfASessionTakeThePlaceOfOlderOnes(t *testing.T) {
	h := newHouse(t, loopback4)
	s := h.grant()
	gate := testGate(t, "127.0.0.1:0", nil)
	gate.Admit(h.address(), h.id)
	gate.send(h.seal(s), h.address())
	transport := &quic.Transport{Conn: gate}
	defer transport.Close()
	config := (&dialer{DialConfig: h.config(s)}).tls()
	config.Time, config.VerifyConnection = time.Now, nil
	var conns []*quic.Conn
	for i := range 2 * maxTogether {
		conn, err := transport.Dial(t.Context(), net.UDPAddrFromAddrPort(h.address()), config,
			quicConfig(time.Minute, 0, 0))
		if err != nil {
			t.Fatalf("connection %d: got %v", i, err)
		}
		conns = append(conns, conn)
		eventually(t, "the server to know it", func() bool {
			h.server.mu.Lock()
			defer h.server.mu.Unlock()
			return len(h.server.conns[s.id]) == min(i+1, maxTogether)
		})
	}
	for i, conn := range conns {
		if i < maxTogether {
			<-conn.Context().Done()
			if err := cause(conn.Context()); !errors.Is(err, ErrShutdown) {
				t.Errorf("connection %d ended with %v", i, err)
			}
		} else if conn.Context().Err() != nil {
			t.Errorf("connection %d has ended: %v", i, cause(conn.Context()))
		}
	}
}

func TestHandshakesOfASessionAreLimited(t *testing.T) {
	h := newHouse(t, loopback4)
	s := h.grant()
	info := &quic.ClientInfo{RemoteAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:9"))}
	h.gate.Admit(netip.MustParseAddrPort("127.0.0.1:9"), s.id)
	ctx, cancel := context.WithCancel(t.Context())
	for i := range maxConnections + 1 {
		_, err := h.server.arrive(ctx, info)
		if want := i == maxConnections; errors.Is(err, ErrBusy) != want {
			t.Errorf("connection %d: got %v", i, err)
		}
	}
	cancel()
	eventually(t, "them to be counted out", func() bool {
		_, err := h.server.arrive(ctx, info)
		return err == nil
	})
}

func TestSlowReaderHoldsTheWriterUp(t *testing.T) {
	h := newHouse(t, loopback4)
	blocked := make(chan int, 1)
	h.dialTo(newService(t, func(c *net.TCPConn) {
		total := 0
		for {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			n, err := c.Write(make([]byte, 1<<16))
			total += n
			if err != nil {
				blocked <- total
				return
			}
		}
	}))
	open(t, h.dial(h.grant()))                        // and never read
	const most = streamWindowMax + maxBuffer + 16<<20 // QUIC, the copy, TCP's own
	if got := <-blocked; got > most {
		t.Errorf("%d bytes are somewhere on the way, want at most %d", got, most)
	}
}

func TestHeaderMustComeInTime(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	q, err := conn.quic.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q.Write([]byte{byte(kindTCP)}) // and no more
	q.SetReadDeadline(time.Now().Add(2 * headerTimeout))
	err = readAnswer(&Stream{quic: q, conn: conn.quic})
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || refused.Status != StatusMalformed {
		t.Errorf("got %v", err)
	}
}

// The class of CVE-2026-7776: clients that begin a handshake and stop must not
// keep others out.
func TestStalledHandshakesBlockNobody(t *testing.T) {
	h := newHouse(t, loopback4)
	flights := make([][][]byte, 64) // made first, which takes its time
	for i := range flights {
		flights[i] = append([][]byte{h.seal(h.grant())}, firstFlight(t)...)
	}
	stalls := testkit.WatchStalls(t)
	for _, flight := range flights {
		c := newSocket(t, h.address())
		for _, d := range flight {
			if _, err := c.Write(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all handshakes have begun", func() bool {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		return len(h.server.count) == 64
	})
	begin := time.Now()
	echo(t, open(t, h.dial(h.grant())), "hello")
	if took := time.Since(begin); took > stalls.Within(handshakeTimeout/2) {
		t.Errorf("took %v", took)
	}
	eventually(t, "the stalled ones are given up", func() bool {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		return len(h.server.count) == 1
	})
}

func TestDialFindsTheAddressThatAnswers(t *testing.T) {
	silentEnd, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silentEnd.Close()
	h := newHouse(t, loopback6)
	c := h.config(h.grant())
	dead := silentEnd.LocalAddr().(*net.UDPAddr).AddrPort()
	closed := netip.MustParseAddrPort("127.0.0.1:9")
	c.Addresses = []netip.AddrPort{dead, closed, h.address()}
	stalls := testkit.WatchStalls(t)
	begin := time.Now()
	conn := dial(t, c)
	echo(t, open(t, conn), "hello")
	if conn.Address() != h.address() {
		t.Errorf("connected to %v", conn.Address())
	}
	if took := time.Since(begin); took > stalls.Within(2*time.Second) {
		t.Errorf("took %v", took)
	}
}

func TestDialSurvivesALostKnock(t *testing.T) {
	h := newHouse(t, loopback4)
	best := time.Hour
	for range 5 {
		s := h.grant()
		c := h.config(s)
		knocks := 0
		c.Knock = func() []byte {
			if knocks++; knocks == 1 {
				return nil
			}
			return h.seal(s)
		}
		begin := time.Now()
		dial(t, c)
		best = min(best, time.Since(begin))
	}
	// QUIC alone would have sent its first packets again after 200 ms.
	if best > 150*time.Millisecond {
		t.Errorf("the fastest took %v", best)
	}
}

func TestDialOfSilenceEnds(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	c := h.config(h.grant())
	c.Knock = func() []byte { return make([]byte, knockSize) }
	c.Timeout = 300 * time.Millisecond
	if _, err := Dial(t.Context(), c); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	cancel(why)
	if _, err := Dial(ctx, c); !errors.Is(err, why) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestIncompleteDialConfigIsRefused(t *testing.T) {
	h := newHouse(t, loopback4)
	for what, change := range map[string]func(*DialConfig){
		"no address":   func(c *DialConfig) { c.Addresses = nil },
		"zero address": func(c *DialConfig) { c.Addresses = make([]netip.AddrPort, 1) },
		"no host":      func(c *DialConfig) { c.Host = key.ID{} },
		"no pin":       func(c *DialConfig) { c.Pin = [32]byte{} },
		"no session":   func(c *DialConfig) { c.Session = key.ID{} },
		"no roots":     func(c *DialConfig) { c.Roots = nil },
		"no knock":     func(c *DialConfig) { c.Knock = nil },
		"no cert":      func(c *DialConfig) { c.Certificate = tls.Certificate{} },
	} {
		c := h.config(h.grant())
		change(&c)
		if _, err := Dial(t.Context(), c); !errors.Is(err, ErrConfig) && !errors.Is(err, ErrNoAddress) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if _, err := NewServer(h.gate, ServerConfig{}); !errors.Is(err, ErrConfig) {
		t.Errorf("empty server: got %v", err)
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if !errors.Is(conn.Err(), ErrClosed) {
		t.Errorf("got %v", conn.Err())
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
