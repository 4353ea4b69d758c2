package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/testkit"
)

// web is a server that shows what it was asked.
func web(t *testing.T) string { return webWith(t, nil) }

// webWith tells of its connections.
func webWith(t *testing.T, state func(net.Conn, http.ConnState)) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s host=%s from=%s body=%s\n", r.Method, r.RequestURI, r.Host, r.RemoteAddr, body)
		for name, values := range r.Header {
			fmt.Fprintf(w, "%s=%s\n", name, strings.Join(values, ","))
		}
	}))
	s.Config.ConnState = state
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// The real curl, through the proxy and a real perimeter.
func TestCurlReachesAServiceInEveryWay(t *testing.T) {
	device, perimeter := enrolled(t)
	perimeter.SetTarget(web(t))
	const largeSize = 3 << 20 // bytes: curl waits for a 100 Continue then
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("x"), largeSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, password := range map[string]Password{"open": {}, "password": RandomPassword()} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, func(config *Config) {
				through(t, device)(config)
				config.Password = password
			})
			at := h.at
			if user := password.Reveal(); user != nil {
				at = user.String() + "@" + at
			}
			for _, way := range [][]string{
				{"--proxy", "socks5h://" + at}, {"--proxy", "http://" + at},
				{"--proxy", "http://" + at, "--proxytunnel"},
			} {
				for _, host := range []string{"echo", "echo.postern.internal"} {
					out, code := curl(t, append(way, "-T", large, "http://"+host+"/path?a;b=%zz")...)
					if code != 0 || !strings.Contains(out, "PUT /path?a;b=%zz host="+host) || len(out) < largeSize {
						t.Errorf("%v: exit code %d, got %.300q", way, code, out)
					}
				}
			}
			if password.IsZero() {
				return
			}
			for _, way := range [][]string{
				{"--proxy", "socks5h://" + h.at}, {"--proxy", "http://" + h.at},
				{"--proxy", "socks5h://postern:wrong@" + h.at}, {"--proxy", "http://postern:wrong@" + h.at, "--proxytunnel"},
			} {
				if out, code := curl(t, append(way, "http://echo/")...); strings.Contains(out, "GET /") {
					t.Errorf("%v: exit code %d, got %.300q", way, code, out)
				}
			}
		})
	}
}

func TestWhatBelongsToTheHopStaysHere(t *testing.T) {
	password := RandomPassword()
	h := newHouse(t, func(c *Config) { c.Password = password })
	h.dialer.target["web"] = web(t)
	for name, extra := range map[string]string{"plain": "", "theirs": "X-Forwarded-For: 192.0.2.7\n"} {
		auth := &http.Request{Header: http.Header{}}
		auth.SetBasicAuth(password.text())
		r, body := h.http("GET http://web/a%2Fb HTTP/1.1\nHost: evil.example\nProxy-Connection: keep-alive\nConnection: X-Hop\nX-Hop: 1\n" +
			"Proxy-Authorization: " + auth.Header.Get("Authorization") + "\n" + extra + "\n")
		if r.StatusCode != 200 || !strings.Contains(body, "GET /a%2Fb host=web ") {
			t.Errorf("%s: %d, %q", name, r.StatusCode, body)
		}
		for _, not := range []string{"Proxy-", "X-Hop", "Via", "User-Agent", "Accept-Encoding", "evil"} {
			if strings.Contains(body, not) {
				t.Errorf("%s: %q passed: %q", name, not, body)
			}
		}
		if strings.Contains(body, "X-Forwarded-For") != (extra != "") || strings.Contains(body, "127.0.0.1,") {
			t.Errorf("%s: of the client's headers came %q", name, body)
		}
	}
}

// Logins such as NTLM hold for a connection: one client's must not serve another.
func TestClientsShareNoConnectionToAService(t *testing.T) {
	h := newHouse(t, nil)
	var open atomic.Int32
	h.dialer.target["web"] = webWith(t, func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	})
	from := func(conn net.Conn, in *bufio.Reader) string {
		io.WriteString(conn, "GET http://web/ HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		_, after, _ := strings.Cut(string(body), "from=")
		at, _, _ := strings.Cut(after, " ")
		return at
	}
	a, b := h.connect(), h.connect()
	inA, inB := bufio.NewReader(a), bufio.NewReader(b)
	first, second, other := from(a, inA), from(a, inA), from(b, inB)
	if first != second || first == other || first == "" {
		t.Errorf("one client came from %q and %q, the other from %q", first, second, other)
	}
	a.Close()
	testkit.Eventually(t, 5*time.Second, "a client's connections end with it", func() bool { return open.Load() == 1 })
}

