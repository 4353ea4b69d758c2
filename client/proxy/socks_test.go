package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestAServiceIsReachedByItsNames(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["echo"] = echoTCP(t)
	for _, name := range []string{"echo", "echo.postern.internal", "ECHO.Postern.Internal", "echo.postern.internal."} {
		conn := h.connect()
		if reply := h.asks(conn, named(commandConnect, name, 7)); reply != replyOK {
			t.Fatalf("%s: reply %d", name, reply)
		}
		echoes(t, conn, "through "+name)
	}
	if n := h.dialer.count("tcp echo"); n != 4 {
		t.Errorf("dialled %d times: %v", n, h.dialer.asked)
	}
}

func TestOneDirectionEndsAndTheOtherGoesOn(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["echo"] = echoTCP(t)
	conn := h.connect()
	h.asks(conn, named(commandConnect, "echo", 7))
	go func() {
		io.WriteString(conn, strings.Repeat("postern ", 100_000))
		conn.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || len(got) != 800_000 {
		t.Errorf("got %d bytes back, %v", len(got), err)
	}
}

// Some clients do not wait for the answer to their request.
func TestEarlyBytesAreNotLost(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["echo"] = echoTCP(t)
	conn := h.connect()
	got := say(t, conn, "\x05\x01\x00"+named(commandConnect, "echo", 7)+"early", 2+10+5)
	if !strings.HasPrefix(got, "\x05\x00\x05\x00") || !strings.HasSuffix(got, "early") {
		t.Errorf("got %q", got)
	}
	conn = h.connect()
	const ok = "HTTP/1.1 200 Connection established\r\n\r\n"
	got = say(t, conn, "CONNECT echo:7 HTTP/1.1\r\nHost: echo:7\r\n\r\nearly", len(ok)+5)
	if got != ok+"early" {
		t.Errorf("got %q", got)
	}
}

func TestOthersAreRefusedUnlessDirect(t *testing.T) {
	outside := echoTCP(t)
	for _, others := range []Others{Refuse, Direct} {
		h := newHouse(t, func(c *Config) { c.Others = others })
		want := map[Others]int{Refuse: replyNotAllowed, Direct: replyOK}[others]
		address := string([]byte{5, commandConnect, 0, familyIPv4, 127, 0, 0, 1,
			byte(port(t, outside) >> 8), byte(port(t, outside))})
		for _, request := range []string{
			address, named(commandConnect, "127.0.0.1", port(t, outside)), named(commandConnect, "localhost", port(t, outside)),
		} {
			conn := h.connect()
			if reply := h.asks(conn, request); reply != want {
				t.Errorf("others %d, %q: reply %d, want %d", others, request, reply, want)
			} else if reply == replyOK {
				echoes(t, conn, "outside")
			}
		}
		status := map[Others]int{Refuse: 403, Direct: 200}[others]
		r, body := h.http(fmt.Sprintf("CONNECT %s HTTP/1.1\nHost: x\n\n", outside))
		if r.StatusCode != status {
			t.Errorf("others %d: status %d, want %d: %s", others, r.StatusCode, status, body)
		}
		if len(h.dialer.asked) != 0 {
			t.Errorf("services were dialled: %v", h.dialer.asked)
		}
		h.stop()
	}
}

func TestTheProxyNeverDialsItself(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Others = Direct })
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"} {
		if reply := h.asks(h.connect(), named(commandConnect, host, port(t, h.at))); reply != replyNotAllowed {
			t.Errorf("%s: reply %d", host, reply)
		}
	}
}

func TestAWrongPortIsRefusedWithTheRightOne(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Services = listed(client.Service{Name: "db", Port: 5432}, client.Service{Name: "echo"})
	})
	h.dialer.target["db"], h.dialer.target["echo"] = echoTCP(t), echoTCP(t)
	for _, name := range []string{"db", "db.postern.internal"} {
		if reply := h.asks(h.connect(), named(commandConnect, name, 80)); reply != replyNotAllowed {
			t.Errorf("%s, port 80: reply %d", name, reply)
		}
		if told := <-h.told; !strings.Contains(told, "listens on port 5432, not 80") {
			t.Errorf("told %q", told)
		}
		if reply := h.asks(h.connect(), named(commandConnect, name, 5432)); reply != replyOK {
			t.Errorf("%s, port 5432: reply %d", name, reply)
		}
	}
	if h.dialer.count("tcp db") != 2 {
		t.Errorf("dialled %v", h.dialer.asked)
	}
	if r, body := h.http("GET http://db/ HTTP/1.1\nHost: db\n\n"); r.StatusCode != 403 || !strings.Contains(body, "5432") {
		t.Errorf("got %d, %q", r.StatusCode, body)
	}
	if reply := h.asks(h.connect(), named(commandConnect, "echo", 1234)); reply != replyOK {
		t.Errorf("a service whose port is not known: reply %d", reply)
	}
}

