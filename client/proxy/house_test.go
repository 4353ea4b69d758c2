package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
)

// plainly dials services as plain sockets: what is behind a name is the test's.
type plainly struct {
	mu     sync.Mutex // guards what follows
	target map[string]string
	fails  map[string]error
	hangs  map[string]bool
	asked  []string
	left   int // dials whose asker left
}

func (d *plainly) Dial(ctx context.Context, service string) (net.Conn, error) {
	return d.dial(ctx, "tcp", service)
}

func (d *plainly) DialPacket(ctx context.Context, service string) (net.Conn, error) {
	return d.dial(ctx, "udp", service)
}

func (d *plainly) dial(ctx context.Context, network, service string) (net.Conn, error) {
	d.mu.Lock()
	d.asked = append(d.asked, network+" "+service)
	target, err, hangs := d.target[service], d.fails[service], d.hangs[service]
	d.mu.Unlock()
	if hangs {
		<-ctx.Done()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.left++
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if target == "" {
		return nil, fmt.Errorf("%s: %w", service, client.ErrUnreachable)
	}
	var plain net.Dialer
	return plain.DialContext(ctx, network, target)
}

func (d *plainly) count(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, a := range d.asked {
		if a == what {
			n++
		}
	}
	return n
}

// house is a proxy that serves, and what is behind it.
type house struct {
	t      *testing.T
	dialer *plainly
	at     string
	told   chan string
	stop   func()
}

func listed(services ...client.Service) func(context.Context) ([]client.Service, error) {
	return func(context.Context) ([]client.Service, error) { return services, nil }
}

// newHouse serves until the test's end. NoLeak is called for the test.
func newHouse(t *testing.T, change func(*Config)) *house {
	t.Helper()
	testkit.NoLeak(t)
	h := &house{t: t, told: make(chan string, 1000), dialer: &plainly{
		target: map[string]string{}, fails: map[string]error{}, hangs: map[string]bool{},
	}}
	config := Config{
		Dialer: h.dialer, Notify: func(host string, err error) {
			select {
			case h.told <- host + ": " + err.Error():
			default:
			}
		},
		Services: listed(client.Service{Name: "echo"}, client.Service{Name: "web"}, client.Service{Name: "dns"}),
	}
	if change != nil {
		change(&config)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.at = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, config) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end")
		}
	})
	t.Cleanup(h.stop)
	return h
}

// enrolled returns a device before a real controller and host, on loopback.
func enrolled(t *testing.T) (*client.Client, *controltest.Host) {
	t.Helper()
	c := controltest.New(t)
	perimeter := c.AddHost()
	token, err := c.Token(control.RoleClient).Encode()
	if err != nil {
		t.Fatal(err)
	}
	device, err := client.Enroll(t.Context(), token, filepath.Join(t.TempDir(), "id"), "laptop")
	if err != nil {
		t.Fatal(err)
	}
	return device, perimeter
}

// through makes a house of a device's services.
func through(t *testing.T, device *client.Client) func(*Config) {
	return func(config *Config) {
		dialer := device.Dialer(client.DialerConfig{})
		t.Cleanup(func() { dialer.Close() })
		config.Dialer = dialer
		config.Services = func(ctx context.Context) ([]client.Service, error) {
			all, err := device.Services(ctx)
			return all.Services, err
		}
	}
}

// echoTCP answers with what it gets, and ends when it ends.
func echoTCP(t *testing.T) string {
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
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

// echoUDP answers each datagram with its own name and what it got.
func echoUDP(t *testing.T, name string) string {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := l.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(append([]byte(name+":"), buffer[:n]...), from)
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.LocalAddr().String()
}

// connect opens a connection to the proxy.
func (h *house) connect() net.Conn {
	h.t.Helper()
	conn, err := net.Dial("tcp", h.at)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// say sends bytes and returns so many of the answer, fewer when it ends before.
func say(t *testing.T, conn net.Conn, out string, n int) string {
	t.Helper()
	if _, err := io.WriteString(conn, out); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, n)
	got, err := io.ReadFull(conn, in)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("read %d bytes, got %q: %v", n, in[:got], err)
	}
	return string(in[:got])
}

// named is a request of SOCKS5 for a host.
func named(command byte, host string, port uint16) string {
	return string([]byte{5, command, 0, familyName, byte(len(host))}) + host + string([]byte{byte(port >> 8), byte(port)})
}

// asks says hello and what it wants, and returns the reply's code.
func (h *house) asks(conn net.Conn, request string) int {
	h.t.Helper()
	if got := say(h.t, conn, "\x05\x01\x00", 2); got != "\x05\x00" {
		h.t.Fatalf("hello was answered by %q", got)
	}
	reply := say(h.t, conn, request, 10)
	if len(reply) != 10 || reply[0] != 5 {
		h.t.Fatalf("%q was answered by %q", request, reply)
	}
	return int(reply[1])
}

func echoes(t *testing.T, conn io.ReadWriter, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v, want %q", got, err, text)
	}
}

// http sends one request as it is written, and returns the answer and its body.
func (h *house) http(request string) (*http.Response, string) {
	h.t.Helper()
	conn := h.connect()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		h.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		h.t.Fatalf("%q: %v", request, err)
	}
	defer response.Body.Close()
	if method == http.MethodConnect && response.StatusCode == http.StatusOK {
		return response, ""
	}
	body, _ := io.ReadAll(response.Body)
	return response, string(body)
}

// curl runs the real one, and returns its output and exit code.
func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--max-time", "20", "-o", "-"}, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	var out, talk strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if talk.Len() > 0 {
		t.Logf("curl %v: %s", args, talk.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func port(t *testing.T, address string) uint16 {
	t.Helper()
	return netip.MustParseAddrPort(address).Port()
}