func TestAnUpgradedConnectionGoesBothWays(t *testing.T) {
	h := newHouse(t, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	}))
	defer s.Close()
	h.dialer.target["web"] = strings.TrimPrefix(s.URL, "http://")
	conn := h.connect()
	in := bufio.NewReader(conn)
	io.WriteString(conn, "GET http://web/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r, err := http.ReadResponse(in, nil)
	if err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", r, err)
	}
	echoes(t, struct {
		io.Reader
		io.Writer
	}{in, conn}, "upgraded")
	conn.Close()
}

// What follows a request that was refused could be a page's: it is no request.
func TestNothingIsReadBehindARefusal(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.limits.hello = time.Second })
	h.dialer.target["web"], h.dialer.target["echo"] = web(t), echoTCP(t)
	const hidden = "GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n"
	for _, request := range []string{
		"POST / HTTP/1.1\r\nHost: " + h.at + "\r\nContent-Length: 0\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: " + h.at + "\r\n\r\n",
		"GET https://web/ HTTP/1.1\r\nHost: web\r\n\r\n",
		"CONNECT echo:7 HTTP/1.1\r\nHost: web\r\nContent-Length: 40\r\n\r\n",
		"CONNECT echo:7 HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"CONNECT echo HTTP/1.1\r\nHost: web\r\n\r\n",
		"CONNECT / HTTP/1.1\r\nHost: web\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n",
		"GET ftp://web/ HTTP/1.1\r\nHost: web\r\n\r\n",
	} {
		conn := h.connect()
		io.WriteString(conn, request+hidden)
		began := time.Now()
		got, _ := io.ReadAll(conn) // a reset is as good
		if time.Since(began) > 5*time.Second {
			t.Errorf("%q: the connection stays", request)
		}
		if n := strings.Count(string(got), "HTTP/1.1 "); n > 1 {
			t.Errorf("%q: %d answers: %q", request, n, got)
		}
	}
	if len(h.dialer.asked) != 0 {
		t.Errorf("dialled %v", h.dialer.asked)
	}
}

// A page can send the browser here, in origin form, and under a name of its own.
func TestAPageGetsNothing(t *testing.T) {
	h := newHouse(t, nil)
	_, port, _ := net.SplitHostPort(h.at)
	for name, request := range map[string]string{
		"another path":     "GET / HTTP/1.1\nHost: " + h.at + "\n\n",
		"a form":           "POST /proxy.pac HTTP/1.1\nHost: " + h.at + "\nContent-Length: 0\n\n",
		"DNS rebinding":    "GET /proxy.pac HTTP/1.1\nHost: evil.example:" + port + "\n\n",
		"no port":          "GET /proxy.pac HTTP/1.1\nHost: evil.example\n\n",
		"another loopback": "GET /proxy.pac HTTP/1.1\nHost: 127.0.0.2:" + port + "\n\n",
		"another port":     "GET /proxy.pac HTTP/1.1\nHost: 127.0.0.1:80\n\n",
		"a script":         "GET /proxy.pac HTTP/1.1\nHost: " + h.at + "\nSec-Fetch-Site: cross-site\nSec-Fetch-Dest: script\n\n",
		"same site":        "GET /proxy.pac HTTP/1.1\nHost: " + h.at + "\nSec-Fetch-Site: same-site\n\n",
		"fetch":            "GET /proxy.pac HTTP/1.1\nHost: " + h.at + "\nOrigin: http://evil.example\n\n",
		"an old browser":   "GET /proxy.pac HTTP/1.1\nHost: " + h.at + "\nReferer: http://evil.example/\n\n",
		"wpad":             "GET /wpad.dat HTTP/1.1\nHost: wpad.evil.example\n\n",
	} {
		r, body := h.http(request)
		if r.StatusCode != 403 || strings.Contains(body, "echo") || r.Header.Get("Access-Control-Allow-Origin") != "" ||
			r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v %q", name, r.StatusCode, r.Header, body)
		}
	}
	if len(h.dialer.asked) != 0 {
		t.Errorf("dialled %v", h.dialer.asked)
	}
}

