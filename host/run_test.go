package host

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// inProcess is an agent within the test's own process, on loopback, with a
// firewall in memory.
type inProcess struct {
	controller *testController
	identity   hostIdentity
	config     Config
	kernel     *memoryKernel
	log        *logBuffer
	cancel     context.CancelFunc
	done       chan error
}

func newInProcess(t *testing.T) *inProcess {
	t.Helper()
	a := &inProcess{kernel: newMemoryKernel(bootClock), log: &logBuffer{}}
	a.controller = newController(t, func(address string) net.PacketConn {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}, "127.0.0.1")
	a.identity = a.controller.ca.host(t)
	a.controller.table.Put(a.identity.id, a.identity.secret)
	s := Defaults()
	s.State = t.TempDir()
	s.StatusSocket = filepath.Join(t.TempDir(), "run", "status.sock")
	s.Tunnel.Listen = testkit.FreePort(t)
	s.Tunnel.Capture = os.Geteuid() == 0
	if err := os.Chmod(s.State, 0o700); err != nil {
		t.Fatal(err)
	}
	a.identity.write(t, s.State, a.controller.ca, a.controller.controller())
	a.config = Config{Settings: s, Firewall: a.kernel, Version: "test",
		Log: slog.New(slog.NewTextHandler(a.log, nil))}
	return a
}

func (a *inProcess) start(t *testing.T) *hostLink {
	t.Helper()
	a.run(t)
	return a.controller.next(t.Context())
}

func (a *inProcess) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.done = cancel, make(chan error, 1)
	go func() { a.done <- Run(ctx, a.config) }() // ended by stop or wait
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			select {
			case err := <-a.done:
				t.Logf("Run: %v", err)
			default:
			}
			t.Logf("the agent's log:\n%s", a.log)
		}
	})
}

func (a *inProcess) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-a.done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the agent did not end")
		return nil
	}
}

func (a *inProcess) stop(t *testing.T) {
	t.Helper()
	a.cancel()
	if err := a.wait(t); err != nil {
		t.Fatalf("Run: %v", err)
	}
}

func TestShutdownTellsTheTunnelsAndLeavesThePinholesAndNoGoroutine(t *testing.T) {
	a := newInProcess(t) // its clean-up runs after NoLeak's
	var service net.Listener
	t.Run("life", func(t *testing.T) {
		link := a.start(t)
		var err error
		if service, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		accepted := make(chan net.Conn, 1)
		go func() { // ends with its one connection
			if c, err := service.Accept(); err == nil {
				accepted <- c
			}
		}()
		s := order("127.0.0.1", time.Hour)
		s.Target = service.Addr().String()
		link.order(control.ToHost{Open: &s})
		address := netip.MustParseAddrPort(a.config.Tunnel.Listen)
		conn, err := tunnel.Dial(t.Context(), tunnel.DialConfig{
			Addresses: []netip.AddrPort{address}, Host: a.identity.id, Session: s.ID,
			Pin:   control.PublicKeyPin(a.identity.cert.Leaf),
			Roots: a.controller.ca.pool(),
			Knock: func() []byte {
				return spa.SealHostKnock(s.Knock.HostKnock, a.identity.id, s.ID, time.Now())
			},
			Certificate: a.controller.ca.certificate(t, control.RoleClient, s.Device),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		stream, err := conn.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before := goroutines(t, a)
		a.stop(t)
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrShutdown) {
			t.Errorf("the stream ended with %v", err)
		}
		c := <-accepted
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the service's connection was left open")
		}
		c.Close()
		service.Close()
		holes, err := a.kernel.List(t.Context())
		if err != nil || len(holes) != 1 || holes[0].SourcePort == 0 {
			t.Errorf("after the shut-down: %v, %v", holes, err)
		}
		if before == 0 {
			t.Error("the agent ran no goroutine that the check could have seen")
		}
	})
	testkit.Eventually(t, 5*time.Second, "the agent's goroutines are gone", func() bool {
		return goroutines(t, a) == 0
	})
}

func allStacks() []byte {
	stacks := make([]byte, 4<<20)
	return stacks[:runtime.Stack(stacks, true)]
}

func publicOf(private crypto.PrivateKey) *ecdsa.PublicKey {
	return &private.(*ecdsa.PrivateKey).PublicKey
}

// goroutines counts those that run code of the agent's.
func goroutines(t *testing.T, _ *inProcess) int {
	t.Helper()
	n := 0
	for _, stack := range bytes.Split(allStacks(), []byte("\n\n")) {
		for _, code := range []string{
			"host.(*agent)", "host.(*link)", "host.(*sessions)", "host.(*stream)", "host.(*knocks)", "host.(*emergency)",
			"host.(*writer)", "host.serveStatus", "tunnel.(*Server)",
		} {
			if bytes.Contains(stack, []byte(code)) {
				n++
				break
			}
		}
	}
	return n
}

