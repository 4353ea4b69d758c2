package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// authority is a CA for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, k}
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue issues a certificate that is valid until the given time from now.
func (a *authority) issue(t testing.TB, role control.Role, id key.ID,
	until time.Duration) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if role != control.RoleClient { // hosts are the controller's clients, too
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	uri := control.Identity{Authority: "test", Role: role, ID: id}.URI()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(until),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

// session is one granted session.
type session struct {
	id     key.ID
	secret key.HostKnock
	device key.ID
}

// house is a host: a gate with real host knocks, a server, a service.
type house struct {
	t        testing.TB
	ca       *authority
	id       key.ID
	cert     tls.Certificate
	gate     *Gate
	reset    key.Subkey
	server   *Server
	table    *spa.Table[key.HostKnock]
	receiver *spa.HostKnockReceiver
	stop     func()

	mu       sync.Mutex
	sessions map[key.ID]session
	sources  map[key.ID]netip.AddrPort
	connect  func(context.Context, Peer) (Duplex, error)
	packets  func(context.Context, Peer) (net.Conn, error)

	tune func(*ServerConfig) // before serve
}

const loopback4, loopback6 = "127.0.0.1:0", "[::1]:0"

// newHouse builds a host whose service echoes.
func newHouse(t testing.TB, address string) *house {
	t.Helper()
	h := openHouse(t, address)
	h.serve()
	return h
}

// openHouse builds a host that has its socket open and does not read it yet.
func openHouse(t testing.TB, address string) *house {
	t.Helper()
	h := &house{
		t: t, ca: newAuthority(t), id: key.NewID(),
		table:    spa.NewTable[key.HostKnock](time.Now()),
		sessions: make(map[key.ID]session), sources: make(map[key.ID]netip.AddrPort),
	}
	h.cert = h.ca.issue(t, control.RoleHost, h.id, time.Hour)
	h.receiver = spa.NewHostKnockReceiver(h.id, h.table, replay.NewMemory())
	h.dialTo(newEcho(t))
	h.dialPacketTo(newPacketEcho(t))
	var err error
	if h.gate, err = Listen(netip.MustParseAddrPort(address), h.knock); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.gate.Close() })
	return h
}

func (h *house) serve() {
	h.t.Helper()
	config := ServerConfig{
		Certificate: func() (*tls.Certificate, error) { return &h.cert, nil },
		Roots:       h.ca.roots(),
		Reset:       h.reset,
		Authorize:   h.authorize,
		Connect: func(ctx context.Context, p Peer) (Duplex, error) {
			h.mu.Lock()
			connect := h.connect
			h.mu.Unlock()
			return connect(ctx, p)
		},
		ConnectPacket: func(ctx context.Context, p Peer) (net.Conn, error) {
			h.mu.Lock()
			packets := h.packets
			h.mu.Unlock()
			return packets(ctx, p)
		},
		Log: slog.New(slog.DiscardHandler),
	}
	if h.tune != nil {
		h.tune(&config)
	}
	var err error
	h.server, err = NewServer(h.gate, config)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			h.t.Errorf("serve: %v", err)
		}
	})
	h.t.Cleanup(h.stop)
}

// knock is what a host's agent does: the newest source of a session replaces the
// one before.
func (h *house) knock(datagram []byte, source, _ netip.AddrPort) bool {
	id, reason := h.receiver.Receive(datagram, time.Now())
	if reason != spa.ReasonOK {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.sources[id]; ok && old != source {
		h.gate.Revoke(old)
	}
	h.sources[id] = source
	h.gate.Admit(source, id)
	return true
}

func (h *house) authorize(_ context.Context, p Peer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s, ok := h.sessions[p.Session]; !ok || s.device != p.Identity.ID {
		return &RefusedError{Status: StatusDenied, Text: "not this device's session"}
	}
	return nil
}

// dialTo makes address the service.
func (h *house) dialTo(address string) {
	h.handle(func(ctx context.Context, _ Peer) (Duplex, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	})
}

func (h *house) handle(connect func(context.Context, Peer) (Duplex, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connect = connect
}

// dialPacketTo makes address the UDP service.
func (h *house) dialPacketTo(address string) {
	h.handlePacket(func(ctx context.Context, _ Peer) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", address)
	})
}

func (h *house) handlePacket(connect func(context.Context, Peer) (net.Conn, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.packets = connect
}

// grant opens a session for a new device.
func (h *house) grant() session {
	s := session{id: key.NewID(), secret: key.NewHostKnock(), device: key.NewID()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[s.id] = s
	h.table.Put(s.id, s.secret)
	return s
}

// address is where clients on this machine dial.
func (h *house) address() netip.AddrPort {
	a := h.gate.Addr()
	if a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port())
	}
	return a
}

func (h *house) seal(s session) []byte {
	return spa.SealHostKnock(s.secret, h.id, s.id, time.Now())
}

func (h *house) config(s session) DialConfig {
	return DialConfig{
		Addresses: []netip.AddrPort{h.address()}, Host: h.id, Session: s.id,
		Pin:         control.PublicKeyPin(h.cert.Leaf),
		Knock:       func() []byte { return h.seal(s) },
		Certificate: h.ca.issue(h.t, control.RoleClient, s.device, time.Hour),
		Roots:       h.ca.roots(),
	}
}

func (h *house) dial(s session) *Conn {
	h.t.Helper()
	return dial(h.t, h.config(s))
}

func dial(t testing.TB, c DialConfig) *Conn {
	t.Helper()
	conn, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t testing.TB, c *Conn) *Stream {
	t.Helper()
	s, err := c.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// echo sends text and wants it back.
func echo(t testing.TB, s net.Conn, text string) {
	t.Helper()
	if err := s.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(s, got); err != nil {
		t.Fatalf("read: %v", err)
	}
	if string(got) != text {
		t.Fatalf("echo: got %q, want %q", got, text)
	}
}

// newService runs serve for each TCP connection to the address returned.
func newService(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

func newEcho(t testing.TB) string {
	return newService(t, func(c *net.TCPConn) {
		if _, err := io.Copy(c, c); err == nil {
			c.CloseWrite()
		}
	})
}

// newSocket opens a plain UDP socket that sends to the address.
func newSocket(t testing.TB, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// silent fails the test when anything comes to c within the time.
func silent(t testing.TB, c *net.UDPConn, within time.Duration) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	for {
		n, err := c.Read(b)
		if err == nil {
			t.Fatalf("answered with %d bytes: %x...", n, b[:min(n, 16)])
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			return
		}
		t.Fatalf("answered with an error: %v", err)
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, what, condition)
}
