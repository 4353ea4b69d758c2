package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
)

// errUnsure is a confirmation that might shut out who gives it.
var errUnsure = errors.New("not confirmed, as it might shut you out")

// assurance is what there is to tell whether somebody still gets in once the trial's
// ways in are closed.
type assurance struct {
	login protect.Login
	keeps []firewall.Keep // that stay
	agent host.Status
	fault error // of reading agent
}

// doubt says why it is not sure that the login's person gets in again; empty: it is.
// A login by the trial's own way shows only that the trial lets it in.
func (a assurance) doubt() string {
	if a.login.Console || a.kept() { // no rule closes a console
		return ""
	}
	link := linkless(a.agent, a.fault)
	switch through := a.through(); {
	case through && link == "":
		return ""
	case through:
		return "this login came through Postern, but " + link
	}
	why := fmt.Sprintf("this login came from %s, which only the trial lets in: nobody has shown that "+
		"the way through Postern works", a.login.Source.Addr())
	switch {
	case a.login.Name == "":
		why = "nobody can tell how this login came here: it is by ssh as little as at a console"
	case isOwn(a.login.Source.Addr()):
		why = "this login came from this machine itself, and through no session of Postern's"
	}
	if link != "" {
		why += "; and " + link
	}
	return why
}

// kept reports whether a keep rule lets the login in for good. By which interface it
// came nobody knows.
func (a assurance) kept() bool {
	port := firewall.Port{Protocol: firewall.TCP, Number: a.login.Source.Port()}
	return slices.ContainsFunc(a.keeps, func(k firewall.Keep) bool {
		return k.Interface == "" && k.TTL == 0 && k.Source.Contains(a.login.Source.Addr()) &&
			(len(k.Ports) == 0 || slices.Contains(k.Ports, port))
	})
}

// through reports whether a session lives that the login may have come by: through a
// tunnel, whose end dials from this machine, or directly.
func (a assurance) through() bool {
	source := a.login.Source
	return slices.ContainsFunc(a.agent.Sessions, func(s host.SessionStatus) bool {
		_, port, err := net.SplitHostPort(s.Target)
		if err != nil || port != fmt.Sprint(source.Port()) {
			return false
		}
		if s.Mode == control.ModeDirect {
			return (s.Bound || s.Binding == control.BindAddress) && sourceOf(s) == source.Addr()
		}
		return s.Tunnels > 0 && isOwn(source.Addr())
	})
}

// sourceOf is the address of a session's client, with or without its port.
func sourceOf(s host.SessionStatus) netip.Addr {
	if a, err := netip.ParseAddrPort(s.Source); err == nil {
		return a.Addr().Unmap()
	}
	a, _ := netip.ParseAddr(s.Source) // zero is nobody's
	return a.Unmap()
}

// linkless says why no new session can open here; empty: it can.
func linkless(agent host.Status, fault error) string {
	link := agent.Link
	switch {
	case errors.Is(fault, host.ErrNotRunning):
		return "no agent runs here, so that nobody new can be let in"
	case fault != nil:
		return fmt.Sprintf("the agent does not say how it is (%v)", fault) // for people
	case !link.Connected:
		return strings.TrimSuffix("the agent has no controller now, so that nobody new can be let in: "+link.Error, ": ")
	}
	return ""
}

// isOwn reports whether an address is this machine's.
func isOwn(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(o net.Addr) bool {
		p, err := netip.ParsePrefix(o.String())
		return err == nil && p.Addr() == a
	})
}

// dare has the person say that the confirmation is to be in spite of why. Where nobody
// can be asked, it is refused.
func (p program) dare(why string, keep time.Duration) error {
	if !isTerminal(p.in) {
		return hintError{fmt.Errorf("%w: %s", errUnsure, why), "come in through Postern and confirm there; " +
			"--force goes on all the same, and --keep-admin 1h leaves the trial's addresses open for so long"}
	}
	p.sayf("%s", why)
	when := "at once, and this login is cut"
	if keep > 0 {
		when = fmt.Sprintf("in %s", keep)
	}
	p.sayf("the trial's addresses are closed %s, and nothing brings them back by itself", when)
	return p.ask("confirm all the same?")
}
