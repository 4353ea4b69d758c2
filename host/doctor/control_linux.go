package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
)

const (
	resolveLimit = 3 * time.Second
	reachLimit   = 15 * time.Second // knock, host knock and handshake
	// A clock that is off by more than clockDoubt still works, until Tolerance.
	clockDoubt = 5 * time.Second
)

func identity(e *examination) Finding {
	const name = "identity"
	switch {
	case errors.Is(e.identityErr, control.ErrNotEnrolled):
		return Finding{name, Fail, oneLine(e.identityErr),
			"postern-host enroll @FILE, with a token from the controller"}
	case e.identityErr != nil:
		return Finding{name, Fail, oneLine(e.identityErr), ""}
	case e.identity.Role != control.RoleHost:
		return Finding{name, Fail, fmt.Sprintf("it is that of a %s", e.identity.Role),
			"enrol this host in a folder of its own"}
	}
	return Finding{name, OK, fmt.Sprintf("%s (%s) of %s", e.identity.Name, e.identity.ID,
		e.identity.Controller.Name), ""}
}

func certificate(e *examination) Finding {
	const name = "certificate"
	if e.identityErr != nil {
		return Finding{name, Skip, "there is no identity", ""}
	}
	now := e.now.Add(e.identity.Offset())
	ends := e.identity.Leaf().NotAfter
	left := ends.Sub(now).Round(time.Minute)
	if e.statusErr == nil && e.status.CertificateExpires.After(ends) {
		left = e.status.CertificateExpires.Sub(now).Round(time.Minute)
	}
	switch {
	case left <= 0:
		return Finding{name, Fail, fmt.Sprintf("expired %s ago", -left),
			"the agent renews it by itself once it reaches the controller"}
	case e.identity.RenewDue(now) && e.statusErr != nil:
		return Finding{name, Warn, fmt.Sprintf("expires in %s, and no agent runs that would renew it", left),
			"start the agent"}
	}
	return Finding{name, OK, fmt.Sprintf("expires in %s; the agent renews it by itself", left), ""}
}

func addresses(e *examination) Finding {
	const name = "controller's names"
	if e.identityErr != nil {
		return Finding{name, Skip, "there is no identity", ""}
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveLimit)
	defer cancel()
	var resolved, lost []string
	for _, a := range e.identity.Controller.Addresses {
		machine, _, err := net.SplitHostPort(a)
		if err == nil {
			_, err = net.DefaultResolver.LookupNetIP(ctx, "ip", machine)
		}
		if err != nil {
			lost = append(lost, oneLine(err))
		} else {
			resolved = append(resolved, a)
		}
	}
	switch {
	case len(resolved) == 0:
		return Finding{name, Fail, "no address: " + strings.Join(lost, "; "), "look at this machine's DNS"}
	case len(lost) > 0:
		return Finding{name, Warn, strings.Join(resolved, ", ") + "; lost: " + strings.Join(lost, "; "), ""}
	}
	return Finding{name, OK, strings.Join(resolved, ", "), ""}
}

// reach comes to the controller as the agent would, unless the agent is there. It
// uses the identity without storing what the answer teaches: the folder is the agent's.
func (e *examination) reach(ctx context.Context) {
	if e.identityErr != nil || e.statusErr == nil && e.status.Link.Connected {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	c, err := control.Dial(ctx, control.DialConfig{
		Knock:       e.identity.KnockConfig(spa.KindControl),
		Certificate: e.identity.TLSCertificate(), Roots: e.identity.Roots(),
	})
	if err != nil {
		e.dialErr = err
		return
	}
	e.reached, e.offset = true, c.Offset()
	e.dialErr = c.Close()
}

func controller(e *examination) Finding {
	const name = "controller"
	var denied *control.DeniedError
	switch {
	case e.statusErr == nil && e.status.Link.Connected:
		return Finding{name, OK, "the agent is connected to it since " +
			e.status.Link.Since.Local().Format(time.DateTime), ""}
	case e.identityErr != nil:
		return Finding{name, Skip, "there is no identity", ""}
	case e.reached:
		return Finding{name, OK, "reached by a knock", ""}
	case errors.As(e.dialErr, &denied):
		return Finding{name, Fail, "reached, and it says no: " + oneLine(e.dialErr),
			"ask the controller's administrator: was this host removed?"}
	case errors.Is(e.dialErr, control.ErrNoAnswer):
		return Finding{name, Fail, "silence: it answers no knock that it does not like, and none that does not " +
			"arrive", "look at the clock, the controller's address, UDP on the way out, and whether this host " +
			"is still enrolled"}
	case errors.Is(e.dialErr, control.ErrNoControl):
		return Finding{name, Fail, oneLine(e.dialErr), "let UDP to its control port out"}
	}
	return Finding{name, Fail, oneLine(e.dialErr), ""}
}

func clock(e *examination) Finding {
	const name = "clock"
	if e.reached {
		return clockAgainst(name, e.offset)
	}
	var t unix.Timex
	_, err := unix.Adjtimex(&t) // modes 0: reads
	switch {
	case err != nil:
		return Finding{name, Skip, "not compared with the controller's; " + oneLine(err), ""}
	case t.Status&unix.STA_UNSYNC != 0:
		return Finding{name, Warn, "not compared with the controller's, and the kernel knows of no time service",
			"run one: systemctl enable --now systemd-timesyncd"}
	}
	return Finding{name, OK, "kept by a time service, as the kernel says; not compared with the controller's", ""}
}

func clockAgainst(name string, offset time.Duration) Finding {
	ahead := "behind"
	if offset < 0 {
		ahead = "ahead of"
	}
	found := fmt.Sprintf("%s %s the controller's", offset.Abs().Round(time.Millisecond), ahead)
	switch {
	case offset.Abs() >= control.Tolerance:
		return Finding{name, Fail, found + fmt.Sprintf("; knocks bear %s", control.Tolerance), "set it right"}
	case offset.Abs() >= clockDoubt:
		return Finding{name, Warn, found, "set it right, and run a time service"}
	}
	return Finding{name, OK, found, ""}
}

func agent(e *examination) Finding {
	const name = "agent"
	switch {
	case errors.Is(e.statusErr, host.ErrNotRunning):
		return Finding{name, Warn, "does not run: pinholes end in time, and none opens",
			"systemctl start postern-host, or postern-host serve"}
	case e.statusErr != nil:
		return Finding{name, Skip, oneLine(e.statusErr), "run it as root or the agent's user"}
	case !e.status.Link.Connected:
		return Finding{name, Fail, fmt.Sprintf("runs, and is cut off since %s: %s",
			e.status.Link.Since.Local().Format(time.DateTime), e.status.Link.Error), "see the check of the controller"}
	}
	return Finding{name, OK, fmt.Sprintf("runs for %s (version %s), %s",
		e.now.Sub(e.status.Started).Round(time.Second), e.status.Version,
		plural(len(e.status.Sessions), "session")), ""}
}
