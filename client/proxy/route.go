package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/client"
)

// Domain is the one that services' names are in.
const Domain = "postern.internal"

const (
	maxService  = 63               // bytes of a service's name
	maxHost     = 255              // bytes of a host's name in a request
	dialLimit   = 30 * time.Second // for a connection, whatever it goes to
	directLimit = 10 * time.Second // for one that leaves this machine by itself
)

// Others says what becomes of hosts that are no services.
type Others int

// The two ways.
const (
	Refuse Others = iota // they are refused
	Direct               // they are dialled from this machine
)

// destination is where a connection goes.
type destination struct {
	service string // empty for a host that is none
	host    string
	port    uint16
}

// route decides where a request goes. What it returns with an error is only good to
// be told.
func (s *server) route(ctx context.Context, host string, port uint16) (destination, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	d := destination{host: host, port: port}
	if host == "" || len(host) > maxHost || strings.ContainsFunc(host, odd) {
		d.host = strconv.QuoteToASCII(host[:min(len(host), maxHost)]) // it may go to a terminal
		return d, ErrName
	}
	name, ours := strings.CutSuffix(host, "."+Domain)
	switch {
	case ours && !isService(name):
		return d, ErrName
	case !ours && (host == Domain || !isService(host) || strings.Contains(host, ".") || host == "localhost"):
		return s.other(d)
	}
	listens, listed, err := s.list.lookup(ctx, name)
	switch {
	case !ours && err != nil:
		// It may be a service: with its list out of reach nobody can tell, and what is
		// meant for a service must not go elsewhere.
		return d, err
	case !ours && !listed:
		return s.other(d)
	case !listed && err == nil && s.Services != nil:
		// A page can make a browser ask for names without end: none of them is a knock.
		return d, fmt.Errorf("%w: %s", ErrUnlisted, name)
	case listed && listens != 0 && listens != port:
		return d, fmt.Errorf("%w: %s listens on port %d, not %d", ErrPort, name, listens, port)
	}
	d.service = name // the controller has the last word
	return d, nil
}

func (s *server) other(d destination) (destination, error) {
	if s.Others != Direct {
		return d, ErrOther
	}
	return d, nil
}

// odd is what no name or address has, however wrong it is otherwise.
func odd(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/\@"<>`, r) }

// isService reports whether a controller would take s as a service's name.
func isService(s string) bool {
	for i, r := range s {
		alphanumeric := 'a' <= r && r <= 'z' || '0' <= r && r <= '9'
		if !alphanumeric && (i == 0 || r != '-' && r != '.') {
			return false
		}
	}
	return s != "" && len(s) <= maxService
}

// dial connects to where a request wants to go, and tells Notify why not.
func (s *server) dial(ctx context.Context, host string, port uint16) (duplex, error) {
	conn, err := s.open(ctx, host, port, "tcp", s.Dialer.Dial)
	if err != nil {
		return nil, err
	}
	both, ok := conn.(duplex)
	if !ok {
		conn.Close()
		return nil, errHalf
	}
	return both, nil
}

// dialPacket is dial for datagrams.
func (s *server) dialPacket(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return s.open(ctx, host, port, "udp", s.Dialer.DialPacket)
}

func (s *server) open(ctx context.Context, host string, port uint16, network string,
	dial func(context.Context, string) (net.Conn, error)) (net.Conn, error) {
	asker := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, client.ErrNoAnswer)
	defer cancel()
	to, err := s.route(ctx, host, port)
	if err == nil && to.service == "" {
		return s.direct(ctx, network, to)
	}
	var conn net.Conn
	if err == nil {
		conn, err = dial(ctx, to.service)
	}
	if err != nil && asker.Err() == nil { // else nobody waits for it any more
		s.Notify(to.host, err)
	}
	return conn, err
}

// direct dials a host that is no service. It never comes back to this proxy, and who
// reached us from another machine gets nothing that listens for this one only.
func (s *server) direct(ctx context.Context, network string, to destination) (net.Conn, error) {
	d := net.Dialer{
		Timeout: directLimit,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("read address: %w", err)
			}
			return s.checkDirect(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
		},
	}
	return d.DialContext(ctx, network, net.JoinHostPort(to.host, strconv.Itoa(int(to.port))))
}

func (s *server) checkDirect(to netip.AddrPort) error {
	here := to.Addr().IsLoopback() || to.Addr().IsUnspecified()
	switch {
	case here && !s.listens.Addr().IsLoopback():
		return ErrOwn
	case to.Port() == s.listens.Port() && (here || to.Addr() == s.listens.Addr()):
		return ErrOwn
	}
	return nil
}