func TestErrorsAreToldInBothProtocols(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Services = nil })
	denied := &client.StatusError{Status: 403}
	for name, test := range map[string]struct {
		err          error
		socks, http_ int
	}{
		"denied":      {denied, replyNotAllowed, 403},
		"revoked":     {client.ErrRevoked, replyNotAllowed, 403},
		"unreachable": {client.ErrUnreachable, replyRefused, 502},
		"udp":         {client.ErrNotTCP, replyRefused, 502},
		"refused":     {syscall.ECONNREFUSED, replyRefused, 502},
		"nonet":       {client.ErrNoAddress, replyNetUnreachable, 502},
		"silent":      {client.ErrNoAnswer, replyTimeout, 504},
		"hostsilent":  {client.ErrHostSilent, replyTimeout, 504},
		"odd":         {errors.New("odd"), replyFailed, 502},
	} {
		h.dialer.mu.Lock()
		h.dialer.fails[name] = test.err
		h.dialer.mu.Unlock()
		host := name + "." + Domain
		if reply := h.asks(h.connect(), named(commandConnect, host, 1)); reply != test.socks {
			t.Errorf("%s: reply %d, want %d", name, reply, test.socks)
		}
		if told := <-h.told; !strings.HasPrefix(told, host+": ") {
			t.Errorf("%s: told %q", name, told)
		}
		for _, request := range []string{"CONNECT %s:1 HTTP/1.1\nHost: x\n\n", "GET http://%s:1/ HTTP/1.1\nHost: x\n\n"} {
			r, body := h.http(fmt.Sprintf(request, host))
			if r.StatusCode != test.http_ || !strings.Contains(body, test.err.Error()) {
				t.Errorf("%s: status %d, want %d: %q", name, r.StatusCode, test.http_, body)
			}
			<-h.told
		}
	}
}

func TestOtherCommandsAndVersionsAreRefused(t *testing.T) {
	h := newHouse(t, nil)
	if reply := h.asks(h.connect(), named(2, "echo", 7)); reply != replyNoCommand {
		t.Errorf("BIND: reply %d", reply)
	}
	if reply := h.asks(h.connect(), "\x05\x01\x00\x02"); reply != replyNoFamily {
		t.Errorf("an unknown family: reply %d", reply)
	}
	for what, said := range map[string]string{
		"SOCKS4":              "\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
		"TLS":                 "\x16\x03\x01\x02\x00",
		"no known method":     "\x05\x01\x80",
		"nonsense":            "\x00\x00\x00\x00",
		"a name of nothing":   "\x05\x01\x00" + named(commandConnect, "", 7),
		"a name that colours": "\x05\x01\x00" + named(commandConnect, "\x1b[31mecho", 7),
	} {
		got := say(t, h.connect(), said, 100) // until it is closed
		if strings.Contains(got, "\x05\x00\x00") {
			t.Errorf("%s was answered by %q", what, got)
		}
		if what == "SOCKS4" && got != "\x00\x5b\x00\x00\x00\x00\x00\x00" {
			t.Errorf("SOCKS4 was answered by %q", got)
		}
	}
	for len(h.told) > 0 { // a terminal shows it
		if told := <-h.told; strings.Contains(told, "\x1b") {
			t.Errorf("told %q", told)
		}
	}
	if len(h.dialer.asked) != 0 {
		t.Errorf("dialled %v", h.dialer.asked)
	}
}

