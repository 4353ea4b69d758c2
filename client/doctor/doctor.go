package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
)

// Config is what to examine.
type Config struct {
	Folder  string        // of the identity
	Timeout time.Duration // of a knock; 0: the default
	Service string        // to try an access to; empty: as far as the controller
	Probes  *Probes       // whom to ask about the network when nobody answers; nil: nobody
	// Tell is called with each finding when it is there; nil: nobody is told.
	Tell func(Finding)
}

const (
	resolveLimit = 3 * time.Second
	accessLimit  = 20 * time.Second
	// clockDoubt is how far a clock may be off without a word.
	clockDoubt = 5 * time.Second
)

// examination is one run.
type examination struct {
	Config
	report    Report
	device    *client.Client
	addresses []netip.AddrPort // of the controller
	heard     bool             // the controller has answered
}

// Examine tries each step in turn. Those behind one that fails are skipped.
func Examine(ctx context.Context, c Config) Report {
	e := &examination{Config: c}
	e.step(ctx, "identity", e.identity)
	e.step(ctx, "controller's names", e.names)
	e.step(ctx, "route", e.route)
	e.step(ctx, "controller", e.controller)
	e.clock()
	if c.Service != "" {
		e.access(ctx)
	}
	if e.report.Err != nil && silent(e.report.Err) {
		e.network(ctx)
	}
	e.conclude()
	return e.report
}

// silent reports whether err is nobody's answer, which a network may be the reason of.
func silent(err error) bool {
	return errors.Is(err, client.ErrNoAnswer) || errors.Is(err, client.ErrNoAddress) ||
		errors.Is(err, client.ErrNoControl) || errors.Is(err, client.ErrHostSilent)
}

// outcome is what a step found out; err says that it failed.
type outcome struct {
	state     State // empty: ok, or failed with err
	found, do string
	err       error
}

// step runs one, unless one before has failed.
func (e *examination) step(ctx context.Context, name string, run func(context.Context) outcome) {
	if e.report.Err != nil {
		e.add(Finding{Name: name, State: Skip, Found: "something before it failed"})
		return
	}
	begin := time.Now()
	o := run(ctx)
	e.take(name, o, time.Since(begin))
}

func (e *examination) take(name string, o outcome, took time.Duration) {
	if o.state == "" {
		if o.state = OK; o.err != nil {
			o.state = Fail
		}
	}
	if o.err != nil && e.report.Err == nil {
		e.report.Err = o.err
	}
	if o.found == "" && o.err != nil {
		o.found = oneLine(o.err)
	}
	e.add(Finding{name, o.state, o.found, o.do, control.Duration(took.Round(10 * time.Microsecond))})
}

