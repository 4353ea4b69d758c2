package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/postern-sdp/postern/host"
)

// emergencyFor is for how long one use of the key opens ssh's port.
const emergencyFor = 8 * time.Second

// Emergency is a host whose administrator has an emergency key, on a machine that is
// enrolled nowhere, on the day when every controller goes.
type Emergency struct {
	*Lab
	others onlookers
	tap    *wiretap // on the administrator's machine
}

// NewEmergency starts the system on a standing lab, makes the key and begins to probe
// the host. Close ends the probing.
func NewEmergency(ctx context.Context, l *Lab) (*Emergency, error) {
	e := &Emergency{Lab: l}
	l.HostSettings += "\n[emergency]\nonly_when_alone = \"1s\"\n"
	if err := errors.Join(l.addAdmin(), l.StartSystem(ctx)); err != nil {
		return nil, err
	}
	_, err := l.Run(ctx, "host", "postern-host", "emergency", "create", "--config", l.path("host", "host.toml"),
		"--service", "ssh", "--port", "tcp/22", "--for", emergencyFor.String(), "--uses", "5", "--out", e.key())
	if err != nil {
		return nil, err
	}
	if e.tap, err = l.tap("admin"); err != nil {
		return nil, err
	}
	if e.others, err = l.onlook([]uint16{22, tunnelPort}, HostV4, HostV6); err == nil {
		e.others.dark("protected")
	}
	return e, err
}

func (e *Emergency) key() string { return e.path("emergency.key") }

// Log is what the probing saw, phase by phase.
func (e *Emergency) Log() string { return e.others.Log() }

// Close ends the probing.
func (e *Emergency) Close() error {
	e.tap.close()
	return e.others.Close()
}

// Steps use the key before its day, on it, and after it. Nobody but who uses it is
// ever answered.
func (e *Emergency) Steps() []Step {
	step := func(name string, run func(context.Context) (string, error)) Step {
		return Step{name, func(ctx context.Context, _ *Lab) (string, error) {
			evidence, err := run(ctx)
			seen, fault := e.others.sees(0)
			return evidence + "; " + seen, errors.Join(err, fault)
		}}
	}
	return []Step{
		step("while there is a controller, the key opens nothing", e.refused),
		step("with every controller gone, it opens ssh to its user alone", e.opens),
		step("what was recorded of it opens nothing", e.replayed),
		step("the agent killed, the kernel closes what it opened", e.closes),
		step("a controller that is back is told of every use", e.told),
	}
}

// use knocks with the key, and says with which exit code that ended after a while at most.
func (e *Emergency) use(ctx context.Context, wait string) (code int, err error) {
	_, err = e.postern(ctx, "admin", nil, "emergency", "--key", e.key(), "--wait", wait)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func (e *Emergency) refused(ctx context.Context) (string, error) {
	const shut = 4 // the exit code
	if code, err := e.use(ctx, "1s"); err != nil || code != shut {
		return "", errors.Join(err, broken("exit code %d, want %d", code, shut))
	}
	return fmt.Sprintf("exit code %d", shut), nil
}

func (e *Emergency) opens(ctx context.Context) (string, error) {
	if err := e.controller.Stop(); err != nil {
		return "", err
	}
	err := Wait(ctx, 60*time.Second, "the host to be alone for long enough", func() (bool, error) {
		s, err := e.status(ctx)
		return err == nil && !s.Link.Connected && time.Since(s.Link.Since) > 2*time.Second, err
	})
	if err != nil {
		return "", err
	}
	if code, err := e.use(ctx, "5s"); err != nil || code != 0 {
		return "", errors.Join(err, broken("exit code %d", code))
	}
	login, err := e.Login(ctx, "admin", HostV4)
	if err != nil {
		return "", err
	}
	defer login.Close()
	open, err := e.Pinholes(ctx)
	if err == nil && (len(open) != 1 || open[0].Source != AdminV4 || open[0].Port != 22) {
		err = broken("open are %v", open)
	}
	return fmt.Sprintf("logged in with %v open", open), err
}

// status is what the host's agent says of itself.
func (e *Emergency) status(ctx context.Context) (host.Status, error) {
	out, err := e.Run(ctx, "host", "postern-host", "status", "--json", "--config", e.path("host", "host.toml"))
	if err != nil {
		return host.Status{}, err
	}
	var s host.Status
	return s, json.Unmarshal([]byte(out), &s)
}

func (e *Emergency) replayed(ctx context.Context) (string, error) {
	if err := e.shut(ctx); err != nil {
		return "", err
	}
	recorded := e.tap.recorded(tunnelPort)
	if len(recorded) < 2 {
		return "", fmt.Errorf("the tap recorded %d knocks of 2", len(recorded))
	}
	answers, err := e.send("stranger", netip.AddrPortFrom(HostV4, tunnelPort), recorded)
	if err != nil {
		return "", err
	}
	open, err := e.Pinholes(ctx)
	if err == nil && (answers > 0 || len(open) > 0) {
		err = broken("%d answers, open are %v", answers, open)
	}
	return fmt.Sprintf("%d recorded knocks sent by a stranger: 0 answers, 0 pinholes", len(recorded)), err
}

// shut waits until the kernel has closed everything.
func (e *Emergency) shut(ctx context.Context) error {
	return Wait(ctx, 2*emergencyFor, "the kernel to close the opening", func() (bool, error) {
		open, err := e.Pinholes(ctx)
		return err == nil && len(open) == 0, err
	})
}

func (e *Emergency) closes(ctx context.Context) (string, error) {
	if code, err := e.use(ctx, "5s"); err != nil || code != 0 {
		return "", errors.Join(err, broken("exit code %d", code))
	}
	login, err := e.Login(ctx, "admin", HostV4)
	if err != nil {
		return "", err
	}
	defer login.Close()
	if err := e.host.Kill(); err != nil {
		return "", err
	}
	if err := e.shut(ctx); err != nil {
		return "", err
	}
	if login.Alive(ctx, time.Second) {
		return "", broken("the login lives on")
	}
	return "the login ended with it", nil
}

func (e *Emergency) told(ctx context.Context) (string, error) {
	if err := e.StartController(ctx); err != nil {
		return "", err
	}
	if err := e.StartHost(ctx); err != nil {
		return "", err
	}
	out := ""
	err := Wait(ctx, 20*time.Second, "the controller to know of both uses", func() (bool, error) {
		var err error
		out, err = e.Admin(ctx, "emergency", "list")
		return strings.Count(out, AdminV4.String()) >= 2, err
	})
	if err != nil {
		return out, err
	}
	verified, err := e.Run(ctx, "host", "postern-host", "emergency", "log", "--verify", "--config", e.path("host", "host.toml"))
	return out + verified, err
}
