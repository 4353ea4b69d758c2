package host

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// testController is the other end of the link: it answers control knocks and
// serves /v1/agent and /v1/renew over HTTP/3, and nothing else. Sockets are made by
// the caller, so that they may be in a namespace.
type testController struct {
	t       testing.TB
	ca      *authority
	id      key.ID
	private key.ControllerPrivate
	cert    tls.Certificate
	table   *spa.Table[key.Knock]
	knocks  net.PacketConn
	api     net.PacketConn
	links   chan *hostLink
	renewed chan struct{}
	life    time.Duration // of renewed certificates
	listen  func(address string) net.PacketConn
	// sync is what a new stream is told first.
	mu   sync.Mutex // guards what follows
	list []control.Session

	server *http3.Server
	quic   *quic.Transport
	ended  sync.WaitGroup
}

const controllerName = "gate.example"

func newController(t testing.TB, listen func(address string) net.PacketConn,
	address string) *testController {
	t.Helper()
	c := &testController{
		t: t, ca: newAuthority(t), id: key.NewID(), private: key.NewControllerPrivate(),
		table: spa.NewTable[key.Knock](time.Now()),
		links: make(chan *hostLink, 8), renewed: make(chan struct{}, 8), life: time.Hour,
		listen: listen,
	}
	c.cert = c.ca.certificate(t, control.RoleController, c.id)
	c.knocks = listen(net.JoinHostPort(address, "0"))
	c.api = listen(net.JoinHostPort(address, "0"))
	c.ended.Go(c.answerKnocks)
	c.serve(c.api)
	t.Cleanup(func() {
		c.knocks.Close()
		c.stop()
		c.ended.Wait()
	})
	return c
}

// controller is what an enrolled host knows of c.
func (c *testController) controller() control.Controller {
	return control.Controller{
		Name: controllerName, Addresses: []string{c.knocks.LocalAddr().String()},
		PublicKey: c.private.Public(),
	}
}

