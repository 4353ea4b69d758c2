package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/internal/tunnel"
)

const (
	flowIdle  = 2 * time.Minute // of silence end a flow
	flowQueue = 64              // datagrams that wait for a flow to open
	flowHold  = 3 * time.Second // until a flow that failed is tried anew
	maxErrors = 100             // of one socket's reads, in a row
)

// association is a client's right to send datagrams: its socket, and a flow for each
// destination.
type association struct {
	*server
	ctx    context.Context
	socket *net.UDPConn
	peer   netip.Addr     // the client's
	from   netip.AddrPort // its socket; of unknown port before its first datagram
	all    sync.WaitGroup

	mu   sync.Mutex // guards open
	open map[address]chan []byte
}

// associate is the command UDP ASSOCIATE. The association ends with the connection
// that it was asked for on.
func (s *server) associate(c *conn, to address) {
	select {
	case s.associations <- struct{}{}:
		defer func() { <-s.associations }()
	default:
		answer(c, replyFailed, netip.AddrPort{})
		return
	}
	local, peer := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	if err != nil {
		answer(c, replyFailed, netip.AddrPort{})
		return
	}
	ctx, cancel := context.WithCancel(s.life)
	a := &association{
		server: s, ctx: ctx, socket: socket, peer: peer.Addr(), open: make(map[address]chan []byte),
		from: netip.AddrPortFrom(peer.Addr(), to.port), // 0 when the client does not know yet
	}
	defer a.all.Wait()
	defer socket.Close()
	defer cancel()
	_ = c.SetDeadline(time.Time{})
	if !answer(c, replyOK, addrPort(socket.LocalAddr())) {
		return
	}
	a.all.Go(a.receive)
	_, _ = io.Copy(io.Discard, c.in) // until the client leaves; the end of life closes it
}

func addrPort(a net.Addr) netip.AddrPort {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		at = a.AddrPort()
	case *net.UDPAddr:
		at = a.AddrPort()
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// receive takes the client's datagrams in. Those of others, fragments and garbage are
// dropped.
func (a *association) receive() {
	buffer := make([]byte, tunnel.MaxPacket+maxHeader+1)
	for errs := 0; errs < maxErrors; {
		n, from, err := a.socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			errs++ // Windows tells here that a peer was gone
			continue
		}
		errs = 0
		to, header, data, err := splitPacket(buffer[:n])
		if err != nil || !a.isClient(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			continue
		}
		a.take(to, string(header), append([]byte(nil), data...))
	}
}

// maxHeader is the longest header of a datagram: reserved, fragment, family, a name
// with its length, port.
const maxHeader = 2 + 1 + 1 + 1 + 255 + 2 // bytes

// isClient reports whether a datagram is from the client: from its address, and from
// one port only, which the first one shows when the request did not.
func (a *association) isClient(from netip.AddrPort) bool {
	if from.Addr() != a.peer {
		return false
	}
	if a.from.Port() == 0 {
		a.from = from
	}
	return from == a.from
}

// take passes a datagram on, to a new flow if its destination has none. What finds no
// room is lost.
func (a *association) take(to address, header string, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// One flow for one destination, however the client spells it: answers have the
	// header of the datagram that began it.
	key := address{strings.ToLower(to.host), to.port}
	queue, known := a.open[key]
	if !known {
		select {
		case a.flows <- struct{}{}:
		default:
			return
		}
		queue = make(chan []byte, flowQueue)
		a.open[key] = queue
		client := a.from
		a.all.Go(func() {
			a.carry(to, []byte(header), client, queue)
			a.mu.Lock()
			delete(a.open, key)
			a.mu.Unlock()
			<-a.flows
		})
	}
	select {
	case queue <- data:
	default:
	}
}

// carry serves one flow until it is silent.
func (a *association) carry(to address, header []byte, client netip.AddrPort, queue <-chan []byte) {
	flow, err := a.dialPacket(a.ctx, to.host, to.port)
	if err != nil {
		select { // a client that goes on sending must not make us knock each time
		case <-time.After(a.limits.flowHold):
		case <-a.ctx.Done():
		}
		return
	}
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { flow.Close() })
	defer stop()
	var back sync.WaitGroup
	defer back.Wait()
	defer flow.Close()
	heard := make(chan struct{}, 1)
	back.Go(func() {
		defer cancel()
		a.answers(flow, header, client, heard)
	})
	idle := time.NewTimer(a.limits.flowIdle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			return
		case <-heard:
		case data := <-queue:
			_, _ = flow.Write(data) // lost, as datagrams may be; the end of the flow shows in Read
		}
		idle.Reset(a.limits.flowIdle)
	}
}

// answers carries a flow's datagrams to the client until it ends.
func (a *association) answers(flow net.Conn, header []byte, client netip.AddrPort, heard chan<- struct{}) {
	buffer := make([]byte, len(header)+tunnel.MaxPacket+1)
	copy(buffer, header)
	for errs := 0; errs < maxErrors; {
		n, err := flow.Read(buffer[len(header):])
		if errors.Is(err, syscall.ECONNREFUSED) {
			errs++ // nobody listened there when we last sent; somebody may soon
			continue
		}
		if err != nil {
			return
		}
		errs = 0
		_, _ = a.socket.WriteToUDPAddrPort(buffer[:len(header)+n], client) // lost, as datagrams may be
		select {
		case heard <- struct{}{}:
		default:
		}
	}
}
