package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-sdp/postern/client"
)

// Remote reaches services over another process's sessions. It is safe for
// concurrent use.
type Remote struct {
	// Notify is told what the person has to know of a session in use, by whoever reads
	// its connection: set it before the first Dial; nil for nobody.
	Notify func(client.Event)

	socket  string
	version string
	start   func(context.Context) error
}

// New returns a Remote for the identity in that folder. start is called when no
// agent runs, and returns when one does, or why not; nil: none is started.
func New(identity, version string, start func(context.Context) error) (*Remote, error) {
	folder, err := Folder(identity)
	if err != nil {
		return nil, err
	}
	return &Remote{socket: filepath.Join(folder, agentSocket), version: version, start: start}, nil
}

// Dial opens a connection to a TCP service. Errors are the agent's own, for
// errors.Is and errors.AsType as those of [client.Dialer]; [ErrNoAgent] when there is
// none and none could be started.
func (r *Remote) Dial(ctx context.Context, service string) (net.Conn, error) {
	return r.dial(ctx, request{Version: r.version, Do: doDial, Service: service})
}

// DialPacket opens a flow to a UDP service: each Read and Write is one datagram.
func (r *Remote) DialPacket(ctx context.Context, service string) (net.Conn, error) {
	c, err := r.dial(ctx, request{Version: r.version, Do: doPacket, Service: service})
	if err != nil {
		return nil, err
	}
	return &packetConn{conn: c, out: local{peer: c.peer}}, nil
}

// startTries bounds how often an agent is tried that is about to listen: for a second
// or so.
const startTries = 45

// dialTries bounds how often an agent is met that is about to end.
const dialTries = 5

func (r *Remote) dial(ctx context.Context, q request) (*conn, error) {
	for try := 1; ; try++ {
		p, err := r.ask(ctx, q)
		if err == nil {
			return &conn{peer: p, notify: r.Notify}, nil
		}
		again := errors.Is(err, errRetired) || errors.Is(err, errVersion) || errors.Is(err, errGone)
		if !again || try == dialTries || ctx.Err() != nil {
			return nil, err
		}
		if errors.Is(err, errVersion) { // an older one, from before an upgrade
			if p, err := r.ask(ctx, request{Do: doRetire}); err == nil {
				p.Close()
			}
		}
		pause(ctx, time.Duration(try)*10*time.Millisecond)
	}
}

// ask sends a request to the agent, and starts one first when there is none.
func (r *Remote) ask(ctx context.Context, q request) (*peer, error) {
	p, err := connect(ctx, r.socket)
	if err != nil && r.start != nil && q.Do != doRetire && ctx.Err() == nil {
		if err := r.start(ctx); err != nil {
			return nil, fmt.Errorf("%w, and starting one failed: %w", ErrNoAgent, err)
		}
		// Another process's may be the one that runs, and be about to listen.
		for try := 1; ; try++ {
			p, err = connect(ctx, r.socket)
			if err == nil || try == startTries || ctx.Err() != nil {
				break
			}
			pause(ctx, time.Duration(try)*time.Millisecond)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	if _, err := exchange(ctx, p, q); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func connect(ctx context.Context, socket string) (*peer, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return newPeer(c.(*net.UnixConn)), nil
}

// exchange sends a request and reads its answer.
func exchange(ctx context.Context, p *peer, q request) (answer, error) {
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	var a answer
	err := send(p.UnixConn, q)
	if err == nil {
		err = receive(p, maxAnswer, &a)
	}
	if ctx.Err() != nil {
		return answer{}, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, errLine) {
		err = fmt.Errorf("%w: %w", errGone, err) // an end or a reset, as systems see it
	}
	if err != nil {
		return answer{}, fmt.Errorf("ask the agent: %w", err)
	}
	return a, a.Error.err()
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Stop tells the agent to end at once, with all it carries, and waits until it has
// told that it will. [ErrNoAgent] when there is none.
func (r *Remote) Stop(ctx context.Context) error {
	quiet := &Remote{socket: r.socket}
	p, err := quiet.ask(ctx, request{Do: doStop})
	if err != nil {
		return err
	}
	return p.Close()
}

// Processes asks all running commands that use the identity in that folder what
// they have open, by kind and number. What does not answer is left out.
func Processes(ctx context.Context, identity string) ([]Process, error) {
	folder, err := Folder(identity)
	if err != nil {
		return nil, err
	}
	all, err := sockets(folder)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	found := []Process{}
	for _, socket := range all {
		p, err := connect(ctx, socket)
		if err != nil {
			continue // of a process that is no more
		}
		a, err := exchange(ctx, p, request{Do: doStatus})
		p.Close()
		if err == nil && a.Process != nil {
			found = append(found, *a.Process)
		}
	}
	slices.SortFunc(found, func(a, b Process) int {
		if c := strings.Compare(a.Kind, b.Kind); c != 0 {
			return c
		}
		return a.PID - b.PID
	})
	return found, nil
}
