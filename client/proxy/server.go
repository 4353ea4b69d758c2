package proxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/client"
)

const (
	maxConnections  = 512              // of clients, at once
	maxAssociations = 64               // of UDP, at once
	maxFlows        = 256              // of UDP in all associations, at once
	helloLimit      = 10 * time.Second // for a client to say what it wants
	acceptPause     = 100 * time.Millisecond
)

// Dialer reaches services by their names, as [client.Dialer] does. Connections of Dial
// have a method CloseWrite.
type Dialer interface {
	Dial(ctx context.Context, service string) (net.Conn, error)
	DialPacket(ctx context.Context, service string) (net.Conn, error)
}

// Config is how a proxy works.
type Config struct {
	Dialer Dialer
	// Services asks the controller which there are, nil if nobody can: then names need
	// the domain, and ports are not checked.
	Services func(context.Context) ([]client.Service, error)
	Others   Others   // the zero value refuses them
	Password Password // zero: any user of the machine may use the proxy
	// Notify is told of each connection to a service that could not be made, and of each
	// that was refused, with the host that was asked for; nil for nobody. It must not
	// block, and is called concurrently.
	Notify func(host string, err error)

	limits limits // of tests; the zero value has the constants
}

// limits are the times that tests cannot wait for.
type limits struct {
	hello    time.Duration
	flowIdle time.Duration
	flowHold time.Duration
}

func (l *limits) fill() {
	l.hello = cmp.Or(l.hello, helloLimit)
	l.flowIdle = cmp.Or(l.flowIdle, flowIdle)
	l.flowHold = cmp.Or(l.flowHold, flowHold)
}

// duplex is a connection whose directions end one by one.
type duplex interface {
	net.Conn
	CloseWrite() error
}

// server is a proxy that serves.
type server struct {
	Config
	listens netip.AddrPort
	life    context.Context
	group   sync.WaitGroup
	list    *directory

	places       chan struct{}
	associations chan struct{}
	flows        chan struct{}

	web     chan net.Conn // to the HTTP server
	forward *httputil.ReverseProxy
}

// Serve serves the clients that l, a TCP listener, accepts, until ctx ends. It closes
// l, and returns when all is over: nil at the end of ctx, else why. The Dialer stays
// open.
func Serve(ctx context.Context, l net.Listener, config Config) error {
	defer l.Close()
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("serve: %s is no TCP listener", l.Addr())
	}
	if config.Notify == nil {
		config.Notify = func(string, error) {}
	}
	config.limits.fill()
	life, end := context.WithCancel(ctx)
	defer end()
	s := &server{
		Config: config, life: life, web: make(chan net.Conn),
		listens:      netip.AddrPortFrom(at.AddrPort().Addr().Unmap(), at.AddrPort().Port()),
		places:       make(chan struct{}, maxConnections),
		associations: make(chan struct{}, maxAssociations),
		flows:        make(chan struct{}, maxFlows),
	}
	s.list = &directory{fetch: config.Services, life: life, group: &s.group}
	s.forward = s.newForward()
	defer s.group.Wait()
	defer end()
	s.group.Go(func() { s.list.lookup(life, "") }) // so that the first request need not wait
	web := s.newHTTP()
	s.group.Go(func() { _ = web.Serve(handover{s}) }) // ends with life
	stop := context.AfterFunc(life, func() { l.Close() })
	defer stop()
	err := s.accept(l)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *server) accept(l net.Listener) error {
	for {
		tcp, err := l.Accept()
		if passing(err) {
			select {
			case <-time.After(acceptPause):
			case <-s.life.Done():
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		select {
		case s.places <- struct{}{}:
			s.group.Add(1)
			c := s.newConn(tcp)
			go s.serve(c)
		default:
			tcp.Close()
		}
	}
}

// passing reports whether Accept may work again: a client was gone at once, or there
// are too many files open.
func passing(err error) bool {
	return errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// serve finds out what a client speaks.
func (s *server) serve(c *conn) {
	_ = c.SetDeadline(time.Now().Add(s.limits.hello)) // a broken connection shows next
	first, err := c.in.Peek(1)
	switch {
	case err != nil:
	case first[0] == socksVersion:
		s.serveSOCKS(c)
	case first[0] == socks4Version:
		_, _ = c.Write([]byte{0, socks4Refused, 0, 0, 0, 0, 0, 0}) // it is closed either way
	case 'A' <= first[0] && first[0] <= 'Z': // a method's
		_ = c.SetDeadline(time.Time{})
		select {
		case s.web <- c:
			return // the HTTP server's now
		case <-s.life.Done():
		}
	}
	c.finish()
}

// conn is a connection of a client's. It is closed at the end of the proxy's life, and
// finish gives its place to the next.
type conn struct {
	net.Conn // by its plain methods: no other may read past in
	in       *bufio.Reader
	release  func()
	once     sync.Once
	backends *http.Transport // of its plain HTTP requests
	hijacked bool            // no business of the HTTP server's any more
}

func (s *server) newConn(tcp net.Conn) *conn {
	c := &conn{Conn: tcp, in: bufio.NewReader(tcp), backends: s.newTransport()}
	stop := context.AfterFunc(s.life, func() { c.Close() })
	c.release = func() {
		stop()
		c.Close()
		c.backends.CloseIdleConnections()
		<-s.places
		s.group.Done()
	}
	return c
}

// finish is called when nobody serves the connection any more.
func (c *conn) finish() { c.once.Do(c.release) }

// Read implements [net.Conn].
func (c *conn) Read(b []byte) (int, error) { return c.in.Read(b) }

// CloseWrite ends the direction to the client.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errHalf
}

// SetLinger is how the connection is cut off; see [net.TCPConn.SetLinger].
func (c *conn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(seconds)
	}
	return nil
}

// SyscallConn implements [syscall.Conn], by which resets are seen.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if raw, ok := c.Conn.(syscall.Conn); ok {
		return raw.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// whileThere calls do with a context that ends when the client leaves. What the client
// says meanwhile is kept.
func (c *conn) whileThere(ctx context.Context, do func(context.Context)) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	_ = c.SetReadDeadline(time.Time{})
	go func() { // ends below
		defer close(watched)
		if _, err := c.in.Peek(1); err != nil {
			cancel(errLeft)
		}
	}()
	do(ctx)
	_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes it
	<-watched
	_ = c.SetReadDeadline(time.Time{})
}
