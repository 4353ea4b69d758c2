package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/daemon"
)

func (p program) firewall() *cli.Command {
	return &cli.Command{
		Name:      "firewall",
		Usage:     "what the rules are, and putting them in place without the agent",
		UsageText: "postern-host firewall up | show",
		Subcommands: []*cli.Command{
			{
				Name: "up", Usage: "install what protect and confirm decided, as at boot",
				UsageText: "postern-host firewall up [--closed] [--config FILE]",
				Description: `The boot's unit runs this before the network is up: a protected machine is dark from
the start. It needs neither an identity nor a controller. Where nothing was decided,
it does nothing; where what was decided cannot be read, the machine becomes dark.
With firewall.backend "none" it puts nothing in force and takes nothing away.

   $ postern-host firewall up`,
				Flags: []cli.Flag{configFlag(), &cli.BoolFlag{Name: "closed", Usage: "read no configuration: no keep rule, " +
					"and state and table of the last one that could be used"}},
				Action: p.firewallUp,
			},
			{
				Name: "show", Usage: "say in words what is decided and what the rules are",
				UsageText:   "postern-host firewall show [--json] [--config FILE]",
				Description: `   $ postern-host firewall show`,
				Flags:       []cli.Flag{configFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON"}},
				Action:      p.guarded(p.firewallShow),
			},
		},
		Action: func(c *cli.Context) error {
			return usageError{fmt.Errorf("firewall: want up or show, got %q", c.Args().First())}
		},
	}
}

func (p program) firewallUp(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s := lastGood()
	if !c.Bool("closed") {
		var err error
		if s, err = settings(c); err != nil {
			return err
		}
	}
	g, err := p.openGuard(c.Context, s)
	if errors.Is(err, errNoBackend) {
		p.sayf(`firewall.backend is "none": nothing is put in force, and nothing taken away`)
		noteGood(s, daemon.Logger(p.talk, slog.LevelWarn))
		return nil
	}
	if err != nil {
		return err
	}
	defer g.close()
	agent, fault := g.askAgent(c.Context)
	if fault == nil && c.Bool("closed") {
		p.sayf("an agent runs here, and its rules are left alone")
		return nil
	}
	if err := g.checkAgent(agent, fault, configPath(c)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, limit)
	defer cancel()
	state, err := g.Restore(ctx)
	if errors.Is(err, protect.ErrUnsure) { // with the configured keep rules, which the unit's last resort has not
		p.sayf("%v", err)
		err = nil
	}
	if err != nil {
		return err
	}
	p.sayf("protection is %s", state)
	if !c.Bool("closed") {
		noteGood(s, daemon.Logger(p.talk, slog.LevelWarn))
	}
	return nil
}

// shown is what `firewall show` tells.
type shown struct {
	State   protect.State `json:"state"`
	Backend string        `json:"backend"`
	Left    string        `json:"trial_left,omitempty"`
	Keep    []string      `json:"keep"`
	Inside  []string      `json:"inside"`
}

func (p program) firewallShow(c *cli.Context, g *guard) error {
	record, clock, _ := g.Store.Read() // openGuard has told its error
	rules, state := record.Rules(g.Rules, clock)
	s := shown{State: state, Backend: string(g.choice.Variant), Keep: []string{}, Inside: rules.Inside}
	if state == protect.Trial {
		s.Left = record.Left(clock).Round(time.Second).String()
	}
	for _, k := range rules.Keep {
		k.TTL = k.TTL.Round(time.Second)
		s.Keep = append(s.Keep, k.String())
	}
	if c.Bool("json") {
		return printJSON(p.out, s)
	}
	return printShown(p.out, s, rules)
}

func printShown(w io.Writer, s shown, rules firewall.Rules) error {
	protection := string(s.State)
	if s.Left != "" {
		protection += ", " + s.Left + " left"
	}
	_, err := fmt.Fprintf(w, "protection: %s\nbackend: %s\nopen without a knock: %s\nforwarded flows begin on: %s\n",
		protection, s.Backend, listed(s.Keep), listed(rules.Inside))
	return err
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
