package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

// withAgent lets the machine's commands start an agent, which ends with the test.
func (m *machine) withAgent() *machine {
	m.t.Helper()
	runtime, err := os.MkdirTemp("", "pa") // short: it is part of a socket's path
	if err != nil {
		m.t.Fatal(err)
	}
	m.runtime = runtime
	m.t.Cleanup(func() {
		if out, err := m.commandOf(context.Background(), "agent", "stop").CombinedOutput(); err != nil {
			m.t.Errorf("stop the agent: %v: %s", err, out)
		}
		testkit.Eventually(m.t, 10*time.Second, "the agent to be gone", func() bool {
			found, _ := filepath.Glob(runtime + "/postern/*/agent.sock")
			return !slices.ContainsFunc(found, func(path string) bool {
				conn, err := net.Dial("unix", path)
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
		})
		os.RemoveAll(runtime)
	})
	return m
}

// killAgents kills the agent as kill -9 does, and waits until it is gone.
func (m *machine) killAgents(t testing.TB) {
	t.Helper()
	var got struct{ Here []struct{ PID int } }
	r := m.run("", "status", "--json", "--local")
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Here) != 1 {
		t.Fatalf("%v: %s", err, r.out)
	}
	process, err := os.FindProcess(got.Here[0].PID)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "the agent to be gone", func() bool {
		r := m.run("", "status", "--json", "--local")
		return !strings.Contains(r.out, `"kind"`)
	})
}

func TestTenSSHAtOnceAreOneKnockAndOneSession(t *testing.T) {
	stalls := testkit.WatchStalls(t) // a knock is sent again after 700 ms
	m := newMachine(t).enrolled().withAgent()
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			sent := strings.Repeat("each has its own stream\n", 20_000)
			cmd := m.command("connect", "--stdio", "echo")
			var out, talk bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(sent), &out, &talk
			if err := cmd.Run(); err != nil || out.String() != sent || talk.Len() > 0 {
				t.Errorf("%v: %d bytes came back of %d, it said %q", err, out.Len(), len(sent), talk.String())
			}
		})
	}
	all.Wait()
	if n := m.c.Count(spa.KindAccess); n != 1 && !stalls.Excuse(n == 2, 700*time.Millisecond) {
		t.Errorf("%d knocks for ten connections, want 1", n)
	}
	r := m.run("", "status", "--json", "--local")
	r.want(t, exitOK)
	var got struct {
		Here []struct {
			Kind     string
			Sessions []struct{ Service, Path string }
		}
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Here) != 1 || got.Here[0].Kind != "agent" ||
		len(got.Here[0].Sessions) != 1 || got.Here[0].Sessions[0].Service != "echo" {
		t.Errorf("status: %v: %s", err, r.out)
	}
}

func TestTheAgentsErrorsHaveTheirExitCodes(t *testing.T) {
	m := newMachine(t).enrolled().withAgent()
	m.h.SetTarget("127.0.0.1:1")
	m.run("", "connect", "--stdio", "echo").want(t, exitUnreachable, "postern: ", "hint: ")
	m.c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted} })
	m.run("", "connect", "--stdio", "other").want(t, exitDenied, "postern: denied", "hint: ")
}

func TestARevokedSessionOfTheAgentsEndsStdioAtOnce(t *testing.T) {
	m := newMachine(t).enrolled().withAgent()
	l := m.start("connect", "--stdio", "echo")
	io.WriteString(l.in, "hello\n")
	if got := l.line(t); got != "hello" {
		t.Errorf("got %q", got)
	}
	for _, id := range m.h.Sessions() {
		m.h.End(id, tunnel.ReasonRevoked)
	}
	l.end().want(t, exitEnded, "revoked")
}

func TestAnAgentThatIsKilledIsStartedAgain(t *testing.T) {
	m := newMachine(t).enrolled().withAgent()
	for range 2 {
		if r := m.run("once", "connect", "--stdio", "echo"); r.out != "once" || r.code != exitOK {
			t.Fatalf("exit code %d, %q, it said %s", r.code, r.out, r.talk)
		}
		m.killAgents(t)
	}
	if n := m.c.Count(spa.KindAccess); n != 2 {
		t.Errorf("%d knocks, want 2", n)
	}
}

func TestAnotherIdentityInTheFolderGetsAnotherAgent(t *testing.T) {
	m := newMachine(t).enrolled().withAgent()
	if r := m.run("once", "connect", "--stdio", "echo"); r.out != "once" {
		t.Fatalf("exit code %d, it said %s", r.code, r.talk)
	}
	if err := os.RemoveAll(m.folder); err != nil {
		t.Fatal(err)
	}
	m.run("", "connect", "--stdio", "echo").want(t, exitNotEnrolled, "not enrolled")
	m.c = controltest.New(t)
	m.h = m.c.AddHost()
	m.enrolled()
	if r := m.run("twice", "connect", "--stdio", "echo"); r.out != "twice" {
		t.Fatalf("exit code %d, it said %s", r.code, r.talk)
	}
	if n := m.c.Count(spa.KindAccess); n != 1 {
		t.Errorf("%d knocks at the other controller, want 1", n)
	}
}

func TestForwardsGoToTheirServices(t *testing.T) {
	for name, test := range map[string]struct {
		services, listen []string
		want             []string // service and addresses
	}{
		"one":            {[]string{"a"}, nil, []string{"a 127.0.0.1:0"}},
		"a port":         {[]string{"a"}, []string{"5432"}, []string{"a 127.0.0.1:5432"}},
		"two for one":    {[]string{"a"}, []string{"1", "[::1]:2"}, []string{"a 127.0.0.1:1 [::1]:2"}},
		"in order":       {[]string{"a", "b", "c"}, []string{"1", "2"}, []string{"a 127.0.0.1:1", "b 127.0.0.1:2", "c 127.0.0.1:0"}},
		"by name":        {[]string{"a", "b"}, []string{"b=1", "b=h:2"}, []string{"a 127.0.0.1:0", "b 127.0.0.1:1 h:2"}},
		"by both":        {[]string{"a", "b"}, []string{"a=1", "2"}, []string{"a 127.0.0.1:1", "b 127.0.0.1:2"}},
		"order is fixed": {[]string{"a", "b"}, []string{"1", "a=2"}, []string{"a 127.0.0.1:1 127.0.0.1:2", "b 127.0.0.1:0"}},
	} {
		all, err := forwards(test.services, test.listen)
		var got []string
		for _, f := range all {
			got = append(got, f.service+" "+strings.Join(f.listen, " "))
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
}

func TestWhoUsesTheAgentsSessionIsToldThatItEnds(t *testing.T) {
	m := newMachine(t).enrolled().withAgent()
	m.c.Set(func(c *controltest.Controller) { c.Session = 4 * time.Second })
	cmd := m.command("connect", "--stdio", "echo")
	in, err := cmd.StdinPipe() // open until the session ends
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var talk bytes.Buffer
	cmd.Stderr = &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the session", func() bool { return len(m.h.Sessions()) == 1 })
	m.c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no more"} })
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended well, though its session expired")
	}
	if n := strings.Count(talk.String(), "session not renewed, it ends at"); n != 1 {
		t.Errorf("it was said %d times, want once: %s", n, talk.String())
	}
}
