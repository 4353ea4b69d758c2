package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/agent"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

// house is a controller with a host, an enrolled device and an agent for it.
type house struct {
	t          *testing.T
	controller *controltest.Controller
	host       *controltest.Host
	device     *client.Client
	identity   string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	runtime, err := os.MkdirTemp("", "pa") // short: it is part of a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtime) })
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	h := &house{t: t, controller: controltest.New(t), identity: filepath.Join(t.TempDir(), "id")}
	h.host = h.controller.AddHost()
	token, err := h.controller.Token(control.RoleClient).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if h.device, err = client.Enroll(t.Context(), token, h.identity, "laptop"); err != nil {
		t.Fatal(err)
	}
	return h
}

// serve runs an agent and returns a function that waits for its end.
func (h *house) serve(version string, idle time.Duration) (ended func() error) {
	h.t.Helper()
	l, err := agent.Listen(h.identity)
	if err != nil {
		h.t.Fatal(err)
	}
	var notices agent.Notices
	d := h.device.Dialer(client.DialerConfig{Idle: 20 * time.Millisecond, Notify: notices.Tell})
	ctx, stop := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		defer d.Close()
		result <- agent.Serve(ctx, l, agent.Config{
			Kind: "agent", Version: version, Dialer: d, Sessions: d.Sessions, Idle: idle, Notices: &notices,
		})
	}()
	var once sync.Once
	var end error
	ended = func() error {
		once.Do(func() {
			select {
			case end = <-result:
			case <-time.After(20 * time.Second):
				end = errors.New("the agent does not end")
			}
		})
		return end
	}
	h.t.Cleanup(func() {
		stop()
		if err := ended(); err != nil {
			h.t.Error(err)
		}
		d.Close()
	})
	return ended
}

func (h *house) remote(version string, start func(context.Context) error) *agent.Remote {
	h.t.Helper()
	r, err := agent.New(h.identity, version, start)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func dial(t *testing.T, r *agent.Remote) net.Conn {
	t.Helper()
	conn, err := r.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func echoes(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v, want %q", got, err, text)
	}
}

func TestProgramsOfOnePersonShareOneSession(t *testing.T) {
	h := newHouse(t)
	h.serve("1", 0)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			conn, err := h.remote("1", nil).Dial(t.Context(), "echo") // each a program of its own
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			sent := bytes.Repeat([]byte("postern "), 100_000)
			go func() {
				conn.Write(sent)
				conn.(tunnel.Duplex).CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes back, %v, want %d", len(got), err, len(sent))
			}
		})
	}
	all.Wait()
	if n := h.controller.Count(spa.KindAccess); n != 1 {
		t.Errorf("%d access knocks for ten programs, want 1", n)
	}
}

func TestWhyAConnectionWasCutOffReachesTheProgram(t *testing.T) {
	h := newHouse(t)
	h.serve("1", 0)
	conn := dial(t, h.remote("1", nil))
	echoes(t, conn, "before")
	found, err := agent.Processes(t.Context(), h.identity)
	if err != nil || len(found) != 1 || len(found[0].Sessions) != 1 || found[0].Sessions[0].Streams != 1 {
		t.Fatalf("processes: %+v, %v", found, err)
	}
	h.host.End(found[0].Sessions[0].Session, tunnel.ReasonRevoked)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, client.ErrRevoked) {
		t.Errorf("the program reads %v, want %v", err, client.ErrRevoked)
	}
}

func TestARefusalReachesTheProgramAsItIs(t *testing.T) {
	h := newHouse(t)
	h.serve("1", 0)
	h.controller.Set(func(c *controltest.Controller) {
		c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "not today"}
	})
	_, err := h.remote("1", nil).Dial(t.Context(), "echo")
	if denied, ok := errors.AsType[*client.DeniedError](err); !ok || denied.Text != "not today" || !client.IsDenied(err) {
		t.Errorf("the program gets %v", err)
	}
	h.controller.Set(func(c *controltest.Controller) { c.Deny = nil })
	h.host.SetTarget("127.0.0.1:1")
	testkit.Eventually(t, 30*time.Second, "the next refusal, once the denial is kept no longer", func() bool {
		_, err := h.remote("1", nil).Dial(t.Context(), "echo")
		return errors.Is(err, client.ErrUnreachable)
	})
}

// A socket that is closed with a request in it is reset, and who writes to it then
// meets a broken pipe.
func TestARequestThatAnEndingAgentLeftIsAskedAgain(t *testing.T) {
	h := newHouse(t)
	l, err := agent.Listen(h.identity)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); l.Close(); <-done }()
	go func() {
		for range 2 {
			conn, err := l.Accept()
			if err != nil {
				done <- err
				return
			}
			conn.Read(make([]byte, 1))
			conn.Close()
		}
		d := h.device.Dialer(client.DialerConfig{})
		defer d.Close()
		done <- agent.Serve(ctx, l, agent.Config{Kind: "agent", Version: "1", Dialer: d})
	}()
	echoes(t, dial(t, h.remote("1", nil)), "asked again")
}

func TestWhoUsesASessionIsToldThatItWillNotBeRenewed(t *testing.T) {
	h := newHouse(t)
	h.controller.Set(func(c *controltest.Controller) { c.Session = 4 * time.Second })
	h.serve("1", 0)
	events := make(chan client.Event, 10)
	using := func() net.Conn {
		r := h.remote("1", nil)
		r.Notify = func(e client.Event) { events <- e }
		conn := dial(t, r)
		go io.Copy(io.Discard, conn) // who reads a connection is told
		return conn
	}
	using()
	h.controller.Set(func(c *controltest.Controller) {
		c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no more"}
	})
	expect := func() {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != client.EventNotRenewed || !client.IsDenied(e.Err) || !e.Deadline.After(time.Now()) {
				t.Errorf("told %+v", e)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nobody is told")
		}
	}
	expect()
	using() // and who comes later
	expect()
}

