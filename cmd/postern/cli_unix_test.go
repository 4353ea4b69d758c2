//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

func TestConnectOffersALocalPortUntilCtrlC(t *testing.T) {
	for name, test := range map[string]struct {
		signal os.Signal
		code   int
	}{"Ctrl-C": {os.Interrupt, exitInterrupted}, "SIGTERM": {syscall.SIGTERM, exitTerminated}} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t).enrolled()
			l := m.start("connect", "echo", "--for", "1h")
			address := l.line(t)
			if !strings.HasPrefix(address, "127.0.0.1:") {
				t.Errorf("listens on %s", address)
			}
			conns := make([]net.Conn, 3)
			for i := range conns {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns[i] = conn
				fmt.Fprintln(conn, "hi", i)
				got := make([]byte, 5)
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != fmt.Sprintln("hi", i) {
					t.Errorf("got %q, %v", got, err)
				}
			}
			if m.c.Count(spa.KindAccess) != 1 {
				t.Errorf("%d knocks for one session", m.c.Count(spa.KindAccess))
			}
			if err := l.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			l.end().want(t, test.code, "session until ", "session closed")
			if m.c.Live() != 0 {
				t.Error("the session was not closed at the controller")
			}
		})
	}
}

func TestCtrlCDuringAKnockEndsQuietly(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	l := m.start("connect", "echo")
	testkit.Eventually(t, 10*time.Second, "it knocks", func() bool { return m.c.Count(spa.KindAccess) > 0 })
	l.Process.Signal(os.Interrupt)
	if r := l.end(); r.code != exitInterrupted || r.talk != "" {
		t.Errorf("exit code %d, said %q", r.code, r.talk)
	}
}