func TestAWrongPasswordIsRefused(t *testing.T) {
	password := RandomPassword()
	user, secret := password.text()
	h := newHouse(t, func(c *Config) { c.Password = password })
	h.dialer.target["echo"] = echoTCP(t)
	login := func(user, password string) string {
		return string([]byte{1, byte(len(user))}) + user + string([]byte{byte(len(password))}) + password
	}
	conn := h.connect()
	if got := say(t, conn, "\x05\x01\x00", 3); got != "\x05\xff" {
		t.Errorf("without a password: %q", got)
	}
	for _, wrong := range [][2]string{{user, secret + "x"}, {user, ""}, {"", ""}, {"x", secret}, {user + ":", secret}} {
		conn := h.connect()
		say(t, conn, "\x05\x01\x02", 2)
		if got := say(t, conn, login(wrong[0], wrong[1])+named(commandConnect, "echo", 7), 20); got != "\x01\x01" {
			t.Errorf("%q: %q", wrong, got)
		}
	}
	for _, line := range []string{
		"", "Proxy-Authorization: Basic\n", "Proxy-Authorization: Basic !!\n", "Proxy-Authorization: Basic cG9zdGVybjp4\n",
		"Authorization: Basic cG9zdGVybjp4\n", "Proxy-Authorization: Bearer " + secret + "\n",
	} {
		for _, request := range []string{"CONNECT echo:7", "GET http://echo/"} {
			r, body := h.http(request + " HTTP/1.1\nHost: x\n" + line + "\n")
			if r.StatusCode != 407 || !strings.HasPrefix(r.Header.Get("Proxy-Authenticate"), "Basic ") {
				t.Errorf("%s with %q: %d, %q", request, line, r.StatusCode, body)
			}
		}
	}
	if len(h.dialer.asked) != 0 {
		t.Fatalf("dialled %v", h.dialer.asked)
	}
	conn = h.connect()
	say(t, conn, "\x05\x02\x00\x02", 2)
	if got := say(t, conn, login(user, secret), 2); got != "\x01\x00" {
		t.Fatalf("the right one: %q", got)
	}
	if got := say(t, conn, named(commandConnect, "echo", 7), 10); got[1] != replyOK {
		t.Fatalf("got %q", got)
	}
	echoes(t, conn, "with the right one")
}

func TestAClientThatLeavesEndsItsDial(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.hangs["echo"] = true
	socks, web := h.connect(), h.connect()
	io.WriteString(socks, "\x05\x01\x00"+named(commandConnect, "echo", 7))
	io.WriteString(web, "CONNECT echo:7 HTTP/1.1\r\nHost: x\r\n\r\n")
	testkit.Eventually(t, 10*time.Second, "both dial", func() bool { return h.dialer.count("tcp echo") == 2 })
	socks.Close()
	web.Close()
	testkit.Eventually(t, 10*time.Second, "both dials end", func() bool {
		h.dialer.mu.Lock()
		defer h.dialer.mu.Unlock()
		return h.dialer.left == 2
	})
	if len(h.told) != 0 {
		t.Errorf("somebody was told: %q", <-h.told)
	}
}

// A client that says too little, byte by byte, must not keep its place.
func TestSlowClientsAreCutOff(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.limits.hello = 300 * time.Millisecond })
	for what, said := range map[string]string{
		"nothing": "", "half a hello": "\x05\x02\x00", "no request": "\x05\x01\x00", "half a name": "\x05\x01\x00\x05\x01\x00\x03\x20e",
		"no body":     "POST http://elsewhere/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"half a line": "GET http://ec", "half a header": "GET http://echo/ HTTP/1.1\r\nHost: x\r\nX-",
	} {
		conn := h.connect()
		io.WriteString(conn, said)
		began := time.Now()
		if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: cut off after %s", what, took)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["echo"] = echoTCP(t)
	all := make([]net.Conn, maxConnections)
	for i := range all {
		all[i] = h.connect()
		if got := say(t, all[i], "\x05\x01\x00", 2); got != "\x05\x00" {
			t.Fatalf("connection %d: %q", i, got)
		}
	}
	extra := h.connect()
	io.WriteString(extra, "\x05\x01\x00")
	if _, err := extra.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more was let in: %v", err)
	}
	all[0].Close()
	testkit.Eventually(t, 5*time.Second, "its place is free", func() bool {
		conn, err := net.Dial("tcp", h.at)
		if err != nil {
			return false
		}
		defer conn.Close()
		io.WriteString(conn, "\x05\x01\x00")
		_, err = io.ReadFull(conn, make([]byte, 2))
		return err == nil
	})
}

// newHouse's NoLeak looks for what is left.
func TestTheEndLeavesNothingBehind(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["echo"], h.dialer.target["dns"], h.dialer.hangs["web"] = echoTCP(t), echoUDP(t, "dns"), true
	conn := h.connect()
	h.asks(conn, named(commandConnect, "echo", 7))
	echoes(t, conn, "open")
	tunnelled := h.connect()
	io.WriteString(tunnelled, "CONNECT echo:7 HTTP/1.1\r\nHost: x\r\n\r\n")
	for _, request := range []string{"GET http://web/ HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT web:1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"\x05\x01\x00" + named(commandConnect, "web", 7), "\x05\x01", "GET"} {
		io.WriteString(h.connect(), request)
	}
	u := h.associate()
	u.exchange(t, "dns", 53, "x", "dns:x")
	testkit.Eventually(t, 5*time.Second, "all are on their way", func() bool {
		return h.dialer.count("tcp web") == 3 && h.dialer.count("tcp echo") == 2
	})
	h.stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}
