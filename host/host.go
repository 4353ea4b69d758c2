package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/listen"
)

// Files in the state folder, beside the identity's.
const (
	stateName   = "sessions.json"
	journalName = "host-knocks.journal"
)

// Config is what an agent needs.
type Config struct {
	Settings
	Firewall firewall.Firewall // nil when Settings say that there is none
	Backend  string            // that Firewall is of, when Settings leave it open; for status
	// Protection has the decision whether the rules are in force. Nil: they are.
	Protection *protect.Store
	// Reread reads the configuration as it is now, for the rules that a new decision
	// about the protection puts in force. Nil: they stay as they were.
	Reread  func() (Settings, error)
	Log     *slog.Logger
	Version string // told to the controller and by status
	File    string // that the settings are from; for status
	// Ready, if set, is called once when the table stands and the sockets are open.
	// It must not block.
	Ready func(*Running)
}

// agent is a running agent's parts.
type agent struct {
	Config
	identity *control.Enrolled
	started  time.Time
	boot     string
	clock    *wallClock
	gate     *tunnel.Gate
	captured listen.Listener // nil when capture is off
	asked    net.Listener    // the status socket
	sessions *sessions
	knocks   *knocks
	state    *writer
	link     *link
	glass    *emergency
	// metricsFault is why the metrics are not served; nil or empty: nothing is known.
	metricsFault atomic.Pointer[string]
}

// Run is the agent. It blocks until ctx ends, which is no error, or until
// something fails that it cannot go on without. All its goroutines are gone when
// it returns. After an orderly end the live sessions' pinholes stay until their
// deadlines, which the kernel keeps, for the next Run to adopt; after an error
// none is left. The firewall's table stays in both cases.
func Run(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	a := &agent{Config: c, started: time.Now()}
	if a.Firewall == nil {
		a.Firewall, a.Protection = noFirewall{}, nil
	}
	if a.Protection != nil { // a command may hold its lock for half a minute
		hasty := *a.Protection
		hasty.NoWait = true
		a.Protection = &hasty
	}
	defer a.close()
	if err := a.open(); err != nil {
		return err
	}
	//
	// ─── From here on the machine is touched: the firewall first. ──────────────────
	//
	err := a.install(ctx)
	if err == nil {
		err = a.serve(ctx)
	}
	if err != nil {
		return errors.Join(err, a.failClosed())
	}
	return nil
}

// open reads the state and opens the sockets. None of them answers anybody yet.
func (a *agent) open() error {
	var err error
	if a.identity, err = control.LoadIdentity(a.State); err != nil {
		return err
	}
	if a.identity.Role != control.RoleHost {
		return fmt.Errorf("%w: %s holds that of a %s", control.ErrRole, a.State, a.identity.Role)
	}
	if a.boot, err = bootclock.ID(); err != nil {
		return err
	}
	if a.asked, err = listenStatus(a.StatusSocket); err != nil {
		return err
	}
	a.clock = &wallClock{boot: bootClock, offset: a.identity.Offset}
	if err := a.openKnocks(); err != nil {
		return err
	}
	if err := a.openSockets(); err != nil {
		return err
	}
	return a.assemble()
}

func (a *agent) openKnocks() error {
	table := spa.NewTable[key.HostKnock](a.clock.now())
	guard := &lateGuard{path: filepath.Join(a.State, journalName)}
	a.knocks = &knocks{
		clock: a.clock, table: table, guard: guard, log: a.Log,
		receiver: spa.NewHostKnockReceiver(a.identity.ID, table, guard),
		bind:     func(key.ID, netip.AddrPort) bool { return false }, // until there are sessions
	}
	return nil
}

func (a *agent) openSockets() error {
	var err error
	address := a.Tunnel.listen()
	a.gate, err = tunnel.Listen(address, func(datagram []byte, source, _ netip.AddrPort) bool {
		return a.knocks.take(datagram, source)
	})
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%w: %w", ErrBind, err)
	}
	if err != nil || !a.Tunnel.Capture {
		return err
	}
	a.captured, err = listen.Capture(listen.CaptureConfig{
		Port: a.gate.Addr().Port(), Interfaces: a.Tunnel.Interfaces, Length: spa.Size,
	})
	return err
}

