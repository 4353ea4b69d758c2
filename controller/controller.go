package controller

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/authority"
	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/controller/policy"
	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/controller/store/bolt"
	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/listen"
	"github.com/postern-sdp/postern/spa/replay"
)

const (
	sessionBucket = "sessions"
	sweepInterval = time.Second
	rollInterval  = 15 * time.Second // of the hint tables; spa wants a third of an epoch
	tokenInterval = 30 * time.Second
)

// Options are what a Controller is made of.
type Options struct {
	Config   Config
	Firewall firewall.Firewall // nil: none is kept
	Log      *slog.Logger
	Version  string
	// Ready, if set, is called once when everything listens.
	Ready func(Addresses)
}

// Addresses are where the controller listens.
type Addresses struct {
	Knock   netip.AddrPort
	Control netip.AddrPort
}

// Controller is the daemon. Make it with [New], then [Controller.Run] it once.
type Controller struct {
	self
	config    Config
	log       *slog.Logger
	version   string
	ready     func(Addresses)
	since     time.Time
	advertise []netip.AddrPort

	store       store.Store
	guard       *replay.Guard // of knocks, journalled
	doorGuard   *replay.Guard // of host knocks, whose secrets die with the process
	authority   authority.Authority
	roots       *x509.CertPool
	certificate *certificate
	directory   *directory
	ledger      *ledger
	sessions    *sessions
	door        *door
	counters    *counters

	beats chan chan<- struct{} // each is closed by the goroutine that keeps house

	// Made by Run.
	listener  listen.Listener
	addresses Addresses
}

// New loads the state that [Init] made. It opens no socket and leaves the
// firewall alone. The Controller must be run, which releases the state.
func New(o Options) (*Controller, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	me, err := loadSelf(o.Config.State)
	if err != nil {
		return nil, err
	}
	if me.name != o.Config.Name {
		return nil, fmt.Errorf("%w: %q, not %q", errOtherName, me.name, o.Config.Name)
	}
	c := &Controller{
		self: me, config: o.Config, log: o.Log, version: o.Version, ready: o.Ready,
		since: time.Now().UTC(), counters: new(counters), doorGuard: replay.NewMemory(),
		beats: make(chan chan<- struct{}),
	}
	for _, a := range o.Config.Control.Advertise {
		c.advertise = append(c.advertise, netip.MustParseAddrPort(a)) // validated
	}
	if err := c.load(); err != nil {
		return nil, errors.Join(err, c.release())
	}
	c.door = newDoor(me.id, o.Firewall, c.doorGuard, c.counters, o.Log)
	return c, nil
}

// load opens the state. What is newer or damaged is refused and not touched, but for the
// journal of knocks: nobody gets in while the controller does not run, and two minutes of
// silence keep what the journal was for.
func (c *Controller) load() error {
	dir, now := c.config.State, time.Now()
	opened, err := bolt.Open(filepath.Join(dir, storeFile))
	if err != nil {
		return err
	}
	c.store = opened
	var damage error
	if c.guard, damage, err = replay.Salvage(filepath.Join(dir, journalFile), now); err != nil {
		return fmt.Errorf("open the journal of knocks: %w", err)
	}
	if damage != nil {
		c.log.Error("the journal of knocks was damaged: knocks are refused for two minutes",
			logkeys.Error, damage)
	}
	embedded, err := authority.Load(dir, c.name)
	if err != nil {
		return err
	}
	c.authority, c.roots = embedded, x509.NewCertPool()
	c.roots.AddCert(embedded.Root())
	c.certificate, err = newCertificate(context.Background(), c.authority, c.id, c.name,
		time.Duration(c.config.Control.Certificate))
	if err != nil {
		return err
	}
	c.directory, err = newDirectory(identity.New(c.store), policy.NewBook(c.store), c.config.Policy, now)
	if err != nil {
		return err
	}
	c.ledger = newLedger(c.writeSessions, c.log)
	c.sessions = newSessions(c.directory, c.ledger, c.log)
	records, err := c.readSessions()
	if err != nil {
		return err
	}
	c.sessions.restore(records, now)
	return nil
}

