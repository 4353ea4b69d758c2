package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// glassHost takes emergency knocks on loopback and opens a port for those it accepts.
type glassHost struct {
	t      *testing.T
	key    control.EmergencyKey
	socket net.PacketConn

	mu   sync.Mutex // guards what follows
	took []spa.EmergencyKnock
	seen int
	open net.Listener
}

func newGlassHost(t *testing.T) *glassHost {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // its port is free when it is closed
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	h := &glassHost{t: t}
	if h.socket, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	h.key = control.EmergencyKey{
		Host: key.NewID(), Name: "web1", Addresses: []string{h.socket.LocalAddr().String()}, ID: key.NewID(),
		Service: "ssh", Port: control.ServicePort{Transport: control.TransportTCP, Port: uint16(port)},
		For: time.Minute, Uses: 3, Secret: key.NewEmergency(),
	}
	var serving sync.WaitGroup
	serving.Go(h.serve)
	t.Cleanup(func() {
		h.socket.Close()
		serving.Wait()
		h.shut()
	})
	return h
}

func (h *glassHost) serve() {
	k := spa.EmergencyKey{ID: h.key.ID, Verifier: h.key.Secret.Verifier(), Service: "ssh", Uses: h.key.Uses}
	rx := spa.NewEmergencyReceiver(h.key.Host)
	rx.Set([]spa.EmergencyKey{k})
	datagram := make([]byte, 512)
	for {
		n, _, err := h.socket.ReadFrom(datagram)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		knock, reason := rx.Receive(datagram[:n])
		h.mu.Lock()
		h.seen++
		if reason == spa.ReasonOK {
			k.Used = knock.Counter
			rx.Set([]spa.EmergencyKey{k})
			h.took = append(h.took, knock)
			if h.open, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", h.key.Port.String()[4:])); err != nil {
				h.t.Error(err)
			}
		}
		h.mu.Unlock()
	}
}

func (h *glassHost) shut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open != nil {
		h.open.Close()
		h.open = nil
	}
}

func (h *glassHost) counters() []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []uint64
	for _, k := range h.took {
		all = append(all, k.Counter)
	}
	return all
}

// file writes the key where its owner has it.
func (h *glassHost) file() string {
	h.t.Helper()
	text, err := h.key.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.t.TempDir(), "web1.key")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func TestAnEmergencyKeyIsUsedWithTheNextCounterEachTime(t *testing.T) {
	h, m := newGlassHost(t), newMachine(t) // which is not enrolled
	path := h.file()
	for range 3 {
		r := m.run("", "emergency", "--key", path)
		r.want(t, exitOK, "EMERGENCY ACCESS to ssh of web1", "hint: ssh -p")
		if want := "127.0.0.1:" + h.key.Port.String()[4:] + "\n"; r.out != want {
			t.Errorf("printed %q, want %q", r.out, want)
		}
		h.shut()
	}
	if got := h.counters(); len(got) != 3 || got[0] != 1 || got[1] != 2 || got[2] != 3 {
		t.Errorf("the host took %v", got)
	}
	m.run("", "emergency", "--key", path).want(t, exitUsage, "all 3 uses of this key are gone")
}

func TestAnEmergencyKeyFromStandardInput(t *testing.T) {
	h, m := newGlassHost(t), newMachine(t)
	text, err := h.key.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.run(text, "emergency", "--key", "-", "--counter", "2").want(t, exitOK, "hint: next time, say --counter 3")
	h.shut()
	r := m.run(text, "emergency", "--key", "-", "--counter", "2", "--wait", "1s")
	r.want(t, exitNoAnswer, "the port did not open", "hint: check, in this order: 1. is the controller", "2. the counter")
	if r.out != "" {
		t.Errorf("printed %q", r.out)
	}
	if got := h.counters(); len(got) != 1 || got[0] != 2 {
		t.Errorf("the host took %v", got)
	}
}

func TestCheckingAnEmergencyKeySendsNothing(t *testing.T) {
	h, m := newGlassHost(t), newMachine(t)
	path := h.file()
	r := m.run("", "emergency", "--key", path, "--check")
	r.want(t, exitOK)
	if !strings.Contains(r.out, "1 of 3 is next") || !strings.Contains(r.out, h.key.ID.String()) {
		t.Errorf("printed %s", r.out)
	}
	if r := m.run("", "emergency", "--key", path, "--check", "--json"); !strings.Contains(r.out, `"next": 1`) {
		t.Errorf("printed %s", r.out)
	}
	if _, err := os.Stat(path + ".counter"); !os.IsNotExist(err) {
		t.Errorf("a counter was kept: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen != 0 {
		t.Errorf("%d datagrams were sent", h.seen)
	}
}

func TestWrongUseOfAnEmergencyKey(t *testing.T) {
	h, m := newGlassHost(t), newMachine(t)
	path := h.file()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, text[:len(text)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{}, {"--key", broken}, {"--key", path, "--counter", "0"}, {"--key", path, "--counter", "4"},
		{"--key", path, "extra"}, {"--key", path, "--address", "nowhere"}, {"--key", path, "--nope"},
	} {
		r := m.run("", append([]string{"emergency"}, args...)...)
		r.want(t, exitUsage, "postern: ", "hint: ")
		if r.out != "" || strings.Contains(r.talk, string(text[30:50])) {
			t.Errorf("%v: printed %q, said %q", args, r.out, r.talk)
		}
	}
	m.run("", "emergency", "--key", "/nonexistent").want(t, exitFailed, "read emergency key: open", "nonexistent")
	if err := os.WriteFile(path+".counter", []byte("many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("", "emergency", "--key", path).want(t, exitFailed, "holds no number: say --counter")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	m.run("", "emergency", "--key", path, "--counter", "1").want(t, exitOK, "others on this machine can read")
}