func TestAgentThatCannotGoOnLeavesNoPinhole(t *testing.T) {
	a := newInProcess(t)
	a.kernel.hold(t, exact("192.0.2.1:5000", time.Hour))
	a.config.Ready = func(r *Running) { r.agent.gate.Close() }
	a.run(t)
	if err := a.wait(t); err == nil {
		t.Error("the agent ended in order")
	}
	if holes, err := a.kernel.List(t.Context()); err != nil || len(holes) != 0 {
		t.Errorf("left open: %v, %v", holes, err)
	}
}

// TestADamagedCacheDoesNotStopTheAgent, which would take break-glass and all sessions
// with it, at each start anew.
func TestADamagedCacheDoesNotStopTheAgent(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
		mode os.FileMode
	}{
		"garbage":         {"\x00\x01", ErrState, 0o600},
		"truncated":       {`{"version":1,"boot":"`, ErrState, 0o600},
		"no version":      {`{}`, ErrState, 0o600},
		"negative":        {`{"version":-1}`, ErrState, 0o600},
		"newer":           {`{"version":2,"anything":[]}`, ErrStateVersion, 0o600},
		"not a list":      {`{"version":1,"sessions":7}`, ErrState, 0o600},
		"a broken secret": {`{"version":1,"sessions":[{"session":{"knock":"MARKER"}}]}`, ErrState, 0o600},
		"not private":     {`{"version":1}`, atomicfile.ErrNotPrivate, 0o644},
	} {
		t.Run(name, func(t *testing.T) {
			a := newInProcess(t)
			path := filepath.Join(a.config.State, stateName)
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			left := order("192.0.2.1", time.Hour)
			a.controller.list = []control.Session{left}
			a.start(t)
			testkit.Eventually(t, 5*time.Second, "the controller's session is open", func() bool {
				holes, err := a.kernel.List(t.Context())
				return err == nil && len(holes) == 1
			})
			a.stop(t)
			if got, err := os.ReadFile(path + ".damaged"); err != nil || string(got) != c.text {
				t.Errorf("set aside is %q, %v", got, err)
			}
			if info, err := os.Stat(path + ".damaged"); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("set aside: %v, %v", info, err)
			}
			said := a.log.String()
			if !strings.Contains(said, stateName+".damaged") || !strings.Contains(said, c.want.Error()) {
				t.Error("not logged")
			}
			if strings.Contains(said, "MARKER") {
				t.Error("the log quotes the file")
			}
		})
	}
}

func TestAPingTellsTheControllersTime(t *testing.T) {
	a := newInProcess(t)
	ready := make(chan *Running, 1)
	a.config.Ready = func(r *Running) { ready <- r }
	link := a.start(t)
	r := <-ready
	link.order(control.ToHost{Ping: &control.Ping{}}) // as an older controller's
	link.order(control.ToHost{Ping: &control.Ping{Now: time.Now().Add(10 * time.Minute)}})
	if off := time.Until(r.agent.clock.now()); off < 9*time.Minute {
		t.Errorf("the agent is %v ahead of the old time", off)
	}
	a.stop(t)
}

