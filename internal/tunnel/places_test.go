package tunnel

import (
	"errors"
	"testing"

	"github.com/postern-sdp/postern/spa/key"
)

// another is one more session of the same device.
func (h *house) another(s session) session {
	more := h.grant()
	h.mu.Lock()
	defer h.mu.Unlock()
	more.device = s.device
	h.sessions[more.id] = more
	return more
}

// TestOneDeviceCannotUseUpTheHost with however many sessions.
func TestOneDeviceCannotUseUpTheHost(t *testing.T) {
	h := openHouse(t, loopback4)
	h.tune = func(c *ServerConfig) { c.MaxPerDevice, c.MaxServices = 3, 5 }
	h.serve()
	greedy := h.grant()
	first, second := h.dial(greedy), h.dial(h.another(greedy))
	held := []*Stream{open(t, first), open(t, second), open(t, second)}
	for _, conn := range []*Conn{first, second} {
		if _, err := conn.OpenStream(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("the fourth: %v", err)
		}
	}
	other := h.dial(h.grant())
	echo(t, open(t, other), "others are served")
	open(t, other)
	if _, err := other.OpenStream(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("above the bound of all: %v", err)
	}
	held[0].Close()
	eventually(t, "there is place again", func() bool {
		s, err := other.OpenStream(t.Context())
		if err == nil {
			s.Close()
		}
		return err == nil
	})
}

func TestPlacesThatAreLeftAreForgotten(t *testing.T) {
	p := newPlaces(2, 0)
	device := key.NewID()
	for range 3 {
		for range 2 {
			if err := p.take(device); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.take(device); err == nil {
			t.Fatal("a third place of two")
		}
		p.leave(device)
		p.leave(device)
	}
	if len(p.of) != 0 || p.taken != 0 {
		t.Errorf("left behind: %v, %d", p.of, p.taken)
	}
}
