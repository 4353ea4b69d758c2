package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// plainPort is that of the services which clients reach with no tunnel: TCP and UDP echo.
const plainPort = 7100

// Direct is a host with services that clients speak to directly, through pinholes of
// their own.
type Direct struct {
	*Lab
	others onlookers
}

// NewDirect starts the system on a standing lab and begins to probe the host. Close
// ends the probing.
func NewDirect(ctx context.Context, l *Lab) (*Direct, error) {
	d := &Direct{Lab: l}
	if err := l.StartSystem(ctx); err != nil {
		return nil, err
	}
	all := fmt.Sprintf("[::]:%d", plainPort)
	if err := errors.Join(l.Serve("host", all, echo), l.ServePackets("host", all)); err != nil {
		return nil, err
	}
	var err error
	if d.others, err = l.onlook([]uint16{22, plainPort, tunnelPort}, HostV4, HostV6); err == nil {
		d.others.dark("begun")
	}
	return d, err
}

// Log is what the probing saw, phase by phase.
func (d *Direct) Log() string { return d.others.Log() }

// Close ends the probing.
func (d *Direct) Close() error { return d.others.Close() }

// Steps open one service after the other to the client, and take it back.
func (d *Direct) Steps() []Step {
	step := func(transport, binding string, use func(context.Context, *Forward) error) Step {
		name := fmt.Sprintf("%s, bound to the exact address and port: not even the neighbour is answered", transport)
		if binding == "address" {
			name = fmt.Sprintf("%s, bound to the address: who shares it is let in, nobody else", transport)
		}
		return Step{name, func(ctx context.Context, _ *Lab) (string, error) {
			return d.offered(ctx, transport, binding, use)
		}}
	}
	return []Step{
		step("tcp", "exact", d.useTCP),
		step("tcp", "address", d.useTCP),
		step("udp", "address", d.useUDP),
		step("udp", "exact", d.useUDP),
	}
}

// offered adds a service, has the client use it, and takes its session back.
func (d *Direct) offered(ctx context.Context, transport, binding string,
	use func(context.Context, *Forward) error) (string, error) {
	name := transport + "-" + binding
	add := []string{"service", "add", "--host", "host1", "--mode", "direct", "--bind", binding,
		"--target", fmt.Sprintf(":%d", plainPort), fmt.Sprintf("--udp=%t", transport == "udp"), name}
	for _, args := range [][]string{add, {"grant", "add", "--for", "1h", "alice", name}} {
		if _, err := d.Admin(ctx, args...); err != nil {
			return "", err
		}
	}
	if binding == "exact" {
		d.others.dark("open to the client alone")
	} else {
		d.others.shared("open to the client's address", fmt.Sprintf("%s/%d", transport, plainPort))
	}
	forward, err := d.Connect(ctx, "client", name)
	if err != nil {
		return "", err
	}
	used := use(ctx, forward)
	err = errors.Join(used, forward.Kill())
	d.others.dark("taken back")
	seen, fault := d.others.sees(200 * time.Millisecond)
	return seen, errors.Join(err, fault)
}

// useTCP carries bytes both ways, and has the session revoked under the connection.
func (d *Direct) useTCP(ctx context.Context, f *Forward) error {
	conn, err := f.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchange(conn, 4<<20); err != nil {
		return err
	}
	if _, err := d.others.sees(300 * time.Millisecond); err != nil {
		return err
	}
	if err := d.endSessions(ctx); err != nil {
		return err
	}
	if err := answers(conn, time.Second); err == nil {
		return broken("the connection lives on after the revocation")
	}
	return nil
}

func (d *Direct) useUDP(ctx context.Context, f *Forward) error {
	conn, err := f.DialPacket()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, n := range []int{1, 512, 1400} {
		err := Wait(ctx, 10*time.Second, fmt.Sprintf("the echo of %d bytes", n), func() (bool, error) {
			return Echoes(conn, make([]byte, n)), nil
		})
		if err != nil {
			return err
		}
	}
	if _, err := d.others.sees(300 * time.Millisecond); err != nil {
		return err
	}
	if err := d.endSessions(ctx); err != nil {
		return err
	}
	if Echoes(conn, []byte("too late")) {
		return broken("an echo came after the revocation")
	}
	return nil
}