// TestADamagedJournalCostsTwoMinutesOfHostKnocksAndNotTheAgent.
func TestADamagedJournalCostsTwoMinutesOfHostKnocksAndNotTheAgent(t *testing.T) {
	a := newInProcess(t)
	journal := filepath.Join(a.config.State, journalName)
	if err := os.WriteFile(journal, []byte("not a journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	left := exact("192.0.2.1:5000", time.Hour)
	a.kernel.hold(t, left)
	link := a.start(t)
	session := order("192.0.2.2", time.Hour)
	link.order(control.ToHost{Open: &session})
	testkit.Eventually(t, 5*time.Second, "the journal is set aside", func() bool {
		b, err := os.ReadFile(journal + ".damaged")
		return err == nil && string(b) == "not a journal"
	})
	a.stop(t)
	if !strings.Contains(a.log.String(), journalName+".damaged") {
		t.Error("not logged")
	}
}

// TestAJournalThatCannotBeOpenedIsTriedAgain, and no host knock is taken meanwhile.
func TestAJournalThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	taken := 0
	k, seal := knockParts(t, func(key.ID, netip.AddrPort) bool { taken++; return true })
	if err := os.Mkdir(k.guard.path, 0o700); err != nil {
		t.Fatal(err)
	}
	source := netip.MustParseAddrPort("192.0.2.1:5000")
	k.setClock(time.Now())
	k.take(seal(), source)
	if taken != 0 {
		t.Error("a host knock was taken without a journal")
	}
	if err := os.Remove(k.guard.path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.roll(ctx); err != nil { // its first round
		t.Fatal(err)
	}
	k.take(seal(), source)
	if taken != 1 {
		t.Errorf("once there is a journal: %v", k.counters())
	}
}

func TestStateOfAnotherBootIsIgnored(t *testing.T) {
	path := filepath.Join(t.TempDir(), stateName)
	w := &writer{
		path: path, boot: "the boot before", log: slog.New(slog.DiscardHandler),
		content: func() (time.Time, []record) {
			return time.Now(), []record{{Session: order("192.0.2.1", time.Hour), Until: time.Hour}}
		},
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(path, "this boot")
	if err != nil || len(got.Sessions) != 0 || !got.AtBoot.IsZero() {
		t.Errorf("loaded %+v, %v", got, err)
	}
	got, err = loadState(path, "the boot before")
	if err != nil || len(got.Sessions) != 1 {
		t.Errorf("loaded %+v, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestStateThatCannotBeWrittenIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), stateName)
	if err := os.WriteFile(path, []byte("an ended session is in here"), 0o600); err != nil {
		t.Fatal(err)
	}
	var many []record
	for range 100 {
		many = append(many, record{Session: order("192.0.2.1", time.Hour), Until: time.Hour})
	}
	w := &writer{path: path, log: slog.New(slog.DiscardHandler),
		content: func() (time.Time, []record) { return time.Now(), many }}
	onFullDisk(t, func() {
		if err := w.flush(); err != nil {
			t.Errorf("flush: %v; an end whose record is gone from the disk counts as written", err)
		}
	})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old file is still there: %v", err)
	}
}

// onFullDisk runs f while no file can grow above 4 KiB.
func onFullDisk(t *testing.T, f func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := limit
	small.Cur = 4096
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

func TestCertificateIsRenewedInTime(t *testing.T) {
	for name, from := range map[string]time.Time{
		"at two thirds of its life":      time.Now().Add(-50 * time.Minute),
		"when it is over, before others": time.Now().Add(-2 * time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			a := newInProcess(t)
			private := a.identity.cert.PrivateKey
			old := a.controller.ca.issue(t, control.RoleHost, a.identity.id,
				publicOf(private), from, time.Hour)
			a.identity.cert.Certificate = [][]byte{old}
			a.identity.write(t, a.config.State, a.controller.ca, a.controller.controller())
			a.run(t)
			select {
			case <-a.controller.renewed:
			case <-time.After(10 * time.Second):
				t.Fatal("not renewed")
			}
			a.controller.next(t.Context()) // and the stream is there
			testkit.Eventually(t, 10*time.Second, "the new certificate is in use", func() bool {
				s, err := ReadStatus(t.Context(), a.config.StatusSocket)
				return err == nil && time.Until(s.CertificateExpires) > 55*time.Minute
			})
			a.stop(t)
			e, err := control.LoadIdentity(a.config.State)
			if err != nil {
				t.Fatal(err)
			}
			if time.Until(e.Leaf().NotAfter) < 55*time.Minute {
				t.Errorf("on the disk: %v", e.Leaf().NotAfter)
			}
		})
	}
}

func TestStatusSocketIsPrivateAndTellsOfASecondAgent(t *testing.T) {
	a := newInProcess(t)
	a.start(t)
	info, err := os.Stat(a.config.StatusSocket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := Run(t.Context(), a.config); !errors.Is(err, ErrRunning) {
		t.Errorf("a second agent: %v", err)
	}
	a.stop(t)
	if _, err := ReadStatus(t.Context(), a.config.StatusSocket); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status of no agent: %v", err)
	}
	a.start(t) // whatever the first one left does not hinder
	a.stop(t)
}

func TestOrdersBeforeTheSyncEndTheStream(t *testing.T) {
	s := &stream{link: &link{}}
	s.wire = nil
	if err := s.first(control.ToHost{Ping: &control.Ping{}}); !errors.Is(err, errProtocol) {
		t.Errorf("got %v", err)
	}
}

func TestNoVerbPrintsASecret(t *testing.T) {
	s := order("192.0.2.1", time.Hour)
	terms, err := newTerms(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	secret := s.Knock.RevealBytes()
	live := newSession(terms)
	b := newSessions(&sessions{})
	b.live[s.ID] = live
	for _, holder := range []any{terms, &terms, live, live.record(), b, []record{live.record()}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			text := fmt.Sprintf(verb, holder)
			for _, form := range []string{"%x", "%X", "%v", "%d"} {
				if shown := fmt.Sprintf(form, secret); bytes.Contains([]byte(text), []byte(shown)) {
					t.Errorf("%s of %T shows the secret", verb, holder)
				}
			}
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","sessions":[]}`))
	f.Add([]byte(`{"version":1,"boot":"b","sessions":[{"session":{"ttl":"1h"},"until":1,` +
		`"bound":"192.0.2.1:5"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := loadState(path, "b")
		if err != nil && len(s.Sessions) != 0 {
			t.Fatal("sessions and an error")
		}
		b := newSessions(&sessions{
			now: func() time.Duration { return time.Hour }, log: slog.New(slog.DiscardHandler),
			hints: spa.NewTable[key.HostKnock](time.Now()), port: testPort,
			gate: &memoryGate{admitted: make(map[netip.AddrPort]key.ID)},
		})
		b.adopt(s.Sessions, nil)
		for _, r := range b.records() {
			if r.Until <= time.Hour || r.Session.Knock.IsZero() {
				t.Fatalf("adopted %+v", r)
			}
		}
	})
}
