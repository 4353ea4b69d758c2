package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/listen"
)

// probe sends datagrams from one socket and reports what comes back.
type probe struct {
	t *testing.T
	c *net.UDPConn
}

func newProbe(t *testing.T, to netip.AddrPort) *probe {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &probe{t, c}
}

func (p *probe) send(b []byte) {
	p.t.Helper()
	if _, err := p.c.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// receive returns the next datagram, or nil when none comes in time. An ICMP
// error counts as an answer.
func (p *probe) receive(within time.Duration) []byte {
	p.t.Helper()
	b := make([]byte, 2048)
	_ = p.c.SetReadDeadline(time.Now().Add(within))
	n, err := p.c.Read(b)
	if err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return nil
		}
		return []byte(err.Error())
	}
	return b[:n]
}

const silence = 250 * time.Millisecond

// sealed returns a valid knock of e.
func (h *house) sealed(e *control.Enrolled, r spa.Request, audience string) ([]byte, *spa.Pending) {
	h.t.Helper()
	k := e.KnockConfig(r.Kind)
	r.Device = e.ID
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	datagram, pending, err := spa.SealKnock(k.Secret, h.private.Public(), audience, r)
	if err != nil {
		h.t.Fatal(err)
	}
	return datagram, pending
}

func TestNothingInvalidIsEverAnswered(t *testing.T) {
	s := newScene(t)
	access := spa.Request{Kind: spa.KindAccess, Service: "ssh"}
	valid, _ := s.sealed(s.device, access, "gate.test")
	elsewhere, _ := s.sealed(s.device, access, "another.test")
	old := access
	old.Time = time.Now().Add(-10 * time.Minute)
	late, _ := s.sealed(s.device, old, "gate.test")
	flipped := bytes.Clone(valid)
	flipped[100] ^= 1
	stranger, _, err := spa.SealKnock(key.NewKnock(), s.private.Public(), "gate.test",
		spa.Request{Kind: spa.KindAccess, Device: s.device.ID, Service: "ssh", Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, spa.Size)
	rand.Read(noise)
	p := newProbe(t, s.addresses.Knock)
	for _, datagram := range [][]byte{
		{}, {0}, valid[:255], append(bytes.Clone(valid), 0), make([]byte, 1200), noise, make([]byte, spa.Size),
		elsewhere, late, flipped, stranger,
	} {
		p.send(datagram)
	}
	if got := p.receive(silence); got != nil {
		t.Fatalf("answered with %d bytes", len(got))
	}
	p.send(valid)
	if got := p.receive(patience); len(got) != spa.Size {
		t.Fatalf("the valid knock was answered with %d bytes, want %d", len(got), spa.Size)
	}
	p.send(valid)
	if got := p.receive(silence); got != nil {
		t.Error("a replay was answered")
	}
	testkit.Eventually(t, patience, "one replay is counted", func() bool {
		return s.counters.knocks[spa.ReasonReplay].Load() == 1
	})
}

// TestAnExpiredJoinTokenMeetsSilence, also before anybody has swept it away.
func TestAnExpiredJoinTokenMeetsSilence(t *testing.T) {
	s := newScene(t)
	p := newProbe(t, s.addresses.Knock)
	token := identity.Token{ID: key.NewID(), Knock: key.NewKnock()}
	for _, test := range []struct {
		left time.Duration
		wait time.Duration
		size int
	}{{-time.Second, silence, 0}, {time.Hour, patience, spa.Size}} {
		token.Expires = time.Now().Add(test.left)
		s.directory.putToken(token)
		knock, _, err := spa.SealKnock(token.Knock, s.private.Public(), "gate.test",
			spa.Request{Kind: spa.KindControl, Device: token.ID, Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		p.send(knock)
		if got := p.receive(test.wait); len(got) != test.size {
			t.Errorf("%s left: answered with %d bytes, want %d", test.left, len(got), test.size)
		}
	}
}

func TestAKnockIsAcceptedOnceAlsoAfterARestart(t *testing.T) {
	s := newScene(t)
	valid, pending := s.sealed(s.device, spa.Request{Kind: spa.KindAccess, Service: "ssh"}, "gate.test")
	p := newProbe(t, s.addresses.Knock)
	p.send(valid)
	if _, err := pending.OpenReply(p.receive(patience)); err != nil {
		t.Fatal(err)
	}
	s.restart()
	p.send(valid)
	if got := p.receive(silence); got != nil {
		t.Error("a knock recorded before the restart was answered after it")
	}
}

// TestADamagedJournalStopsNoControllerAndLetsNoKnockInTwice: what the journal cannot tell
// any more counts as used.
func TestADamagedJournalStopsNoControllerAndLetsNoKnockInTwice(t *testing.T) {
	s := newScene(t)
	valid, pending := s.sealed(s.device, spa.Request{Kind: spa.KindAccess, Service: "ssh"}, "gate.test")
	p := newProbe(t, s.addresses.Knock)
	p.send(valid)
	if _, err := pending.OpenReply(p.receive(patience)); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.config.State, journalFile)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.config.Knock.Listen, s.config.Control.Listen = s.addresses.Knock.String(), s.addresses.Control.String()
	s.start()
	p.send(valid)
	if got := p.receive(silence); got != nil {
		t.Error("a knock of before was answered")
	}
	if _, err := os.Stat(path + ".damaged"); err != nil || !strings.Contains(s.logs.String(), "was damaged") {
		t.Errorf("the damaged journal is not kept and told of: %v", err)
	}
}

// quicInitial is the start of a client's first packet, padded as RFC 9000, 14.1
// demands, of version 1 or of one that nobody speaks.
func quicInitial(version byte) []byte {
	b := make([]byte, 1200)
	copy(b, []byte{0xc3, 0, 0, 0, version, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e})
	return b
}

func TestAStrangerAtTheControlPortMeetsSilence(t *testing.T) {
	s := newScene(t)
	p := newProbe(t, s.addresses.Control)
	noise := make([]byte, spa.Size)
	rand.Read(noise)
	zeros := make([]byte, 1200)
	for _, datagram := range [][]byte{{0}, noise, quicInitial(1), quicInitial(0xfa), zeros} {
		p.send(datagram)
	}
	if got := p.receive(silence); got != nil {
		t.Errorf("a stranger was answered with %d bytes", len(got))
	}
}

// TestAHostKnockLetsInItsOwnSourceOnly: the neighbour behind the same address, inside the
// wide pinhole, still meets silence; the host knock lets in its own source only.
func TestAHostKnockLetsInItsOwnSourceOnly(t *testing.T) {
	s := newScene(t)
	answer, err := s.device.Knock(s.ctx(), s.device.KnockConfig(spa.KindControl))
	if err != nil {
		t.Fatal(err)
	}
	g := answer.Grant
	neighbour, knocker := newProbe(t, s.addresses.Control), newProbe(t, s.addresses.Control)
	hostKnock := spa.SealHostKnock(g.Knock, g.Host, g.Session, time.Now())
	knocker.send(hostKnock)
	neighbour.send(hostKnock) // recorded and played again
	for _, p := range []*probe{neighbour, knocker} {
		p.send(quicInitial(0xfa)) // an unknown version: an open QUIC port answers it
	}
	if got := neighbour.receive(silence); got != nil {
		t.Errorf("the neighbour was answered with %d bytes", len(got))
	}
	admitted := knocker.c.LocalAddr().(*net.UDPAddr).AddrPort()
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	if s.door.sources[admitted] == nil || len(s.door.sources) != 2 { // and the agent's
		t.Errorf("admitted are %v, want %s among two", s.door.sources, admitted)
	}
}

func TestAGarbageKnockCostsNoMemory(t *testing.T) {
	s := newScene(t)
	receiver, err := spa.NewKnockReceiver(s.name, s.private, s.directory.hints, s.guard)
	if err != nil {
		t.Fatal(err)
	}
	k := &knocks{receiver: receiver, counters: s.counters, log: discard(), inFlight: map[key.ID]int{}}
	noise := make([]byte, spa.Size)
	rand.Read(noise)
	packets := []listen.Packet{{Data: noise}, {Data: noise[:17]}}
	now, ctx := time.Now(), context.Background()
	if n := testing.AllocsPerRun(1000, func() {
		for i := range packets {
			k.receive(ctx, &packets[i], now)
		}
	}); n != 0 {
		t.Errorf("%v allocations for two garbage datagrams, want 0", n)
	}
}

// TestOneIdentityCannotTakeAllWorkers: while a host is silent, a device that
// knocks on gets no more than its share of the pipeline.
func TestOneIdentityCannotTakeAllWorkers(t *testing.T) {
	s := newScene(t)
	close(s.agent.silent)
	p := newProbe(t, s.addresses.Knock)
	pendings := make([]*spa.Pending, 0, 2*maxInFlight)
	for range 2 * maxInFlight {
		access := spa.Request{Kind: spa.KindAccess, Service: "ssh"}
		datagram, pending := s.sealed(s.device, access, "gate.test")
		p.send(datagram)
		pendings = append(pendings, pending)
	}
	busy := 0
	for range maxInFlight { // the others wait for the host
		datagram := p.receive(patience)
		for _, pending := range pendings {
			if r, err := pending.OpenReply(datagram); err == nil && r.Denial.Code == spa.CodeBusy {
				busy++
			}
		}
	}
	if busy != maxInFlight {
		t.Errorf("%d knocks were turned away busy, want %d", busy, maxInFlight)
	}
}