func TestAnAgentThatIsKilledIsNoRegularEnd(t *testing.T) {
	h := newHouse(t)
	h.serve("1", 0)
	conn := dial(t, h.remote("1", nil))
	echoes(t, conn, "before")
	if err := h.remote("1", nil).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the program reads %v", err)
	}
	if _, err := h.remote("1", nil).Dial(t.Context(), "echo"); !errors.Is(err, agent.ErrNoAgent) {
		t.Errorf("without an agent: %v, want %v", err, agent.ErrNoAgent)
	}
}

func TestAnAgentIsStartedWhenItIsNeededAndGoneWhenItIsNot(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t)
	var ended func() error
	starts := 0
	r := h.remote("1", func(context.Context) error {
		starts++
		ended = h.serve("1", 500*time.Millisecond)
		return nil
	})
	conn := dial(t, r)
	time.Sleep(1500 * time.Millisecond) // longer than its idle time: it is in use
	echoes(t, conn, "in use")
	echoes(t, dial(t, r), "in use by two")
	if starts != 1 {
		t.Errorf("%d agents were started", starts)
	}
	conn.Close()
	found, _ := agent.Processes(t.Context(), h.identity)
	if len(found) != 1 {
		t.Errorf("processes: %+v", found)
	}
	// The second connection is closed by the test's end; until then the agent stays.
	go func() { time.Sleep(50 * time.Millisecond); h.remote("1", nil).Stop(context.Background()) }()
	if err := ended(); err != nil {
		t.Error(err)
	}
}

func TestAnUnusedAgentEnds(t *testing.T) {
	h := newHouse(t)
	ended := h.serve("1", 500*time.Millisecond)
	echoes2 := dial(t, h.remote("1", nil))
	echoes(t, echoes2, "once")
	echoes2.Close()
	if err := ended(); err != nil {
		t.Error(err)
	}
	if found, err := agent.Processes(t.Context(), h.identity); err != nil || len(found) != 0 {
		t.Errorf("processes: %+v, %v", found, err)
	}
}

func TestThereIsOneAgentAtMost(t *testing.T) {
	h := newHouse(t)
	h.serve("1", 0)
	if _, err := agent.Listen(h.identity); !errors.Is(err, agent.ErrRunning) {
		t.Errorf("a second agent: %v, want %v", err, agent.ErrRunning)
	}
}

func TestAnOlderAgentMakesWayAndFinishesWhatItCarries(t *testing.T) {
	h := newHouse(t)
	ended := h.serve("1", 0)
	old := dial(t, h.remote("1", nil))
	echoes(t, old, "before the upgrade")
	fresh := dial(t, h.remote("2", func(context.Context) error {
		h.serve("2", 0)
		return nil
	}))
	echoes(t, fresh, "after the upgrade")
	echoes(t, old, "still carried")
	old.Close()
	if err := ended(); err != nil {
		t.Error(err)
	}
	echoes(t, fresh, "and on")
}

func TestNobodyElsesFolderIsUsed(t *testing.T) {
	h := newHouse(t)
	folder, err := agent.Folder(h.identity)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Listen(h.identity); !errors.Is(err, agent.ErrFolder) {
		t.Errorf("a folder that others can look into: %v, want %v", err, agent.ErrFolder)
	}
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	base := filepath.Dir(folder)
	if err := os.Rename(base, base+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base+"2", base); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Listen(h.identity); !errors.Is(err, agent.ErrFolder) {
		t.Errorf("a link in the folder's place: %v, want %v", err, agent.ErrFolder)
	}
}

func TestWhoTalksNonsenseIsNotHeard(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t)
	h.serve("1", 0)
	folder, err := agent.Folder(h.identity)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"\n", "{}\n", "nonsense\n", `{"do":"status"`, strings.Repeat("x", 64<<10),
		`{"do":"dial","service":"` + strings.Repeat("s", 100) + `"}` + "\n", `{"do":"dial","service":"echo"}` + "\n",
	} {
		conn, err := net.Dial("unix", filepath.Join(folder, "agent.sock"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, text)
		conn.(*net.UnixConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		if len(got) > 0 && !bytes.Contains(got, []byte(`"error"`)) {
			t.Errorf("%.40q is answered with %q", text, got)
		}
		conn.Close()
	}
	echoes(t, dial(t, h.remote("1", nil)), "alive")
}

func TestAProgramThatGivesUpEndsItsRequest(t *testing.T) {
	h := newHouse(t)
	h.controller.Set(func(c *controltest.Controller) { c.Delay = 2 * time.Second })
	h.serve("1", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.remote("1", nil).Dial(ctx, "echo"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestAPublishedProcessTellsItsSessionsAndDialsNothing(t *testing.T) {
	h := newHouse(t)
	l, err := agent.Publish(h.identity, "connect")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- agent.Serve(ctx, l, agent.Config{Kind: "connect", Version: "1", Sessions: func() []client.AccessInfo {
			return []client.AccessInfo{{Service: "db"}}
		}})
	}()
	found, err := agent.Processes(t.Context(), h.identity)
	if err != nil || len(found) != 1 || found[0].Kind != "connect" || found[0].Sessions[0].Service != "db" {
		t.Errorf("processes: %+v, %v", found, err)
	}
	if _, err := h.remote("1", nil).Dial(t.Context(), "echo"); !errors.Is(err, agent.ErrNoAgent) {
		t.Errorf("dial: %v, want %v", err, agent.ErrNoAgent)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