func (c *Controller) writeSessions(batch map[key.ID][]byte) error {
	return c.store.Update(func(tx store.Tx) error {
		for id, value := range batch {
			err := error(nil)
			if value == nil {
				err = tx.Delete(sessionBucket, id.String())
			} else {
				err = tx.Put(sessionBucket, id.String(), value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Controller) readSessions() (records []record, err error) {
	err = c.store.View(func(tx store.Tx) error {
		return tx.Each(sessionBucket, func(id string, value []byte) error {
			r, err := parseRecord(id, value)
			records = append(records, r)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("load sessions: %w", err)
	}
	return records, nil
}

// release closes the state. It may be called on a half-made Controller.
func (c *Controller) release() error {
	var errs []error
	if c.guard != nil {
		errs = append(errs, c.guard.Close())
	}
	if c.store != nil {
		errs = append(errs, c.store.Close())
	}
	return errors.Join(errs...)
}

// Reload reads the policy file again, as at SIGHUP. A file with a fault changes
// nothing.
func (c *Controller) Reload(ctx context.Context) error {
	_, err := administration{c}.ReloadPolicy(ctx)
	return err
}

// Run serves until ctx ends or a part fails, and returns when all that it started
// has ended. The firewall's rules stay in place: the door stays shut.
func (c *Controller) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.release()) }()
	// ------------- nothing above this line touches the machine -------------
	if err := c.door.install(ctx, c.config.Rules); err != nil {
		return err
	}
	sockets, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer sockets.close()

	// The ledger ends last: what the others recorded is written.
	ledgerCtx, stopLedger := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLedger()
	var ledger errgroup.Group
	ledger.Go(func() error { return c.ledger.run(ledgerCtx) })
	if _, _, err := c.sessions.rejudge(ctx); err != nil { // policy may have changed meanwhile
		stopLedger()
		return errors.Join(err, ledger.Wait())
	}
	err = c.serve(ctx, sockets)
	stopLedger()
	return errors.Join(err, ledger.Wait())
}

// sockets are all that Run listens on.
type sockets struct {
	gate    *tunnel.Gate
	capture listen.Listener // nil: host knocks come by the gate only
	admin   net.Listener
	api     *api.AdminServer
	closers []io.Closer // in the order they were opened
}

func (s *sockets) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		_ = s.closers[i].Close() // idempotent; most are closed already
	}
}

func (c *Controller) open(ctx context.Context) (_ *sockets, err error) {
	s := new(sockets)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if c.listener, err = c.openKnock(ctx); err != nil {
		return nil, fmt.Errorf("listen for knocks: %w", err)
	}
	s.closers = append(s.closers, c.listener)
	s.gate, err = tunnel.Listen(netip.MustParseAddrPort(c.config.Control.Listen), c.door.hostKnock)
	if err != nil {
		return nil, fmt.Errorf("listen on the control port: %w", err)
	}
	s.closers = append(s.closers, s.gate)
	c.addresses = Addresses{Knock: c.listener.Addr(), Control: s.gate.Addr()}
	c.door.open(s.gate, s.gate.Addr().Port())
	if c.config.Control.Capture {
		s.capture, err = listen.Capture(listen.CaptureConfig{Port: s.gate.Addr().Port(), Length: spa.Size})
		if err != nil {
			return nil, fmt.Errorf("capture host knocks: %w", err)
		}
		s.closers = append(s.closers, s.capture)
	}
	s.api = &api.AdminServer{
		Path: c.config.AdminSocket, Administration: administration{c}, Log: c.log,
	}
	if s.admin, err = s.api.Listen(ctx); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.admin)
	return s, nil
}

func (c *Controller) openKnock(ctx context.Context) (listen.Listener, error) {
	address := netip.MustParseAddrPort(c.config.Knock.Listen) // validated
	if c.config.Knock.Source == SourceSocket {
		return listen.Socket(ctx, listen.SocketConfig{Address: address, Length: spa.Size})
	}
	return listen.Capture(listen.CaptureConfig{
		Port: address.Port(), Interfaces: c.config.Knock.Interfaces, Length: spa.Size,
	})
}

// kernelDrops is how many knocks were lost because they came too fast to be read.
func (c *Controller) kernelDrops() uint64 { return c.listener.Stats().Dropped }

// serve runs every part until ctx ends or one fails.
func (c *Controller) serve(ctx context.Context, s *sockets) error {
	receiver, err := spa.NewKnockReceiver(c.name, c.private, c.directory.hints, c.guard)
	if err != nil {
		return fmt.Errorf("make knock receiver: %w", err)
	}
	server := &api.Server{
		Gate: s.gate, Door: c.door, Broker: broker{c}, Certificate: c.certificate.current.Load, Log: c.log,
	}
	pipeline := &knocks{
		listener: c.listener, receiver: receiver, answer: c.answer, counters: c.counters, log: c.log,
		queue: make(chan accepted, knockQueue), inFlight: make(map[key.ID]int),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return pipeline.run(ctx) })
	g.Go(func() error { return server.Serve(ctx) })
	g.Go(func() error { return s.api.Serve(ctx, s.admin) })
	g.Go(func() error { return c.certificate.run(ctx, c.log) })
	g.Go(func() error { return c.keepHouse(ctx) })
	g.Go(func() error { return c.door.watch(ctx) })
	if s.capture != nil {
		g.Go(func() error { return c.capture(ctx, s.capture) })
	}
	c.log.Info("controller is ready", logkeys.Name, c.name, logkeys.Version, c.version,
		logkeys.Knock, c.addresses.Knock, logkeys.Control, c.addresses.Control,
		logkeys.Backend, c.config.Firewall.Backend)
	if c.ready != nil {
		c.ready(c.addresses)
	}
	return g.Wait()
}

// capture reads host knocks ahead of the firewall: from clients whose address is
// not the one the controller saw.
func (c *Controller) capture(ctx context.Context, l listen.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	packets := make([]listen.Packet, knockBatch)
	for {
		n, err := l.ReadBatch(packets)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("capture host knocks: %w", err)
		}
		if err != nil {
			c.log.Error("host knocks could not be captured, trying again", logkeys.Error, err)
			pause(ctx, readRetry)
			continue
		}
		for _, p := range packets[:n] {
			c.door.hostKnock(p.Data, p.Source, p.Destination)
		}
	}
}

