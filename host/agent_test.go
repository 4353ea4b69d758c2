package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// The tests of this file run the agent as a process of its own, in a network
// namespace, with the real firewall:
//
//	       192.0.2.0/24, 2001:db8::/64
//	controller .1    host .2    client .3 (and .4)
//	    └──────────────┴───────────┘
//
// The process is this test program again: see TestMain.
const (
	hostAddress = "192.0.2.2"
	clientOne   = "192.0.2.3"
	clientTwo   = "192.0.2.4"
	agentEnv    = "POSTERN_TEST_AGENT"   // JSON of Settings: be an agent
	decidedEnv  = "POSTERN_TEST_DECIDED" // an agent that does what is decided about the protection
)

func TestMain(m *testing.M) {
	text, isAgent := os.LookupEnv(agentEnv)
	if !isAgent {
		os.Exit(m.Run())
	}
	if err := beAgent(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func beAgent(text string) error {
	var s Settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	fw, err := nft.New(nft.Config{Table: s.Firewall.Table})
	if err != nil {
		return err
	}
	defer fw.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := Config{Settings: s, Firewall: fw, Log: log, Version: "test"}
	if os.Getenv(decidedEnv) != "" {
		cfg.Protection = &protect.Store{Folder: s.State}
	}
	return Run(ctx, cfg)
}

// lab is the namespaces with a controller, and an agent that tests start.
type lab struct {
	t          *testing.T
	host       *testkit.Namespace
	client     *testkit.Namespace
	controller *testController
	settings   Settings
	identity   hostIdentity
	process    *exec.Cmd
	log        *logBuffer
	target     net.Listener // the service, on the host's loopback
}

// logBuffer is what the agent wrote.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLab(t *testing.T) *lab {
	t.Helper()
	lan := testkit.NewSwitch(t)
	l := &lab{t: t, log: &logBuffer{}}
	outside := lan.Attach(t, "192.0.2.1/24", "2001:db8::1/64")
	l.host = lan.Attach(t, hostAddress+"/24", "2001:db8::2/64")
	l.client = lan.Attach(t, clientOne+"/24", clientTwo+"/24", "2001:db8::3/64")
	l.controller = newController(t, func(address string) net.PacketConn {
		return listenIn(t, outside, address)
	}, "192.0.2.1")
	l.identity = l.controller.ca.host(t)
	l.controller.table.Put(l.identity.id, l.identity.secret)
	l.settings = Defaults()
	l.settings.State = t.TempDir()
	l.settings.StatusSocket = filepath.Join(t.TempDir(), "status.sock")
	if err := os.Chmod(l.settings.State, 0o700); err != nil {
		t.Fatal(err)
	}
	l.identity.write(t, l.settings.State, l.controller.ca, l.controller.controller())
	l.serveEcho()
	t.Cleanup(func() {
		l.kill()
		if t.Failed() {
			t.Logf("the agent's log:\n%s", l.log)
		}
	})
	return l
}

func listenIn(t testing.TB, ns *testkit.Namespace, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(t, func() { c, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveEcho is the protected service.
func (l *lab) serveEcho() {
	l.t.Helper()
	var err error
	l.host.Do(l.t, func() { l.target, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		l.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.target.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	l.t.Cleanup(func() {
		l.target.Close()
		l.kill()
		serving.Wait()
	})
}

// start starts the agent and returns its first stream at the controller.
func (l *lab) start() *hostLink {
	l.t.Helper()
	l.startAlone()
	return l.controller.next(l.t.Context())
}

// startAlone starts the agent, whatever becomes of its controller.
func (l *lab) startAlone() {
	l.t.Helper()
	text, err := json.Marshal(l.settings)
	if err != nil {
		l.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	l.process = exec.Command(self)
	l.process.Env = append(os.Environ(), agentEnv+"="+string(text))
	l.process.Stderr = l.log
	l.host.Do(l.t, func() { err = l.process.Start() })
	if err != nil {
		l.t.Fatal(err)
	}
}

// kill ends the agent with SIGKILL.
func (l *lab) kill() {
	if l.process != nil && l.process.ProcessState == nil {
		_ = l.process.Process.Kill()
		_ = l.process.Wait()
	}
}

// stop ends the agent with SIGTERM.
func (l *lab) stop() {
	l.t.Helper()
	if err := l.process.Process.Signal(syscall.SIGTERM); err != nil {
		l.t.Fatal(err)
	}
	if err := l.process.Wait(); err != nil {
		l.t.Fatalf("the agent ended with %v", err)
	}
}

// firewall is a second look at the host's kernel.
func (l *lab) firewall() firewall.Firewall {
	l.t.Helper()
	fw, err := nft.New(nft.Config{Table: l.settings.Firewall.Table, NetNS: l.host.FD()})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { fw.Close() })
	return fw
}

func (l *lab) pinholes(fw firewall.Firewall) []firewall.Pinhole {
	l.t.Helper()
	all, err := fw.List(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

// device is a client: its certificate, and the session it was granted.
type device struct {
	lab     *lab
	id      key.ID
	session control.Session
}

func (l *lab) device(source string, ttl time.Duration) *device {
	id := key.NewID()
	return &device{l, id, control.Session{
		ID: key.NewID(), Device: id, Service: "echo", Target: l.target.Addr().String(),
		Source: netip.MustParseAddr(source), TTL: control.Duration(ttl),
		Deadline: time.Now().Add(ttl), Knock: control.HostKnockText{HostKnock: key.NewHostKnock()},
	}}
}

func (d *device) knock() []byte {
	return spa.SealHostKnock(d.session.Knock.HostKnock, d.lab.identity.id, d.session.ID, time.Now())
}

func (d *device) config() tunnel.DialConfig {
	return tunnel.DialConfig{
		Addresses: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(hostAddress), 4042)},
		Host:      d.lab.identity.id, Pin: control.PublicKeyPin(d.lab.identity.cert.Leaf),
		Session: d.session.ID, Knock: d.knock, Roots: d.lab.controller.ca.pool(),
		Certificate: d.lab.controller.ca.certificate(d.lab.t, control.RoleClient, d.id),
		Timeout:     3 * time.Second,
	}
}

func (d *device) dial(c tunnel.DialConfig) (*tunnel.Conn, error) {
	var conn *tunnel.Conn
	var err error
	d.lab.client.Do(d.lab.t, func() { conn, err = tunnel.Dial(d.lab.t.Context(), c) })
	if err == nil {
		d.lab.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// connect opens a stream to the service.
func (d *device) connect() (*tunnel.Conn, *tunnel.Stream) {
	t := d.lab.t
	t.Helper()
	conn, err := d.dial(d.config())
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return conn, s
}

func echo(t testing.TB, s io.ReadWriter, line string) {
	t.Helper()
	if _, err := io.WriteString(s, line+"\n"); err != nil {
		t.Fatal(err)
	}
	got, err := bufio.NewReader(s).ReadString('\n')
	if err != nil || got != line+"\n" {
		t.Fatalf("echo of %q: %q, %v", line, got, err)
	}
}

func TestAnAccessFromOrderToRevocation(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	if h := link.hello; h.Port != 4042 || h.Version != "test" || len(h.Sessions) != 0 {
		t.Errorf("hello: %+v", h)
	}
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	holes := l.pinholes(fw)
	if len(holes) != 1 || holes[0].SourcePort != 0 || holes[0].TTL > wideTTL {
		t.Fatalf("after the order: %v", holes)
	}
	conn, s := d.connect()
	echo(t, s, "hello")
	testkit.Eventually(t, 10*time.Second, "the pinhole is exact", func() bool {
		holes = l.pinholes(fw)
		return len(holes) == 1 && holes[0].SourcePort != 0 && holes[0].TTL > wideTTL
	})
	var status Status
	testkit.Eventually(t, 10*time.Second, "all bytes are counted", func() bool {
		var err error
		if status, err = ReadStatus(t.Context(), l.settings.StatusSocket); err != nil {
			t.Fatal(err)
		}
		return len(status.Sessions) == 1 && status.Sessions[0].Bytes == 12
	})
	if !status.Link.Connected || len(status.Sessions) != 1 || !status.Sessions[0].Bound ||
		status.Sessions[0].Tunnels != 1 || len(status.Pinholes) != 1 {
		t.Errorf("status: %+v", status)
	}
	start := time.Now()
	link.order(control.ToHost{Close: &control.CloseHost{Session: d.session.ID, Reason: "revoked"}})
	t.Logf("revoked, on the disk and acknowledged after %v", time.Since(start))
	if holes := l.pinholes(fw); len(holes) != 0 {
		t.Errorf("after the close order: %v", holes)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrRevoked) {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := conn.OpenStream(t.Context()); !errors.Is(err, tunnel.ErrRevoked) {
		t.Errorf("a new stream: %v", err)
	}
	select {
	case e := <-link.ended:
		if e.Session != d.session.ID || e.Reason != "revoked" || e.Bytes != 12 {
			t.Errorf("told %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("the controller was not told")
	}
}

func TestRevocationCutsATransferInTheMiddle(t *testing.T) {
	l := newLab(t)
	link := l.start()
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	var sending sync.WaitGroup
	sending.Go(func() {
		block := make([]byte, 64<<10)
		for {
			if _, err := s.Write(block); err != nil {
				return
			}
		}
	})
	last := make(chan time.Time, 1)
	flowing := make(chan struct{})
	sending.Go(func() {
		block := make([]byte, 64<<10)
		seen, once := 0, sync.Once{}
		for {
			n, err := s.Read(block)
			if seen += n; seen > 8<<20 {
				once.Do(func() { close(flowing) })
			}
			if err != nil {
				last <- time.Now()
				return
			}
		}
	})
	select {
	case <-flowing:
	case <-time.After(10 * time.Second):
		t.Fatal("the transfer does not flow")
	}
	stalls := testkit.WatchStalls(t)
	start := time.Now()
	link.send(control.ToHost{Close: &control.CloseHost{Session: d.session.ID, Reason: "revoked"}})
	select {
	case end := <-last:
		if took := end.Sub(start); took > stalls.Within(500*time.Millisecond) {
			t.Errorf("the last byte came %v after the revocation", took)
		} else {
			t.Logf("cut after %v", took)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the transfer went on")
	}
	sending.Wait()
}

// quicVersionProbe is an answer's best invitation: a packet of an unknown QUIC
// version, to which a server that listens says which ones it speaks (RFC 9000, 6.1).
func quicVersionProbe() []byte {
	b := make([]byte, 1200)
	b[0] = 0xc0
	copy(b[1:], []byte{0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8})
	return b
}

// silent sends datagrams from the socket to the tunnel's port and fails on any answer.
func silent(t testing.TB, c net.PacketConn, datagrams ...[]byte) {
	t.Helper()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(hostAddress + ":4042"))
	for _, d := range datagrams {
		if _, err := c.WriteTo(d, to); err != nil {
			t.Fatalf("probe: %v", err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, from, err := c.ReadFrom(make([]byte, 2048))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes from %v, %v; want silence", n, from, err)
	}
}

func TestNeighbourInsideThePinholeMeetsSilence(t *testing.T) {
	l := newLab(t)
	link := l.start()
	d := l.device(clientOne, time.Hour)
	neighbour := listenIn(t, l.client, clientOne+":0") // the same address behind the NAT
	defer neighbour.Close()
	silent(t, neighbour, quicVersionProbe()) // before there is a pinhole

	link.order(control.ToHost{Open: &d.session})
	garbage := make([]byte, spa.Size)
	silent(t, neighbour, quicVersionProbe(), garbage) // in the wide one
	status, err := ReadStatus(t.Context(), l.settings.StatusSocket)
	if err != nil {
		t.Fatal(err)
	}
	if status.Silenced < 2 {
		t.Errorf("the socket silenced %d datagrams: the probes did not get to it", status.Silenced)
	}
	_, s := d.connect()
	echo(t, s, "hello")
	silent(t, neighbour, quicVersionProbe()) // beside the exact one
	echo(t, s, "still here")
}

func TestClientFromAnotherAddressThanTheControllerSawGetsIn(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	d := l.device("198.51.100.99", time.Hour) // what the controller saw
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	echo(t, s, "hello")
	testkit.Eventually(t, 10*time.Second, "one exact pinhole", func() bool {
		holes := l.pinholes(fw)
		return len(holes) == 1 && holes[0].SourcePort != 0 && holes[0].Source.String() == clientOne
	})
}

func TestWithoutCaptureOnlyTheOrderedAddressGetsIn(t *testing.T) {
	l := newLab(t)
	l.settings.Tunnel.Capture = false
	link := l.start()
	d, elsewhere := l.device(clientOne, time.Hour), l.device("198.51.100.99", time.Hour)
	link.order(control.ToHost{Open: &d.session})
	link.order(control.ToHost{Open: &elsewhere.session})
	_, s := d.connect()
	echo(t, s, "hello")
	c := elsewhere.config()
	c.Timeout = time.Second
	if _, err := elsewhere.dial(c); !errors.Is(err, tunnel.ErrNoAnswer) {
		t.Errorf("from another address: %v, want ErrNoAnswer", err)
	}
}

func TestAnAccessOverIPv6(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	d := l.device("2001:db8::3", time.Hour)
	link.order(control.ToHost{Open: &d.session})
	c := d.config()
	c.Addresses = []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::2]:4042")}
	conn, err := d.dial(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	echo(t, s, "hello")
	testkit.Eventually(t, 10*time.Second, "one exact pinhole", func() bool {
		holes := l.pinholes(fw)
		return len(holes) == 1 && holes[0].SourcePort != 0 && holes[0].Source.Is6()
	})
}

func TestCertificateOfAnotherDeviceIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*device, *tunnel.DialConfig){
		"another device": func(d *device, c *tunnel.DialConfig) {
			c.Certificate = d.lab.controller.ca.certificate(d.lab.t, control.RoleClient, key.NewID())
		},
		"a host with the device's id": func(d *device, c *tunnel.DialConfig) {
			c.Certificate = d.lab.controller.ca.certificate(d.lab.t, control.RoleHost, d.id)
		},
		"another authority": func(d *device, c *tunnel.DialConfig) {
			c.Certificate = newAuthority(d.lab.t).certificate(d.lab.t, control.RoleClient, d.id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			link := l.start()
			d := l.device(clientOne, time.Hour)
			link.order(control.ToHost{Open: &d.session})
			c := d.config()
			spoil(d, &c)
			conn, err := d.dial(c)
			if err == nil {
				_, err = conn.OpenStream(t.Context())
			}
			if !errors.Is(err, tunnel.ErrDenied) && !errors.Is(err, tunnel.ErrRefused) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

func TestStreamForAnotherSessionIsRefused(t *testing.T) {
	l := newLab(t)
	link := l.start()
	d, other := l.device(clientOne, time.Hour), l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	link.order(control.ToHost{Open: &other.session})
	c := d.config()
	c.Session = other.session.ID // in the stream's header; the knock is d's own
	conn, err := d.dial(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.OpenStream(t.Context()); !errors.Is(err, tunnel.ErrDenied) {
		t.Errorf("got %v, want ErrDenied", err)
	}
}

func TestReplayedHostKnockMovesNothing(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	recorded := d.knock()
	first := make(chan []byte, 1)
	first <- recorded
	c := d.config()
	c.Knock = func() []byte { // also whenever the path falls silent
		select {
		case knock := <-first:
			return knock
		default:
			return d.knock()
		}
	}
	conn, err := d.dial(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	echo(t, s, "hello")
	testkit.Eventually(t, 10*time.Second, "an exact pinhole", func() bool {
		h := l.pinholes(fw)
		return len(h) == 1 && h[0].SourcePort != 0
	})
	want := l.pinholes(fw)[0].Opening()
	thief := listenIn(t, l.client, clientTwo+":0")
	defer thief.Close()
	replay := func() {
		t.Helper()
		silent(t, thief, recorded, quicVersionProbe())
		if got := l.pinholes(fw); len(got) != 1 || got[0].Opening() != want {
			t.Errorf("after the replay: %v, want %v", got, want)
		}
	}
	replay()
	echo(t, s, "still here")
	l.kill()
	l.controller.mu.Lock()
	l.controller.list = []control.Session{d.session}
	l.controller.mu.Unlock()
	l.start()
	replay() // the journal survived kill -9
}

func TestPinholeOfAKilledAgentEndsAtItsDeadline(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	const ttl = 3 * time.Second
	d := l.device(clientOne, ttl)
	ordered := time.Now()
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	echo(t, s, "hello")
	l.kill()
	if holes := l.pinholes(fw); len(holes) != 1 {
		t.Fatalf("right after kill -9: %v", holes)
	}
	var took time.Duration // until the last look that found it open
	testkit.Eventually(t, ttl+10*time.Second, "the kernel closed the pinhole", func() bool {
		begun := time.Since(ordered)
		if len(l.pinholes(fw)) == 0 {
			return true
		}
		took = begun
		return false
	})
	if took > ttl+500*time.Millisecond {
		t.Errorf("the pinhole ended %v after the order, granted were %v", took, ttl)
	}
}

func TestRestartLosesNoSession(t *testing.T) {
	for name, end := range map[string]func(*lab){"kill -9": (*lab).kill, "SIGTERM": (*lab).stop} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			link := l.start()
			fw := l.firewall()
			d, gone := l.device(clientOne, time.Hour), l.device(clientTwo, time.Hour)
			link.order(control.ToHost{Open: &d.session})
			link.order(control.ToHost{Open: &gone.session})
			old, s := d.connect()
			echo(t, s, "hello")
			link.order(control.ToHost{Close: &control.CloseHost{
				Session: gone.session.ID, Reason: "revoked",
			}})
			end(l)
			before := l.pinholes(fw)
			if len(before) != 1 || before[0].SourcePort == 0 {
				t.Fatalf("with no agent: %v", before)
			}
			l.controller.mu.Lock()
			l.controller.list = []control.Session{d.session}
			l.controller.mu.Unlock()
			again := l.start()
			if h := again.hello.Sessions; len(h) != 1 || h[0].ID != d.session.ID {
				t.Fatalf("hello after the restart has %d sessions", len(h))
			}
			if after := l.pinholes(fw); len(after) != 1 || after[0].Opening() != before[0].Opening() {
				t.Errorf("after the restart: %v, before: %v", after, before)
			}
			// The client need not wait for its idle time, 30 s, to learn that its
			// connection is no more.
			_, _ = s.Write([]byte("is anybody there?\n"))
			testkit.Eventually(t, 8*time.Second, "the client knows", func() bool { return old.Err() != nil })
			_, s = d.connect() // from a new port: let in by its host knock alone
			echo(t, s, "hello again")
		})
	}
}

func TestLostControllerEndsNoSession(t *testing.T) {
	l := newLab(t)
	link := l.start()
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	echo(t, s, "hello")
	l.controller.stop()
	testkit.Eventually(t, 40*time.Second, "the agent noticed", func() bool {
		status, err := ReadStatus(t.Context(), l.settings.StatusSocket)
		return err == nil && !status.Link.Connected
	})
	echo(t, s, "still here")
	_, s = d.connect()
	echo(t, s, "a new tunnel too")
}

func TestRemovedTableComesBack(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	echo(t, s, "hello")
	if err := fw.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := l.device(clientTwo, time.Hour)
	link.order(control.ToHost{Open: &next.session})
	holes := l.pinholes(fw)
	if len(holes) != 2 {
		t.Errorf("after the table was removed: %v", holes)
	}
	echo(t, s, "still here")
	testkit.Eventually(t, 10*time.Second, "the log tells", func() bool {
		return strings.Contains(l.log.String(), "installed again")
	})
}
