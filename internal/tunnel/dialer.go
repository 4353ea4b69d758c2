package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// dialer tries the host's addresses until one has answered and shaken hands.
//
// A host lets in one source for a session, the last one that knocked. So
// addresses take turns, and only the one whose turn it is is knocked at. Turns get
// longer, for slow paths, and an address that answers keeps its turn. QUIC goes on
// trying at all that had a turn.
type dialer struct {
	DialConfig
	gate      *Gate
	transport *quic.Transport

	ctx     context.Context // of all attempts
	running sync.WaitGroup
	results chan attempt
	started map[netip.AddrPort]bool
	errs    map[netip.AddrPort]error // of the attempts that failed
}

// attempt is what came of one address.
type attempt struct {
	address netip.AddrPort
	conn    *quic.Conn
	err     error
}

const (
	firstTurn = 300 * time.Millisecond
	longest   = 5 * time.Second
	lastHeard = time.Second // an address that was heard within this keeps its turn
)

// knockTimes are when, within a turn, an address that has not answered is knocked
// at again; later on every second.
func knockTimes() []time.Duration {
	return []time.Duration{
		20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond,
		350 * time.Millisecond, 700 * time.Millisecond,
	}
}

func (d *dialer) run(ctx context.Context) (*quic.Conn, error) {
	timeout := orDefault(d.Timeout, DefaultDialTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrNoAnswer)
	d.ctx = ctx
	d.results = make(chan attempt, len(d.Addresses))
	d.started = make(map[netip.AddrPort]bool)
	d.errs = make(map[netip.AddrPort]error)
	conn, err := d.takeTurns()
	cancel()
	d.running.Wait()
	for len(d.results) > 0 { // a second one that was just done
		if late := <-d.results; late.err == nil {
			closeConn(late.conn, ReasonClosed, "")
		}
	}
	return conn, err
}

func (d *dialer) takeTurns() (*quic.Conn, error) {
	turn := firstTurn
	for {
		tried := 0
		for _, address := range d.Addresses {
			address = plain(address)
			if d.errs[address] != nil {
				continue
			}
			tried++
			if conn, err := d.turn(address, turn); conn != nil || err != nil {
				return conn, err
			}
		}
		if tried == 0 {
			return nil, d.failure()
		}
		turn = min(2*turn, longest)
	}
}

// turn knocks at one address for a while. It returns a connection, of whichever
// address, or the cause of the end of all trying, or neither.
func (d *dialer) turn(address netip.AddrPort, length time.Duration) (*quic.Conn, error) {
	to := net.UDPAddrFromAddrPort(address)
	begin := time.Now()
	times := knockTimes()
	d.gate.watch.call(d.gate, to)
	d.start(address, to)
	timer := time.NewTimer(times[0])
	defer timer.Stop()
	for i := 1; ; i++ {
		select {
		case <-d.ctx.Done():
			return nil, d.stopped()
		case a := <-d.results:
			if a.err == nil {
				return a.conn, nil
			}
			d.errs[a.address] = a.err
			if a.address == address {
				return nil, nil
			}
		case <-timer.C:
		}
		heard := d.heard(address)
		if heard == 0 {
			d.gate.watch.call(d.gate, to)
		}
		recently := heard != 0 && d.gate.now()-heard < int64(lastHeard)
		if passed := time.Since(begin); passed >= length && !recently && d.others(address) {
			return nil, nil
		}
		next := time.Second
		if i < len(times) {
			next = times[i] - times[i-1]
		}
		timer.Reset(next)
	}
}

// start begins the one attempt at an address.
func (d *dialer) start(address netip.AddrPort, to *net.UDPAddr) {
	if d.started[address] {
		return
	}
	d.started[address] = true
	d.running.Go(func() {
		q := quicConfig(orDefault(d.Timeout, DefaultDialTimeout), 0, d.KeepAlive)
		conn, err := d.transport.Dial(d.ctx, to, d.tls(), q)
		d.results <- attempt{address, conn, translateDial(err)}
	})
}

func (d *dialer) tls() *tls.Config {
	t := tlsConfig(d.Now)
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &d.Certificate, nil
	}
	// No ServerName: it would tell every listener on the way which host this is.
	// Not skipped: verifyHost does all of it, in every handshake.
	t.InsecureSkipVerify = true
	t.VerifyConnection = verifyHost(d.Roots, d.Host, d.Pin, d.Now)
	return t
}

// heard returns when address last sent something, on the Gate's clock.
func (d *dialer) heard(address netip.AddrPort) int64 {
	if p := d.gate.admitted(address); p != nil {
		return p.heard.Load()
	}
	return 0
}

// others reports whether any other address is worth a turn.
func (d *dialer) others(than netip.AddrPort) bool {
	for _, a := range d.Addresses {
		if a = plain(a); a != than && d.errs[a] == nil {
			return true
		}
	}
	return false
}

// stopped returns why all trying ended. What an address had to say tells more
// than that there was no time left.
func (d *dialer) stopped() error {
	err := context.Cause(d.ctx)
	if errors.Is(err, ErrNoAnswer) && len(d.errs) > 0 {
		return d.failure()
	}
	if errors.Is(err, ErrNoAnswer) {
		return fmt.Errorf("%w at %v", err, d.Addresses)
	}
	return err
}

func (d *dialer) failure() error {
	var all []error
	for _, a := range d.Addresses {
		if err := d.errs[plain(a)]; err != nil {
			all = append(all, fmt.Errorf("%v: %w", a, err))
		}
	}
	return errors.Join(all...)
}
