package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/control"
)

// Config says what to examine.
type Config struct {
	Settings host.Settings
	// Fault is why the settings could not be read; Settings are then the defaults.
	Fault error
	// Port is what to ask other filters about; zero: the tunnel's port.
	Port firewall.Port
	// Protection returns what was decided about this host: "on", "trial", "off". Nil: it
	// is on when the table is there.
	Protection func() (string, error)
}

// examination is what the checks look at, gathered once.
type examination struct {
	Config
	now time.Time

	rights error // of this process, for these settings

	status    host.Status
	statusErr error

	identity    *control.Enrolled
	identityErr error

	machine    *survey.Machine
	machineErr error
	choice     choose.Choice

	saved    []string // files that bring rules of ours back at boot
	savedErr error

	installed bool
	pinholes  int
	tableErr  error

	protection    string
	protectionErr error

	offset  time.Duration // of the controller's clock, when heard
	reached bool
	dialErr error
}

// Examine makes all checks, one after the other on the calling goroutine.
func Examine(ctx context.Context, c Config) Report {
	e := &examination{Config: c, now: time.Now()}
	e.gather(ctx)
	var r Report
	checks := []func(*examination) Finding{
		configuration, rights, kernel, identity, certificate, addresses, controller, clock, agent,
		protection, table, savedRules, otherFilters, forwarding, ipv6, keepRules, capture, tunnelPort, metrics, services,
	}
	for _, check := range checks {
		r.add(check(e))
	}
	doors, err := e.doors()
	if err != nil {
		r.add(Finding{"doors", Skip, err.Error(), "run it as root"})
	}
	r.Doors = sorted(doors)
	f := stranger(e, r.Doors, err)
	r.Stranger = f.Found
	r.add(f)
	return r
}

func (e *examination) gather(ctx context.Context) {
	e.rights = e.Settings.CheckRights()
	e.status, e.statusErr = host.ReadStatus(ctx, e.Settings.StatusSocket)
	e.identity, e.identityErr = control.LoadIdentity(e.Settings.State)
	e.machine, e.machineErr = choose.Look(ctx, e.Settings.Firewall.Table)
	if e.machineErr == nil {
		e.choice, e.machineErr = choose.Decide(e.machine, e.Settings.Firewall.Backend)
	}
	e.readSaved()
	e.readTable(ctx)
	e.readProtection()
	e.reach(ctx)
}

// readTable asks the backend for its pinholes.
func (e *examination) readTable(ctx context.Context) {
	if e.machineErr != nil || len(e.machine.Ours) == 0 || e.choice.Backend == choose.None {
		return
	}
	fw, _, err := choose.Open(ctx, choose.Config{
		Backend: e.Settings.Firewall.Backend, Name: e.Settings.Firewall.Table,
	})
	if err != nil {
		e.tableErr = err
		return
	}
	open, err := fw.List(ctx)
	e.tableErr = errors.Join(err, fw.Close())
	e.installed, e.pinholes = err == nil && !e.machine.OursDormant, len(open)
	if errors.Is(err, firewall.ErrNotInstalled) {
		e.tableErr = fmt.Errorf("parts of it are missing: %w", err)
	}
}

func (e *examination) readProtection() {
	switch {
	case e.Protection != nil:
		e.protection, e.protectionErr = e.Protection()
	case e.installed:
		e.protection = "on"
	default:
		e.protection = "off"
	}
}

// port is the one that other filters shall let through.
func (e *examination) port() firewall.Port {
	if e.Port.Number != 0 {
		return e.Port
	}
	return firewall.Port{Protocol: firewall.UDP, Number: e.listen().Port()}
}