func (c *testController) serve(socket net.PacketConn) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+control.PathAgent, c.agent)
	mux.HandleFunc("POST "+control.PathRenew, c.renew)
	c.quic = &quic.Transport{Conn: socket}
	listener, err := c.quic.ListenEarly(&tls.Config{
		Certificates: []tls.Certificate{c.cert}, NextProtos: []string{control.ALPN},
		ClientAuth: tls.RequireAnyClientCert, // an expired one may renew
	}, &quic.Config{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.server = &http3.Server{Handler: mux}
	c.ended.Go(func() { _ = c.server.ServeListener(listener) })
}

// stop ends all connections, as a controller that dies does.
func (c *testController) stop() {
	c.server.Close()
	c.quic.Close()
	c.api.Close()
}

// back serves again, after stop, on another port.
func (c *testController) back() {
	host, _, err := net.SplitHostPort(c.knocks.LocalAddr().String())
	if err != nil {
		c.t.Fatal(err)
	}
	api := c.listen(net.JoinHostPort(host, "0"))
	c.mu.Lock()
	c.api = api
	c.mu.Unlock()
	c.serve(api)
}

func (c *testController) answerKnocks() {
	receiver, err := spa.NewKnockReceiver(controllerName, c.private, c.table, replay.NewMemory())
	if err != nil {
		c.t.Error(err)
		return
	}
	buffer := make([]byte, 2*spa.Size)
	for {
		n, from, err := c.knocks.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		accepted, reason := receiver.Receive(buffer[:n], time.Now())
		if reason != spa.ReasonOK || accepted.Request.Kind != spa.KindControl {
			continue
		}
		c.mu.Lock()
		api := c.api.LocalAddr().(*net.UDPAddr).AddrPort()
		c.mu.Unlock()
		reply, err := accepted.SealReply(spa.Reply{Time: time.Now(), Grant: &spa.Grant{
			Session: key.NewID(), Deadline: time.Now().Add(time.Minute), Knock: key.NewHostKnock(),
			Host: c.id, Pin: control.PublicKeyPin(c.cert.Leaf), Addresses: []netip.AddrPort{api},
		}})
		if err != nil {
			c.t.Error(err)
			return
		}
		_, _ = c.knocks.WriteTo(reply, from)
	}
}

// hostLink is one agent stream at the controller's end.
type hostLink struct {
	t     testing.TB
	hello control.Hello
	acks  chan control.Ack
	ended chan control.Ended
	// emergencies are not acknowledged by themselves.
	emergencies chan control.EmergencyReport
	gone        chan struct{} // closed when the host's side has ended

	mu     sync.Mutex // guards what follows
	number uint64
	orders chan control.ToHost // to the handler, which alone writes
}

func (c *testController) agent(w http.ResponseWriter, r *http.Request) {
	lines := control.NewLines(r.Body)
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	first, err := lines.FromHost()
	if err != nil || first.Hello == nil {
		c.t.Errorf("first message of the host: %+v, %v", first, err)
		return
	}
	l := &hostLink{
		t: c.t, hello: *first.Hello, gone: make(chan struct{}), orders: make(chan control.ToHost, 64),
		acks: make(chan control.Ack, 64), ended: make(chan control.Ended, 64),
		emergencies: make(chan control.EmergencyReport, 1024),
	}
	c.mu.Lock()
	list := append([]control.Session(nil), c.list...)
	c.mu.Unlock()
	l.send(control.ToHost{Sync: &control.Sync{Now: time.Now(), Sessions: list}})
	var writing sync.WaitGroup
	writing.Go(func() { l.write(w) })
	defer writing.Wait()
	defer close(l.gone)
	c.links <- l
	for {
		m, err := lines.FromHost()
		if err != nil {
			return
		}
		switch {
		case m.Ack != nil:
			l.acks <- *m.Ack
		case m.Ended != nil:
			l.ended <- *m.Ended
		case m.Emergency != nil:
			l.emergencies <- *m.Emergency
		}
	}
}

func (c *testController) renew(w http.ResponseWriter, r *http.Request) {
	var in control.RenewRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	who, err := control.IdentityFromCertificate(r.TLS.PeerCertificates[0])
	if err != nil {
		c.t.Error(err)
		return
	}
	var public *ecdsa.PublicKey
	if public, err = control.VerifyRenew(who.ID, in); err != nil {
		c.t.Error(err)
		return
	}
	der := c.ca.issue(c.t, who.Role, who.ID, public, time.Now().Add(-time.Second), c.life)
	_ = json.NewEncoder(w).Encode(control.RenewResponse{Certificates: [][]byte{der}})
	c.renewed <- struct{}{}
}

// send returns the number of the order.
func (l *hostLink) send(m control.ToHost) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	m.Number = l.number
	l.orders <- m
	return m.Number
}

// write writes the orders until the stream is gone.
func (l *hostLink) write(w http.ResponseWriter) {
	for {
		select {
		case <-l.gone:
			return
		case m := <-l.orders:
			line, err := control.EncodeLine(nil, m)
			if err != nil {
				l.t.Error(err)
				return
			}
			if _, err := w.Write(line); err != nil {
				return // the host is gone
			}
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// order sends m and waits for its acknowledgement.
func (l *hostLink) order(m control.ToHost) {
	l.t.Helper()
	number := l.send(m)
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	for {
		select {
		case a := <-l.acks:
			if a.Number != number {
				continue
			}
			if a.Error != "" {
				l.t.Fatalf("order %d: %s", number, a.Error)
			}
			return
		case <-limit.C:
			l.t.Fatalf("order %d was not acknowledged", number)
		}
	}
}

// next waits for the next host that connects.
func (c *testController) next(ctx context.Context) *hostLink {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case l := <-c.links:
		return l
	case <-ctx.Done():
		c.t.Fatal("no host connected")
		return nil
	}
}
