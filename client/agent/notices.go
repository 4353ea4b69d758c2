package agent

import (
	"encoding/binary"
	"encoding/json"
	"sync"
	"time"

	"github.com/postern-sdp/postern/client"
)

// noticeFrame is the length that stands in front of a line of JSON, a [notice], in the
// place of a frame's.
const noticeFrame = 1<<32 - 1

// notice is an event of a session on its way to a process that uses it.
type notice struct {
	Kind     client.EventKind `json:"kind"`
	Deadline time.Time        `json:"deadline"`
	Error    *fault           `json:"error,omitempty"`
}

// Notices tells those who use a session what their person has to know of it: that it
// will not be renewed, or after all was. The zero value is ready; Tell is what a [client.DialerConfig]
// notifies.
type Notices struct {
	mu    sync.Mutex // guards what follows
	last  map[string]client.Event
	users map[string]map[chan client.Event]bool
}

// Tell passes on what happened to the session of a service. It never blocks.
func (n *Notices) Tell(service string, e client.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, told := n.last[service]
	switch {
	case e.Kind == client.EventNotRenewed:
		if n.last == nil {
			n.last = make(map[string]client.Event)
		}
		n.last[service] = e
	case e.Kind == client.EventGranted, e.Kind == client.EventRenewed:
		delete(n.last, service)
		if !told {
			return
		}
	default:
		return
	}
	for user := range n.users[service] {
		select {
		case user <- e:
		default: // it has not read the ones before
		}
	}
}

// join returns the events of a service's session, the last one first when that still
// holds, until leave is called.
func (n *Notices) join(service string) (events <-chan client.Event, leave func()) {
	user := make(chan client.Event, 4)
	if n == nil {
		return user, func() { close(user) }
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if e, told := n.last[service]; told && time.Now().Before(e.Deadline) {
		user <- e
	}
	if n.users == nil {
		n.users = make(map[string]map[chan client.Event]bool)
	}
	if n.users[service] == nil {
		n.users[service] = make(map[chan client.Event]bool)
	}
	n.users[service][user] = true
	return user, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if delete(n.users[service], user); len(n.users[service]) == 0 {
			delete(n.users, service)
		}
		close(user)
	}
}

// tell writes the events that come between the service's frames, until there are no
// more.
func (l *local) tell(events <-chan client.Event) {
	for e := range events {
		line, err := json.Marshal(notice{e.Kind, e.Deadline, faultOf(e.Err)})
		if err != nil {
			continue // cannot be: all of it has a text form
		}
		l.mu.Lock()
		if !l.ended && !l.torn {
			l.frame = append(binary.BigEndian.AppendUint32(l.frame[:0], noticeFrame), line...)
			_ = l.sendLocked(append(l.frame, '\n'))
		}
		l.mu.Unlock()
	}
}

// noticed reads an event and tells it.
func (c *conn) noticed() error {
	var n notice
	if err := receive(c, maxLine, &n); err != nil {
		return err
	}
	if c.notify != nil {
		c.notify(client.Event{Kind: n.Kind, Deadline: n.Deadline, Err: n.Error.err()})
	}
	return nil
}