func TestThePACFileSendsServicesHereAndNothingElse(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Services = listed(client.Service{Name: "echo"}, client.Service{Name: "github.com"}, client.Service{Name: "b"})
	})
	_, port, _ := net.SplitHostPort(h.at)
	for _, host := range []string{h.at, "localhost:" + port} {
		for _, path := range []string{"/proxy.pac", "/wpad.dat"} {
			r, body := h.http("GET " + path + " HTTP/1.1\nHost: " + host + "\nSec-Fetch-Site: none\n\n")
			if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/x-ns-proxy-autoconfig" ||
				r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s%s: %d %v", host, path, r.StatusCode, r.Header)
			}
			for _, want := range []string{
				`["b","echo"]`, `".postern.internal"`, "PROXY " + h.at + "; SOCKS5 " + h.at + `"`, `return "DIRECT"`,
			} {
				if !strings.Contains(body, want) {
					t.Errorf("want %q in:\n%s", want, body)
				}
			}
			if strings.Contains(body, "github.com") || strings.Contains(body, "DIRECT;") || strings.Contains(body, "; DIRECT") {
				t.Errorf("this sends too much here, or services outside:\n%s", body)
			}
		}
	}
	secret := newHouse(t, func(c *Config) { c.Password = RandomPassword() })
	if _, body := secret.http("GET /proxy.pac HTTP/1.1\nHost: " + secret.at + "\n\n"); strings.Contains(body, "echo") ||
		!strings.Contains(body, "FindProxyForURL") {
		t.Errorf("with a password, everybody reads:\n%s", body)
	}
}

func TestAServiceWithADotInItsNameNeedsTheDomain(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Services = listed(client.Service{Name: "github.com"}) })
	h.dialer.target["github.com"] = echoTCP(t)
	if reply := h.asks(h.connect(), named(commandConnect, "github.com", 443)); reply != replyNotAllowed {
		t.Errorf("a public name: reply %d", reply)
	}
	if reply := h.asks(h.connect(), named(commandConnect, "github.com.postern.internal", 443)); reply != replyOK {
		t.Errorf("the same with the domain: reply %d", reply)
	}
}

// With the controller silent, a bare name may be a service's: it must not be looked
// for outside.
func TestWithoutAListBareNamesGoNowhere(t *testing.T) {
	var mu sync.Mutex
	var failing error = client.ErrNoAnswer
	h := newHouse(t, func(c *Config) {
		c.Others = Direct
		c.Services = func(context.Context) ([]client.Service, error) {
			mu.Lock()
			defer mu.Unlock()
			return []client.Service{{Name: "echo"}}, failing
		}
	})
	h.dialer.target["echo"] = echoTCP(t)
	if reply := h.asks(h.connect(), named(commandConnect, "echo", 7)); reply != replyTimeout {
		t.Errorf("bare: reply %d", reply)
	}
	if reply := h.asks(h.connect(), named(commandConnect, "echo.postern.internal", 7)); reply != replyOK {
		t.Errorf("with the domain: reply %d", reply)
	}
	mu.Lock()
	failing = nil
	mu.Unlock()
	testkit.Eventually(t, 15*time.Second, "the list is there", func() bool {
		return h.asks(h.connect(), named(commandConnect, "echo", 7)) == replyOK
	})
}

// A page can make a browser ask for any number of names, and a knock is dear.
func TestANameThatIsNotListedIsNotKnockedFor(t *testing.T) {
	h := newHouse(t, nil)
	for i := range 50 {
		host := fmt.Sprintf("guess%d.postern.internal", i)
		if reply := h.asks(h.connect(), named(commandConnect, host, 80)); reply != replyNotAllowed {
			t.Errorf("reply %d", reply)
		}
	}
	if told := <-h.told; !strings.Contains(told, ErrUnlisted.Error()) || len(h.dialer.asked) != 0 {
		t.Errorf("told %q, dialled %v", told, h.dialer.asked)
	}
}

func TestTheListIsAskedForOnceAtATime(t *testing.T) {
	asked := make(chan struct{}, 100)
	h := newHouse(t, func(c *Config) {
		c.Services = func(context.Context) ([]client.Service, error) {
			asked <- struct{}{}
			return []client.Service{{Name: "echo"}}, nil
		}
	})
	h.dialer.target["echo"] = echoTCP(t)
	for i := range 20 {
		h.asks(h.connect(), named(commandConnect, "echo", 7))
		h.asks(h.connect(), named(commandConnect, fmt.Sprint("unknown", i), 7))
	}
	if n := len(asked); n > 2 {
		t.Errorf("asked %d times", n)
	}
	var told []string
	for len(h.told) > 0 {
		told = append(told, <-h.told)
	}
	if len(told) != 20 || slices.ContainsFunc(told, func(s string) bool { return !strings.Contains(s, ErrOther.Error()) }) {
		t.Errorf("told %q", told)
	}
}