func (a *agent) assemble() error {
	rules, err := a.Rules()
	if err != nil {
		return err
	}
	a.sessions = newSessions(&sessions{
		reach: newReach(a.Gateway.prefixes()), fw: a.Firewall, protection: a.Protection, rules: rules, ruled: bootClock(),
		gate: a.gate, hints: a.knocks.table, now: bootClock,
		port: a.gate.Addr().Port(), log: a.Log,
		onEnd:    func(e control.Ended) { a.link.tell(control.FromHost{Ended: &e}) },
		onChange: func() { a.state.changed() },
	})
	if a.Reread != nil {
		a.sessions.reread = a.rereadRules
	}
	a.knocks.bind = a.sessions.bind
	a.sessions.time = a.ruleTime
	a.state = &writer{
		path: filepath.Join(a.State, stateName), boot: a.boot, log: a.Log,
		dirty: make(chan struct{}, 1),
		content: func() (time.Time, []record) {
			return a.clock.atBoot(), a.sessions.records()
		},
	}
	a.link = &link{
		identity: a.identity, sessions: a.sessions, knocks: a.knocks, state: a.state,
		version: a.Version, port: a.gate.Addr().Port(), advertise: a.Tunnel.advertise(), log: a.Log,
		started: a.started,
		onUp:    func() { a.glass.controllerUp() },
		onTold:  func(ctx context.Context, sequence uint64) { a.glass.told(ctx, sequence) },
	}
	a.glass = newEmergency(&emergency{
		store: emergencyStore{a.State}, boot: a.boot, now: bootClock, log: a.Log,
		receiver: spa.NewEmergencyReceiver(a.identity.ID), sessions: a.sessions,
		grace: time.Duration(a.Emergency.OnlyWhenAlone), alone: a.link.alone, tell: a.link.tell,
	})
	a.knocks.other = a.glass.take
	return nil
}

// rereadRules returns the rules of the configuration as it is now.
func (a *agent) rereadRules() (ruling, error) {
	s, err := a.Reread()
	return s.RulesAt, err
}

// install makes the host dark, and adopts what an agent before this one left.
func (a *agent) install(ctx context.Context) error {
	left := a.takeState()
	if _, none := a.Firewall.(noFirewall); none {
		a.Log.Warn("no firewall: layer 1 is missing, as the settings say")
	}
	if !left.AtBoot.IsZero() {
		a.clock.restore(left.AtBoot)
	}
	if err := a.sessions.judge(a.RulesAt); err != nil {
		return err
	}
	kernel, err := a.installRules(ctx)
	if err != nil {
		return err
	}
	if err := a.glass.adopt(ctx, kernel); err != nil {
		a.Log.Error("emergency keys not taken over", logkeys.Error, err)
	}
	if left.AtBoot.IsZero() {
		return nil // this boot has seen no Sync, so there are no sessions either
	}
	a.knocks.setClock(a.clock.now())
	a.sessions.adopt(left.Sessions, kernel)
	return nil
}

