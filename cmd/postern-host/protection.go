package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/doctor"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/daemon"
)

// guard is what the commands need that change the protection.
type guard struct {
	protect.Switch
	settings host.Settings
	choice   choose.Choice
}

// errNoBackend is for settings that leave the ports to somebody else.
var errNoBackend = errors.New(`firewall.backend is "none": there is nothing to put in force`)

// openGuard opens the firewall that the settings ask for, says when the record of the
// protection cannot be read, and touches nothing.
func (p program) openGuard(ctx context.Context, s host.Settings) (*guard, error) {
	log := daemon.Logger(p.talk, slog.LevelWarn)
	rules, err := s.Rules()
	if err != nil {
		return nil, usageError{err}
	}
	fw, choice, err := openFirewall(ctx, s, log)
	if err != nil {
		return nil, err
	}
	if fw == nil {
		return nil, usageError{errNoBackend}
	}
	store := protect.Store{Folder: s.State}
	if _, _, err := store.Read(); err != nil {
		p.sayf("%v: until protect, confirm or unprotect decides anew, this machine counts as protected", err)
	}
	return &guard{
		Switch: protect.Switch{
			Store: store, Firewall: fw, Rules: rules,
			Backend: string(choice.Variant),
		},
		settings: s, choice: choice,
	}, nil
}

// askAgent returns how the running agent is.
func (g *guard) askAgent(ctx context.Context) (host.Status, error) {
	return host.ReadStatus(ctx, g.settings.StatusSocket)
}

// checkAgent refuses to put rules in force beside a running agent that would put others
// there: it reads what of the configuration is not at stake here by itself, and the
// rest when it starts.
func (g *guard) checkAgent(s host.Status, fault error, config string) error {
	if fault != nil || s.Settings == nil { // there is none, or one that does not tell
		return nil
	}
	if s.Config != "" && !sameFile(s.Config, config) {
		return hintError{fmt.Errorf("the running agent's configuration is %s, not %s", s.Config, config),
			"--config " + s.Config}
	}
	const restart = "restart the agent, whose sessions go on: systemctl restart postern-host"
	waiting := slices.DeleteFunc(host.Waiting(s.Settings, g.settings.Fixed()), func(key string) bool {
		return key != "state" && !strings.HasPrefix(key, "firewall.") && !strings.HasPrefix(key, "tunnel.")
	})
	if len(waiting) > 0 {
		return hintError{fmt.Errorf("what the configuration says of %s waits for a restart of the running "+
			"agent, which would put other rules in force", strings.Join(waiting, ", ")), restart}
	}
	if chosen := string(g.choice.Variant); s.Firewall != chosen {
		return hintError{fmt.Errorf("the running agent uses %s, and now it would be %s", s.Firewall, g.choice), restart}
	}
	return nil
}

func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

func (g *guard) close() { _ = g.Firewall.Close() } // the rules stay, and nothing is lost

// noArguments refuses what a command does not take.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Errorf("%s: takes no argument, got %q", c.Command.Name, c.Args().First())}
	}
	return nil
}

// guarded runs act with the guard of the command's settings.
func (p program) guarded(act func(*cli.Context, *guard) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArguments(c); err != nil {
			return err
		}
		s, err := settings(c)
		if err != nil {
			return err
		}
		g, err := p.openGuard(c.Context, s)
		if err != nil {
			return err
		}
		defer g.close()
		return act(c, g)
	}
}

// limit bounds the work on the kernel's rules.
const limit = 30 * time.Second

// doors lists what listens on the machine, for people; nothing when it cannot be
// told.
func (g *guard) doors(ctx context.Context) ([]doctor.Door, error) {
	return doctor.Doors(ctx, doctor.Config{Settings: g.settings})
}
