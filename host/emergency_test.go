package host

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	glassPort  = 2222 // the service that the keys of these tests open
	otherPort  = 2223
	glassGrace = 500 * time.Millisecond
)

// glassLab is a lab with two services on the host's own address, and an emergency key
// for the first.
type glassLab struct {
	*lab
	key control.EmergencyKey
	fw  firewall.Firewall
}

func newGlassLab(t *testing.T, length time.Duration) *glassLab {
	t.Helper()
	l := &glassLab{lab: newLab(t)}
	l.settings.Emergency.OnlyWhenAlone = control.Duration(glassGrace)
	l.key = makeEmergencyKey(t, l.settings.State, length)
	l.serve(glassPort)
	l.serve(otherPort)
	l.fw = l.firewall()
	return l
}

func makeEmergencyKey(t *testing.T, folder string, length time.Duration) control.EmergencyKey {
	t.Helper()
	k, err := CreateEmergencyKey(folder, control.EmergencyKey{
		Addresses: []string{hostAddress + ":4042"}, Service: "ssh", For: length, Uses: 10,
		Port: control.ServicePort{Transport: control.TransportTCP, Port: glassPort},
	}, func(control.EmergencyKey) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// serve echoes on every address of the host.
func (l *glassLab) serve(port int) {
	l.t.Helper()
	var listener net.Listener
	var err error
	l.host.Do(l.t, func() { listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() { // ends with its listener
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends with its connection
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func sealEmergency(t testing.TB, k control.EmergencyKey, counter uint64) []byte {
	t.Helper()
	packet, err := spa.SealEmergency(k.Secret, k.Host,
		spa.EmergencyKnock{Key: k.ID, Counter: counter, Service: k.Service})
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// knock sends a datagram to the host's tunnel port, three times.
func (l *glassLab) knock(source string, packet []byte) {
	l.t.Helper()
	c := listenIn(l.t, l.client, net.JoinHostPort(source, "0"))
	defer c.Close()
	for range 3 {
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(hostAddress + ":4042"))
		if _, err := c.WriteTo(packet, to); err != nil {
			l.t.Fatal(err)
		}
	}
}

// dial connects to a port of the host; nil when nothing answers within limit.
func (l *glassLab) dial(source string, port int, limit time.Duration) net.Conn {
	l.t.Helper()
	var c net.Conn
	var err error
	l.client.Do(l.t, func() {
		d := net.Dialer{Timeout: limit, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		c, err = d.Dial("tcp", net.JoinHostPort(hostAddress, fmt.Sprint(port)))
	})
	if err != nil {
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			l.t.Errorf("port %d answered %v, want silence", port, err)
		}
		return nil
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

func (l *glassLab) reaches(source string, port int) bool {
	c := l.dial(source, port, 300*time.Millisecond)
	if c != nil {
		c.Close()
	}
	return c != nil
}

// beAlone stops the controller and waits until keys work.
func (l *glassLab) beAlone() {
	l.t.Helper()
	l.controller.stop()
	l.ready()
}

func (l *glassLab) ready() {
	l.t.Helper()
	testkit.Eventually(l.t, 45*time.Second, "emergency keys work", func() bool {
		s, err := ReadStatus(l.t.Context(), l.settings.StatusSocket)
		return err == nil && s.Emergency.Ready && !s.Link.Connected
	})
}

// counts waits until the agent has counted a datagram with that reason n times.
func (l *glassLab) counts(reason spa.Reason, n uint64) {
	l.t.Helper()
	testkit.Eventually(l.t, 10*time.Second, fmt.Sprintf("%d of %s", n, reason), func() bool {
		s, err := ReadStatus(l.t.Context(), l.settings.StatusSocket)
		return err == nil && s.Emergency.Knocks[reason.String()] >= n
	})
}

func (l *glassLab) eventuallyReaches(source string, port int) {
	l.t.Helper()
	testkit.Eventually(l.t, 10*time.Second, "the port is open", func() bool {
		return l.reaches(source, port)
	})
}

// quiet insists that a datagram opens nothing.
func (l *glassLab) quiet(what, source string, packet []byte) {
	l.t.Helper()
	l.knock(source, packet)
	for range 2 { // the first answer might come too early
		if l.reaches(source, glassPort) {
			l.t.Errorf("%s opened the port", what)
		}
	}
}

func TestAnEmergencyKeyOpensItsPortToItsSourceAndNothingElse(t *testing.T) {
	l := newGlassLab(t, time.Hour)
	l.start()
	l.beAlone()
	if l.reaches(clientOne, glassPort) {
		t.Fatal("the port was open before")
	}
	l.knock(clientOne, sealEmergency(t, l.key, 1))
	l.eventuallyReaches(clientOne, glassPort)
	if l.reaches(clientTwo, glassPort) {
		t.Error("the port is open to another source")
	}
	if l.reaches(clientOne, otherPort) {
		t.Error("another port is open")
	}
	holes := l.pinholes(l.fw)
	if len(holes) != 1 || holes[0].Protocol != firewall.TCP || holes[0].TTL > time.Hour {
		t.Errorf("pinholes %+v", holes)
	}
	s, err := ReadStatus(t.Context(), l.settings.StatusSocket)
	if err != nil || len(s.Emergency.Openings) != 1 || s.Emergency.Openings[0].Source.String() != clientOne {
		t.Errorf("status %+v, %v", s.Emergency, err)
	}
	if !strings.Contains(l.log.String(), "level=ERROR msg=\"EMERGENCY ACCESS\"") {
		t.Error("the log does not tell of it at ERROR")
	}
}

func TestEmergencyAccessEndsInTheKernelWithTheAgentDead(t *testing.T) {
	const length = 4 * time.Second
	l := newGlassLab(t, length)
	l.start()
	l.beAlone()
	l.knock(clientOne, sealEmergency(t, l.key, 1))
	l.eventuallyReaches(clientOne, glassPort)
	live := l.dial(clientOne, glassPort, time.Second)
	if live == nil {
		t.Fatal("no connection")
	}
	echo(t, live, "before")
	l.kill()
	testkit.Eventually(t, length+5*time.Second, "the kernel closed the pinhole", func() bool {
		return len(l.pinholes(l.fw)) == 0
	})
	if l.reaches(clientOne, glassPort) {
		t.Error("the port is open after the deadline")
	}
	if err := live.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _ = live.Write([]byte("after\n"))
	if n, err := live.Read(make([]byte, 16)); err == nil {
		t.Errorf("the live connection carried %d bytes after the deadline", n)
	}
}

func TestAnEmergencyCounterServesOnceAlsoAcrossKill9(t *testing.T) {
	l := newGlassLab(t, 5*time.Second)
	l.start()
	l.beAlone()
	older, second := sealEmergency(t, l.key, 1), sealEmergency(t, l.key, 2)
	l.knock(clientOne, second)
	l.eventuallyReaches(clientOne, glassPort)
	l.kill()
	testkit.Eventually(t, 10*time.Second, "the kernel closed the pinhole", func() bool {
		return len(l.pinholes(l.fw)) == 0
	})
	l.startAlone()
	l.ready()
	l.quiet("a replay after kill -9", clientOne, second)
	l.quiet("a replay from elsewhere", clientTwo, second)
	l.quiet("an older counter", clientOne, older)
	l.quiet("the used counter, sealed again", clientOne, sealEmergency(t, l.key, 2))
	l.knock(clientTwo, sealEmergency(t, l.key, 7)) // counters may be skipped
	l.eventuallyReaches(clientTwo, glassPort)
	l.quiet("a skipped counter", clientOne, sealEmergency(t, l.key, 6))
}

func TestAnEmergencyKnockForAnotherHostOrServiceIsSilent(t *testing.T) {
	l := newGlassLab(t, time.Hour)
	l.start()
	l.beAlone()
	other := l.key
	other.Host = key.NewID()
	l.quiet("a knock for another host", clientOne, sealEmergency(t, other, 1))
	other = l.key
	other.Service = "db"
	l.quiet("a knock for another service", clientOne, sealEmergency(t, other, 1))
	other = l.key
	other.Secret = key.NewEmergency()
	l.quiet("a knock with another secret", clientOne, sealEmergency(t, other, 1))
	l.counts(spa.ReasonMAC, 1)
	l.counts(spa.ReasonOwner, 1)
	l.knock(clientOne, sealEmergency(t, l.key, 1)) // and none of them used the counter
	l.eventuallyReaches(clientOne, glassPort)
}

func TestAnEmergencyKeyIsRefusedWhileTheControllerIsThere(t *testing.T) {
	l := newGlassLab(t, time.Hour)
	link := l.start()
	link.order(control.ToHost{Ping: &control.Ping{}})
	first := sealEmergency(t, l.key, 1)
	l.quiet("a knock beside a controller", clientOne, first)
	testkit.Eventually(t, 5*time.Second, "the log and the status tell of it", func() bool {
		s, err := ReadStatus(t.Context(), l.settings.StatusSocket)
		return err == nil && s.Emergency.Refused == 1 &&
			strings.Contains(l.log.String(), "level=WARN msg=\"EMERGENCY ACCESS REFUSED")
	})
	events := []control.EmergencyEvent{}
	for range 2 {
		events = append(events, nextEmergency(t, link).Record.Event)
	}
	if events[0] != control.EmergencyCreated || events[1] != control.EmergencyRefused {
		t.Errorf("the controller was told %v", events)
	}
	l.beAlone()
	l.quiet("the refused knock, sent again when the controller is gone", clientTwo, first)
	l.knock(clientOne, sealEmergency(t, l.key, 2))
	l.eventuallyReaches(clientOne, glassPort)
}

func nextEmergency(t *testing.T, link *hostLink) control.EmergencyReport {
	t.Helper()
	select {
	case r := <-link.emergencies:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("the controller was told nothing")
		return control.EmergencyReport{}
	}
}

func TestAControllerThatIsBackIsToldAndClosesNothing(t *testing.T) {
	l := newGlassLab(t, time.Hour)
	l.start()
	l.beAlone()
	l.knock(clientOne, sealEmergency(t, l.key, 1))
	l.eventuallyReaches(clientOne, glassPort)
	live := l.dial(clientOne, glassPort, time.Second)
	l.controller.back()
	link := l.controller.next(t.Context())
	if r := nextEmergency(t, link); r.Record.Event != control.EmergencyCreated {
		t.Errorf("told %+v", r)
	}
	r := nextEmergency(t, link)
	if r.Record.Event != control.EmergencyAccepted || r.Record.Source.String() != clientOne ||
		r.Record.Service != "ssh" || r.Record.Key != l.key.ID || r.Record.Counter != 1 || r.Hash == "" {
		t.Errorf("told %+v", r)
	}
	echo(t, live, "still there")
	if !l.reaches(clientOne, glassPort) {
		t.Error("the controller's list of sessions closed it")
	}

	l.kill() // before anything is acknowledged
	link = l.start()
	for range 2 {
		r = nextEmergency(t, link)
	}
	link.order(control.ToHost{Told: &control.Told{Sequence: r.Record.Sequence}})
	testkit.Eventually(t, 5*time.Second, "all is told", func() bool {
		s, err := ReadStatus(t.Context(), l.settings.StatusSocket)
		return err == nil && s.Emergency.Untold == 0
	})
	echo(t, live, "across kill -9")
	l.stop()
	link = l.start()
	link.order(control.ToHost{Ping: &control.Ping{}})
	select {
	case r := <-link.emergencies:
		t.Errorf("told again: %+v", r)
	default:
	}
}

func TestMoreRecordsThanFitAreToldAsTheyAreAcknowledged(t *testing.T) {
	a := newInProcess(t)
	const records = 2*maxReports + 3
	for range records / 2 { // each makes two
		k := makeEmergencyKey(t, a.config.State, time.Hour)
		if err := RevokeEmergencyKey(a.config.State, k.ID); err != nil {
			t.Fatal(err)
		}
	}
	makeEmergencyKey(t, a.config.State, time.Hour)
	link := a.start(t)
	for n := uint64(1); n <= records; n++ {
		if r := nextEmergency(t, link); r.Record.Sequence != n {
			t.Fatalf("record %d, want %d", r.Record.Sequence, n)
		}
		if n%maxReports != 0 && n != records {
			continue
		}
		link.order(control.ToHost{Ping: &control.Ping{}}) // all that was sent has come
		select {
		case r := <-link.emergencies:
			t.Fatalf("told %d before what came before was acknowledged", r.Record.Sequence)
		default:
		}
		link.order(control.ToHost{Told: &control.Told{Sequence: n}})
	}
	a.awaitStatus(t, "all is told", func(s EmergencyStatus) bool { return s.Untold == 0 })
	a.stop(t)
}

func TestEmergencyAccessIsClosedByCommandAlsoOnADeadAgent(t *testing.T) {
	l := newGlassLab(t, time.Hour)
	l.start()
	l.beAlone()
	shut := func(what string) {
		t.Helper()
		testkit.Eventually(t, 5*time.Second, what, func() bool {
			return len(l.pinholes(l.fw)) == 0 && !l.reaches(clientOne, glassPort)
		})
	}
	l.knock(clientOne, sealEmergency(t, l.key, 1))
	l.eventuallyReaches(clientOne, glassPort)
	if n, err := CloseEmergency(l.settings.State, key.ID{}); n != 1 || err != nil {
		t.Fatalf("closed %d, %v", n, err)
	}
	shut("closed by command")
	if _, err := CloseEmergency(l.settings.State, key.NewID()); !errors.Is(err, ErrNoEmergency) {
		t.Errorf("closing what there is not: %v", err)
	}

	l.knock(clientOne, sealEmergency(t, l.key, 2))
	l.eventuallyReaches(clientOne, glassPort)
	l.kill()
	if n, err := CloseEmergency(l.settings.State, key.ID{}); n != 1 || err != nil {
		t.Fatalf("closed %d, %v", n, err)
	}
	l.startAlone()
	shut("closed when the agent started")
	l.ready()

	l.knock(clientOne, sealEmergency(t, l.key, 3))
	l.eventuallyReaches(clientOne, glassPort)
	if err := RevokeEmergencyKey(l.settings.State, l.key.ID); err != nil {
		t.Fatal(err)
	}
	shut("closed by revoking its key")
	l.quiet("a revoked key", clientOne, sealEmergency(t, l.key, 4))
	if err := VerifyEmergencyLog(l.settings.State); err != nil {
		t.Error(err)
	}
}

// glass is an in-process agent that is alone: its controller's knock port is silent.
func newGlass(t *testing.T) (*inProcess, control.EmergencyKey) {
	t.Helper()
	a := newInProcess(t)
	a.controller.stop()
	a.config.Emergency.OnlyWhenAlone = 0
	a.config.Tunnel.Capture = false
	k := makeEmergencyKey(t, a.config.State, time.Hour)
	return a, k
}

// knock sends an emergency knock to the agent's socket.
func (a *inProcess) knock(t *testing.T, packet []byte) {
	t.Helper()
	c, err := net.Dial("udp", a.config.Tunnel.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
}

func (a *inProcess) holes(t *testing.T) []firewall.Pinhole {
	t.Helper()
	holes, err := a.kernel.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return holes
}

// awaitStatus waits for a status that says so.
func (a *inProcess) awaitStatus(t *testing.T, what string, ok func(EmergencyStatus) bool) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, what, func() bool {
		s, err := ReadStatus(t.Context(), a.config.StatusSocket)
		return err == nil && ok(s.Emergency)
	})
}

func TestAnEmergencyThatCannotBeRecordedStaysShut(t *testing.T) {
	l := newGlassLab(t, time.Hour)
	for range 14 { // the files outgrow what a full disk lets the agent write
		makeEmergencyKey(t, l.settings.State, time.Hour)
	}
	l.start()
	l.beAlone()
	disk := func(limit uint64) {
		t.Helper()
		full := unix.Rlimit{Cur: limit, Max: unix.RLIM_INFINITY}
		if err := unix.Prlimit(l.process.Process.Pid, unix.RLIMIT_FSIZE, &full, nil); err != nil {
			t.Fatal(err)
		}
	}
	disk(4096)
	packet := sealEmergency(t, l.key, 1)
	l.quiet("a knock that could not be recorded", clientOne, packet)
	testkit.Eventually(t, 5*time.Second, "the use could not be written", func() bool {
		s, err := ReadStatus(t.Context(), l.settings.StatusSocket)
		return err == nil && s.Emergency.Unwritten >= 1
	})
	disk(unix.RLIM_INFINITY)
	l.quiet("the same when there is room again: once seen, it is spent", clientOne, packet)
	l.knock(clientOne, sealEmergency(t, l.key, 2))
	l.eventuallyReaches(clientOne, glassPort)
	if err := VerifyEmergencyLog(l.settings.State); err != nil {
		t.Error(err)
	}
}

func TestAnEmergencyThatTheFirewallRefusesDoesNotOpenLater(t *testing.T) {
	a, k := newGlass(t)
	a.run(t)
	a.awaitStatus(t, "the agent runs", func(s EmergencyStatus) bool { return s.Ready })
	a.kernel.mu.Lock()
	a.kernel.fail = errors.New("no memory")
	a.kernel.mu.Unlock()
	a.knock(t, sealEmergency(t, k, 1))
	a.awaitStatus(t, "it failed", func(s EmergencyStatus) bool {
		return s.Failed == 1 && len(s.Openings) == 0
	})
	a.kernel.mu.Lock()
	a.kernel.fail = nil
	a.kernel.mu.Unlock()
	a.stop(t)
	a.run(t)
	a.awaitStatus(t, "the agent runs again", func(s EmergencyStatus) bool { return s.Ready })
	if holes := a.holes(t); len(holes) != 0 {
		t.Errorf("open: %+v", holes)
	}
	a.stop(t)
}

func TestAnAgentThatDiedBetweenRecordAndDoorOpensIt(t *testing.T) {
	a, k := newGlass(t)
	boot, err := bootclock.ID()
	if err != nil {
		t.Fatal(err)
	}
	store := emergencyStore{a.config.State}
	_, err = store.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		arrival := emergencyArrival{
			spa.EmergencyKnock{Key: k.ID, Counter: 1, Service: "ssh"}, netip.MustParseAddr(clientOne),
		}
		s.key(k.ID).Used = 1
		now := s.key(k.ID).open(arrival, boot, bootClock())
		before := s.key(k.ID).open(arrival, "another boot", bootClock())
		before.Source = netip.MustParseAddr(clientTwo)
		s.Openings = append(s.Openings, now, before)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.run(t)
	testkit.Eventually(t, 5*time.Second, "it is open", func() bool { return len(a.holes(t)) > 0 })
	if holes := a.holes(t); len(holes) != 1 || holes[0].Source.String() != clientOne {
		t.Errorf("open: %+v", holes)
	}
	a.stop(t)
}

func TestTheAgentFollowsTheCommandsOfTheAdministrator(t *testing.T) {
	a, _ := newGlass(t)
	a.run(t)
	a.awaitStatus(t, "one key", func(s EmergencyStatus) bool { return len(s.Keys) == 1 })
	k := makeEmergencyKey(t, a.config.State, time.Hour)
	a.awaitStatus(t, "two keys", func(s EmergencyStatus) bool { return len(s.Keys) == 2 })
	a.knock(t, sealEmergency(t, k, 1))
	testkit.Eventually(t, 5*time.Second, "open", func() bool { return len(a.holes(t)) == 1 })
	if err := os.WriteFile(filepath.Join(a.config.State, emergencyName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, "the log tells of the damage", func() bool {
		return strings.Contains(a.log.String(), "none works until they are")
	})
	a.knock(t, sealEmergency(t, k, 2))
	if holes := a.holes(t); len(holes) != 1 {
		t.Errorf("open: %+v", holes)
	}
	a.stop(t)
}

// TestNoSecretOfAnEmergencyKeyIsKeptOrTold: the host's files and words have nothing
// that makes a knock, and what recognises one is in its own file only.
func TestNoSecretOfAnEmergencyKeyIsKeptOrTold(t *testing.T) {
	a, k := newGlass(t)
	a.run(t)
	a.awaitStatus(t, "the agent runs", func(s EmergencyStatus) bool { return s.Ready })
	a.knock(t, sealEmergency(t, k, 1))
	testkit.Eventually(t, 5*time.Second, "open", func() bool { return len(a.holes(t)) == 1 })
	status, err := ReadStatus(t.Context(), a.config.StatusSocket)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	a.stop(t)
	verifier := strings.Split(k.Secret.Verifier().Reveal(), ":")[1][:64]
	state, err := emergencyStore{a.config.State}.load()
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{
		"the log": a.log.String(), "the status": string(shown),
	}
	for _, held := range []any{state, &state, state.Keys, k, &k} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			places[verb+fmt.Sprintf(" of %T", held)] = fmt.Sprintf(verb, held)
		}
	}
	entries, err := os.ReadDir(a.config.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(a.config.State, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		places[e.Name()] = string(b)
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(e.Name(), "emergency") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	secret := k.Secret.RevealBytes()
	for where, text := range places {
		for _, form := range []string{
			hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), string(secret),
			strings.Trim(fmt.Sprint(secret), "[]"),
		} {
			if strings.Contains(text, form) {
				t.Errorf("%s has the secret", where)
			}
		}
		if strings.Contains(text, verifier) != (where == emergencyName) {
			t.Errorf("%s and the verifier: not as expected", where)
		}
	}
}

func TestAChangedAuditIsTold(t *testing.T) {
	a := newInProcess(t)
	for range 4 {
		makeEmergencyKey(t, a.config.State, time.Hour)
	}
	path := filepath.Join(a.config.State, emergencyAuditName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyEmergencyLog(a.config.State); err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"a word changed":       {bytes.Replace(good, []byte(`"ssh"`), []byte(`"dns"`), 1), ErrAuditHash},
		"a line taken out":     {join(lines[0], lines[2], lines[3]), ErrAuditGap},
		"the first taken out":  {join(lines[1], lines[2], lines[3]), ErrAuditGap},
		"the last taken out":   {join(lines[0], lines[1], lines[2]), ErrAuditShort},
		"two exchanged":        {join(lines[0], lines[2], lines[1], lines[3]), ErrAuditGap},
		"one twice":            {join(lines[0], lines[1], lines[1], lines[2], lines[3]), ErrAuditGap},
		"all gone":             {nil, ErrAuditShort},
		"the last half gone":   {good[:len(good)-20], ErrAuditLine},
		"its line end gone":    {good[:len(good)-1], ErrAuditLine},
		"something else in it": {join(lines[0], []byte("hello\n"), lines[1]), ErrAuditLine},
	} {
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := VerifyEmergencyLog(a.config.State); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// A crash in the middle of a line: the next record goes behind the last whole one.
	if err := os.WriteFile(path, append(bytes.Clone(good), lines[3][:30]...), 0o600); err != nil {
		t.Fatal(err)
	}
	makeEmergencyKey(t, a.config.State, time.Hour)
	if err := VerifyEmergencyLog(a.config.State); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	// A file that was taken away does not begin anew.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	makeEmergencyKey(t, a.config.State, time.Hour)
	if err := VerifyEmergencyLog(a.config.State); !errors.Is(err, ErrAuditGap) {
		t.Errorf("after it was taken away: %v", err)
	}
}

func TestKeysThatCannotBeHandedOverAreNotMade(t *testing.T) {
	a := newInProcess(t)
	full := errors.New("no room")
	_, err := CreateEmergencyKey(a.config.State, control.EmergencyKey{
		Addresses: []string{"h:4042"}, Service: "ssh", For: time.Hour, Uses: 1,
		Port: control.ServicePort{Transport: control.TransportTCP, Port: 22},
	}, func(control.EmergencyKey) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if keys, err := EmergencyKeys(a.config.State); len(keys) != 0 || err != nil {
		t.Errorf("keys %v, %v", keys, err)
	}
}

// TestRootsCommandsAreNoLeverForTheAgentsUser: the folder is the service's, who could
// put another name of a file of root's where root is going to write.
func TestRootsCommandsAreNoLeverForTheAgentsUser(t *testing.T) {
	for _, name := range []string{emergencyAuditName, emergencyLockName} {
		for kind, link := range map[string]func(old, new string) error{
			"hard": os.Link, "symbolic": os.Symlink,
		} {
			a := newInProcess(t)
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("no line end"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := link(victim, filepath.Join(a.config.State, name)); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				if err := os.Chown(a.config.State, 998, 997); err != nil {
					t.Fatal(err)
				}
			}
			_, err := emergencyStore{a.config.State}.change(
				func(*emergencyState) ([]control.EmergencyRecord, error) {
					return []control.EmergencyRecord{{Event: control.EmergencyCreated}}, nil
				})
			if err == nil {
				t.Errorf("%s, a %s link, was followed", name, kind)
			}
			text, readErr := os.ReadFile(victim)
			info, statErr := os.Stat(victim)
			if readErr != nil || statErr != nil || string(text) != "no line end" {
				t.Errorf("%s, a %s link: the file is now %q, %v, %v", name, kind, text, readErr, statErr)
			}
			if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != os.Geteuid() {
				t.Errorf("%s, a %s link: the file belongs to %d", name, kind, stat.Uid)
			}
		}
	}
}

func TestWhatRootMakesIsTheServices(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can give files away: nothing to see")
		return
	}
	a := newInProcess(t)
	entries, err := os.ReadDir(a.config.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(entries, nil) {
		name := a.config.State
		if path != nil {
			name = filepath.Join(name, path.Name())
		}
		if err := os.Chown(name, 998, 997); err != nil {
			t.Fatal(err)
		}
	}
	makeEmergencyKey(t, a.config.State, time.Hour)
	makeEmergencyKey(t, a.config.State, time.Hour) // over what is the service's now
	for _, name := range []string{emergencyName, emergencyAuditName, emergencyLockName} {
		info, err := os.Stat(filepath.Join(a.config.State, name))
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 998 || stat.Gid != 997 {
			t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
		}
	}
	if err := VerifyEmergencyLog(a.config.State); err != nil {
		t.Error(err)
	}
}

func FuzzEmergencyState(f *testing.F) {
	f.Add([]byte(`{"version":1,"keys":[],"openings":[]}`))
	f.Add([]byte(`{"version":1,"keys":[{"id":"00","verifier":"MARKER"}]}`))
	k := emergencyKey{ID: key.NewID(), Service: "ssh", For: 1, Uses: 3,
		Port:     control.ServicePort{Transport: control.TransportUDP, Port: 53},
		Verifier: emergencyVerifier{key.NewEmergency().Verifier()}}
	o := k.open(emergencyArrival{source: netip.MustParseAddr(clientOne)}, "b", time.Hour)
	b, err := json.Marshal(emergencyState{
		Version: 1, Keys: []emergencyKey{k}, Openings: []emergencyOpening{o},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, text []byte) {
		store := emergencyStore{t.TempDir()}
		if err := os.WriteFile(store.path(emergencyName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.load()
		if err != nil {
			if len(s.Keys) != 0 || strings.Contains(err.Error(), "MARKER") {
				t.Fatalf("keys and an error, or a quoting one: %v", err)
			}
			return
		}
		e := newEmergency(&emergency{store: store, boot: "b", receiver: spa.NewEmergencyReceiver(key.NewID())})
		e.adoptState(s)
		for _, o := range s.Openings {
			if c := o.claim(); c.opening.Validate() != nil {
				t.Fatalf("an opening that no firewall takes: %+v", o)
			}
		}
	})
}