// installRules waits for a command that is changing the rules: so far nobody waits
// for the agent.
func (a *agent) installRules(ctx context.Context) ([]firewall.Pinhole, error) {
	tick := time.NewTicker(decisionsEvery)
	defer tick.Stop()
	for {
		kernel, err := a.sessions.install(ctx)
		if !errors.Is(err, protect.ErrBusy) {
			return kernel, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// takeState returns what an agent before this one left. What cannot be used is set
// aside: it is a cache, and without it the controller's Sync brings the sessions.
func (a *agent) takeState() stateFile {
	left, err := loadState(a.state.path, a.boot)
	if err == nil {
		return left
	}
	aside := a.state.path + ".damaged"
	if lost := cmp.Or(os.Rename(a.state.path, aside), os.Chmod(aside, 0o600)); lost != nil {
		err = errors.Join(err, lost) // the next write replaces it
	}
	a.Log.Error("the sessions of before are not taken over, the controller orders them anew",
		logkeys.Error, err, logkeys.File, aside)
	return stateFile{}
}

// serve runs everything until ctx ends or something fails.
func (a *agent) serve(ctx context.Context) error {
	a.Log.Info("host agent started", logkeys.Host, a.identity.ID, logkeys.Name, a.identity.Name,
		logkeys.Version, a.Version, logkeys.Address, a.gate.Addr())
	server, err := newServer(a)
	if err != nil {
		return err
	}
	a.sessions.tunnels = server
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer a.closeSockets() // after the tunnels' last words
		return server.Serve(ctx)
	})
	g.Go(func() error { return a.sessions.run(ctx) })
	g.Go(func() error { return a.sessions.watch(ctx) })
	g.Go(func() error { return a.state.run(ctx) })
	g.Go(func() error { return a.knocks.roll(ctx) })
	g.Go(func() error { return a.link.run(ctx) })
	g.Go(func() error { return a.glass.run(ctx) })
	g.Go(func() error { return serveStatus(ctx, a.asked, a.status, a.Log) })
	if a.captured != nil {
		g.Go(func() error { return a.knocks.capture(ctx, a.captured) })
	}
	if a.Ready != nil {
		a.Ready(&Running{agent: a, settings: a.Settings})
	}
	err = g.Wait()
	a.Log.Info("host agent stopped", logkeys.Error, err)
	return errors.Join(err, a.state.flush())
}

// failClosed takes every pinhole away.
func (a *agent) failClosed() error {
	ctx, cancel := context.WithTimeout(context.Background(), firewallLimit)
	defer cancel()
	open, err := a.Firewall.List(ctx)
	if err == nil && len(open) > 0 {
		err = a.sessions.transact(ctx, firewall.Change{Revoke: open})
	}
	if err != nil && !errors.Is(err, firewall.ErrNotInstalled) {
		return fmt.Errorf("close all pinholes: %w", err)
	}
	return nil
}

// closeSockets may be called many times.
func (a *agent) closeSockets() {
	if a.gate != nil {
		a.gate.Close()
	}
	if a.captured != nil {
		a.captured.Close()
	}
	if a.asked != nil {
		a.asked.Close()
	}
}

func (a *agent) close() {
	a.closeSockets()
	if a.knocks == nil {
		return
	}
	if err := a.knocks.guard.close(); err != nil {
		a.Log.Error("replay journal not closed", logkeys.Error, err)
	}
}

// status gathers what `postern-host status` shows.
func (a *agent) status() (Status, error) {
	live, pinholes, err := a.sessions.status()
	if err != nil {
		return Status{}, err
	}
	state := protect.On
	if err := a.sessions.do(func(context.Context) { state = a.sessions.state }); err != nil {
		return Status{}, err
	}
	s := Status{
		Protection: string(state),
		Version:    a.Version, Name: a.identity.Name, Host: a.identity.ID, Started: a.started,
		Config: a.File, Settings: a.Settings.Fixed(),
		Link: a.link.current(), Firewall: cmp.Or(a.Backend, a.Settings.Firewall.Backend),
		CertificateExpires: a.identity.Leaf().NotAfter, Sessions: live, Pinholes: pinholes,
		HostKnocks: a.knocks.counters(), Capture: a.captured != nil,
		Silenced: a.gate.Counters().Strangers, Bytes: a.sessions.carriedAll(),
		Dropped: a.dropped(), Emergency: a.glass.status(),
	}
	if fault := a.metricsFault.Load(); fault != nil {
		s.MetricsError = *fault
	}
	if a.captured != nil {
		s.CaptureDropped = a.captured.Stats().Dropped
	}
	return s, nil
}

// dropped returns the table's counts, nil when they cannot be had.
func (a *agent) dropped() *DroppedStatus {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	d, err := a.Firewall.Dropped(ctx)
	if _, none := a.Firewall.(noFirewall); none || err != nil {
		return nil
	}
	return &DroppedStatus{Input: d.Input, Door: d.Door, Forward: d.Forward, Output: d.Output}
}
