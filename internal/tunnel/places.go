package tunnel

import (
	"sync"

	"github.com/postern-sdp/postern/spa/key"
)

// places are the connections to services, UDP flows among them, that a server has at
// once. Each is an open file of the agent's, and no device may use them up for all.
type places struct {
	device, all int // limits; all is 0 for none

	mu    sync.Mutex // guards what follows
	taken int
	of    map[key.ID]int // by device
}

func newPlaces(device, all int) *places {
	return &places{device: device, all: all, of: make(map[key.ID]int)}
}

// take takes a place, or returns what the client is told.
func (p *places) take(device key.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.of[device] >= p.device:
		return &RefusedError{Status: StatusBusy, Text: "too many connections of this device at once"}
	case p.all > 0 && p.taken >= p.all:
		return &RefusedError{Status: StatusBusy, Text: "the host has too many connections at once"}
	}
	p.taken++
	p.of[device]++
	return nil
}

func (p *places) leave(device key.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.of[device]--; p.of[device] == 0 {
		delete(p.of, device)
	}
}