// keepHouse does what time asks for.
func (c *Controller) keepHouse(ctx context.Context) error {
	sweep, roll := time.NewTicker(sweepInterval), time.NewTicker(rollInterval)
	refresh, tokens := time.NewTicker(exactRefresh), time.NewTicker(tokenInterval)
	check := time.NewTicker(checkInterval)
	defer sweep.Stop()
	defer roll.Stop()
	defer refresh.Stop()
	defer tokens.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case beat := <-c.beats:
			close(beat)
		case now := <-sweep.C:
			c.sessions.sweep(now)
			c.door.sweep(now)
		case <-check.C:
			c.door.check(ctx)
		case <-roll.C:
			c.roll(time.Now())
		case <-refresh.C:
			c.door.refresh()
		case <-tokens.C:
			if err := c.directory.forgetTokens(time.Now()); err != nil {
				c.log.Error("old join tokens stay", logkeys.Error, err)
			}
		}
	}
}

// Alive asks the goroutine that ends sessions and shuts doors for a sign of life.
// It returns an error when there is none before ctx ends. Whatever holds the locks
// of sessions and doors for ever stops that goroutine within a second.
func (c *Controller) Alive(ctx context.Context) error {
	beat := make(chan struct{})
	select {
	case c.beats <- beat:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-beat // closed at once by who took it
	return nil
}

// Summary returns one line for people.
func (c *Controller) Summary() string {
	sessions, hosts := c.sessions.count()
	return fmt.Sprintf("%d sessions, %d hosts connected", sessions, hosts)
}

// roll readies the hints of the epochs to come and forgets what is over.
func (c *Controller) roll(now time.Time) {
	c.directory.hints.Roll(now)
	c.door.table.Roll(now)
	for _, g := range []*replay.Guard{c.guard, c.doorGuard} {
		if err := g.Forget(now); err != nil {
			c.log.Error("journal of knocks could not be shortened", logkeys.Error, err)
		}
	}
}