func (e *examination) add(f Finding) {
	e.report.Findings = append(e.report.Findings, f)
	switch f.State {
	case Warn:
		e.report.Warnings++
	case Fail:
		e.report.Failures++
	}
	if e.Tell != nil {
		e.Tell(f)
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (e *examination) identity(context.Context) outcome {
	device, err := client.Open(e.Folder, client.WithTimeout(e.Timeout))
	if errors.Is(err, client.ErrNotEnrolled) {
		return outcome{err: err, do: "get a join token from your administrator, then: postern enroll @FILE"}
	}
	if err != nil {
		return outcome{err: err, do: "mend the folder, or enrol anew"}
	}
	e.device = device
	s := device.Status()
	left := time.Until(s.Expires.Add(-time.Duration(s.ClockOffset))).Round(time.Minute)
	found := fmt.Sprintf("%s of %s, certificate for another %s", s.Name, s.Controller, left)
	if left <= 0 {
		return outcome{state: Warn, found: fmt.Sprintf("%s of %s, certificate expired %s ago", s.Name, s.Controller, -left),
			do: "it is renewed with the next answer of the controller's, unless the device was removed"}
	}
	return outcome{found: found}
}

func (e *examination) names(ctx context.Context) outcome {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	var found, lost []string
	for _, text := range e.device.Status().Addresses {
		host, service, err := net.SplitHostPort(text)
		var port int
		if err == nil {
			port, err = net.DefaultResolver.LookupPort(ctx, "udp", service)
		}
		var all []netip.Addr
		if err == nil {
			all, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
		if err != nil {
			lost = append(lost, oneLine(err))
			continue
		}
		for _, a := range all {
			at := netip.AddrPortFrom(a.Unmap(), uint16(port))
			e.addresses, found = append(e.addresses, at), append(found, at.String())
		}
	}
	switch {
	case len(found) == 0:
		return outcome{err: fmt.Errorf("%w: %s", client.ErrNoAddress, strings.Join(lost, "; ")), do: "check this machine's DNS settings and its network"}
	case len(lost) > 0:
		return outcome{state: Warn, found: strings.Join(found, ", ") + "; lost: " + strings.Join(lost, "; ")}
	}
	return outcome{found: strings.Join(found, ", ")}
}

func (e *examination) route(ctx context.Context) outcome {
	var ways, lost []string
	for _, a := range e.addresses {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "udp", a.String()) // sends nothing
		if err != nil {
			lost = append(lost, oneLine(err))
			continue
		}
		local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		ways = append(ways, fmt.Sprintf("from %s to %s", local, a.Addr()))
		conn.Close()
	}
	if len(ways) == 0 {
		return outcome{err: fmt.Errorf("%w: %s", client.ErrNoAddress, strings.Join(lost, "; ")), do: "connect this machine to a network"}
	}
	found := strings.Join(ways, ", ")
	if len(lost) > 0 {
		found += "; no way: " + strings.Join(lost, "; ")
	}
	return outcome{found: found}
}

// controller knocks, and asks what this device may reach.
func (e *examination) controller(ctx context.Context) outcome {
	found, err := e.device.Services(ctx)
	e.heard = err == nil || errors.Is(err, client.ErrNoControl) || client.IsDenied(err)
	switch {
	case err == nil:
		if e.Service == "" {
			return outcome{found: fmt.Sprintf("it answers; %s may reach %d services", found.User, len(found.Services))}
		}
		for _, s := range found.Services {
			if s.Name == e.Service {
				return outcome{found: "it answers, and grants " + e.Service}
			}
		}
		return outcome{state: Warn, found: fmt.Sprintf("it answers, but has no grant of %s for %s", e.Service, found.User),
			do: "postern services lists what you may reach; your administrator grants more"}
	case errors.Is(err, client.ErrNoControl):
		return outcome{err: err, found: "knocks are answered, but the control port is silent",
			do: "a firewall on the way may drop UDP to the control port"}
	case errors.Is(err, client.ErrNoAnswer):
		return outcome{err: err, found: "knocks were sent, and nobody answered: a controller is silent to all it does not know, or does not get them",
			do: "see what follows"}
	}
	return outcome{err: err}
}

// clock compares this machine's with the controller's, once that has answered.
func (e *examination) clock() {
	const name = "clock"
	if e.device == nil {
		e.add(Finding{Name: name, State: Skip, Found: "there is no identity"})
		return
	}
	offset := time.Duration(e.device.Status().ClockOffset)
	off := fmt.Sprintf("%s off the controller's", offset.Abs().Round(time.Millisecond))
	switch {
	case !e.heard:
		e.add(Finding{Name: name, State: Skip, Found: fmt.Sprintf("it is %s here; %s when that last answered",
			time.Now().UTC().Format("2006-01-02 15:04:05 UTC"), off),
			Do: fmt.Sprintf("if it is wrong by more than %s, set it right", control.Tolerance)})
	case offset.Abs() > clockDoubt:
		e.add(Finding{Name: name, State: Warn, Found: off + "; that is made up for", Do: "have this machine's clock set by NTP"})
	default:
		e.add(Finding{Name: name, State: OK, Found: off})
	}
}

// access asks for a session, goes to the host, and opens one connection.
func (e *examination) access(ctx context.Context) {
	if e.report.Err != nil {
		for _, name := range []string{"grant", "tunnel", "service"} {
			e.add(Finding{Name: name, State: Skip, Found: "something before it failed"})
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, accessLimit)
	defer cancel()
	begin := time.Now()
	granted := make(chan time.Time, 1)
	access, err := e.device.Access(ctx, client.AccessConfig{
		Service: e.Service, NoRenew: true, Notify: func(ev client.Event) {
			if ev.Kind == client.EventGranted {
				select {
				case granted <- time.Now():
				default:
				}
			}
		},
	})
	if err == nil {
		defer access.Close()
	}
	select {
	case at := <-granted:
		e.take("grant", outcome{found: "the controller grants a session"}, at.Sub(begin))
		begin = at
	default:
		e.take("grant", grantRefused(err), time.Since(begin))
		e.step(ctx, "tunnel", nil)
		e.step(ctx, "service", nil)
		return
	}
	if err != nil {
		e.take("tunnel", tunnelRefused(err), time.Since(begin))
		e.step(ctx, "service", nil)
		return
	}
	e.tunnel(access, time.Since(begin))
	e.step(ctx, "service", func(ctx context.Context) outcome { return reach(ctx, access) })
}

func (e *examination) tunnel(access *client.Access, took time.Duration) {
	info := access.Info()
	o := outcome{found: fmt.Sprintf("to %s, round trip %s", info.Path, time.Duration(info.RTT).Round(10*time.Microsecond))}
	if info.Access.Resolved().Mode == control.ModeDirect {
		o = outcome{state: Skip, found: "the service is reached directly, at " + strings.Join(access.Granted().Addresses(), ", ")}
	}
	e.take("tunnel", o, took)
}

func grantRefused(err error) outcome {
	switch {
	case client.IsDenied(err):
		return outcome{err: err, do: "postern services lists what you may reach; your administrator grants more"}
	case client.IsHostOffline(err):
		return outcome{err: err, do: "the service's machine is down, cut off or refuses this: its administrator sees why with postern-host doctor, and in its log"}
	}
	return outcome{err: err}
}

func tunnelRefused(err error) outcome {
	switch {
	case errors.Is(err, client.ErrHostSilent):
		return outcome{err: err, do: "the host's door is open for the address that the controller saw; a firewall on the way may drop UDP to the host"}
	case errors.Is(err, client.ErrOtherEnd):
		return outcome{err: err, do: "somebody else answers at the host's address: tell your administrator"}
	}
	return outcome{err: err}
}

// reach opens one connection, or flow, to the service and closes it.
func reach(ctx context.Context, access *client.Access) outcome {
	dial := access.Dial
	if access.Granted().Access().Transport == control.TransportUDP {
		dial = access.DialPacket
	}
	conn, err := dial(ctx)
	if errors.Is(err, client.ErrUnreachable) {
		return outcome{err: err, do: "the host let you in, but the service behind it does not answer: is it running?"}
	}
	if err != nil {
		return outcome{err: err}
	}
	conn.Close()
	return outcome{found: "it takes connections"}
}

// network finds out why nobody answers.
func (e *examination) network(ctx context.Context) {
	const name = "network"
	if e.Probes == nil {
		e.add(Finding{Name: name, State: Skip, Found: "nobody else was asked"})
		return
	}
	begin := time.Now()
	n, found, do := look(ctx, *e.Probes, e.addresses).judge()
	e.report.Network = n
	f := Finding{Name: name, State: Fail, Found: found, Do: do, Took: control.Duration(time.Since(begin).Round(time.Millisecond))}
	if n == Good {
		f.State = OK
	}
	e.add(f)
}

// conclude says it in a sentence.
func (e *examination) conclude() {
	r := &e.report
	switch {
	case r.Err == nil && e.Service != "":
		r.Verdict = e.Service + " can be reached"
	case r.Err == nil:
		r.Verdict = "the controller can be reached"
	case r.Network != "" && r.Network != Good:
		r.Verdict = "this network is the reason: " + string(r.Network)
	default:
		for _, f := range r.Findings {
			if f.State == Fail {
				r.Verdict = f.Name + ": " + f.Found
				return
			}
		}
	}
}
