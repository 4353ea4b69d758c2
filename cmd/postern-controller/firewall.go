package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/internal/bootclock"
)

// rulesLimit bounds the work on the kernel's rules, runningLimit the question whether a
// controller runs.
const (
	rulesLimit   = 30 * time.Second
	runningLimit = 2 * time.Second
)

const flagClosed = "closed"

func firewallCommand() *cli.Command {
	flags := func() []cli.Flag {
		return []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would change, and change nothing"},
			jsonFlag(),
		}
	}
	return &cli.Command{
		Name:         "firewall",
		Usage:        "the rules, with no controller running",
		UsageText:    "postern-controller firewall up|down [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "up", Usage: "install the rules, as at boot",
				UsageText: "postern-controller firewall up [--closed] [--dry-run] [--json]",
				Description: `Makes the machine dark but for what the configuration leaves open, as serve does, and needs
neither state nor a controller. The boot's unit runs this before the network is up. What is
open for those who are connected stays open.

With --closed no configuration is read and nothing is left open: the rules have the table of
the last configuration that could be used, and there are none where that one wanted none.

Examples:
  $ postern-controller firewall up --dry-run
  $ postern-controller firewall up`,
				OnUsageError: asUsage, Action: firewallUp, Flags: append(flags(), &cli.BoolFlag{
					Name: flagClosed, Usage: "read no configuration, and leave nothing open",
				}),
			},
			{
				Name: "down", Usage: "take the rules away: what listens here can be reached again",
				UsageText: "postern-controller firewall down [--dry-run] [--json]",
				Description: `Removes what postern-controller put into the kernel, with whichever backend, and nothing
else. A controller that runs would put it back, and has to be stopped first. With a broken
configuration the last good one tells what is ours, or the defaults.

Examples:
  $ postern-controller firewall down --dry-run
  $ postern-controller firewall down`,
				OnUsageError: asUsage, Action: firewallDown, Flags: flags(),
			},
		},
	}
}

// openFirewall opens the backend that the configuration and the machine ask for, and
// touches nothing. It is nil for "none".
func openFirewall(ctx context.Context, config controller.Config) (firewall.Firewall, choose.Choice, error) {
	boot, _ := bootclock.ID() // without one, pinholes of another boot are not told from this one's
	return choose.Open(ctx, choose.Config{Backend: config.Firewall.Backend, Name: config.Firewall.Table, Boot: boot})
}

// installation is what there is, and what is to be.
type installation struct {
	Table     string           `json:"table"`
	Installed []survey.Variant `json:"installed"` // before
	Backend   string           `json:"backend,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Open      []string         `json:"open,omitempty"`   // without a knock
	Inside    []string         `json:"inside,omitempty"` // where forwarded flows may begin
	DryRun    bool             `json:"dry_run"`
}

func look(c *cli.Context, config controller.Config) (installation, error) {
	m, err := choose.Look(c.Context, config.Firewall.Table)
	if err != nil {
		return installation{}, err
	}
	return installation{
		Table: config.Firewall.Table, Installed: append([]survey.Variant{}, m.Ours...), DryRun: c.Bool("dry-run"),
	}, nil
}

func firewallUp(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	config, err := upConfig(c)
	if err != nil {
		return configError{err}
	}
	rules, err := config.Rules()
	if err != nil {
		return configError{err}
	}
	fw, choice, err := openFirewall(c.Context, config)
	if err != nil {
		return err
	}
	if fw == nil {
		note(c, config)
		return nothingToInstall(c, config, choice)
	}
	defer fw.Close()
	i, err := look(c, config)
	if err != nil {
		return err
	}
	i.Backend, i.Reason = string(choice.Variant), choice.Reason
	i.Open, i.Inside = standing(rules), rules.Inside
	if !i.DryRun {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), rulesLimit)
		defer cancel()
		if err := fw.Install(ctx, rules); err != nil {
			return err
		}
		note(c, config)
	}
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, i)
	}
	say(c, "the rules %s (%s); open without a knock: %s", would(i, "installed"), choice, listed(i.Open))
	return nil
}

// nothingToInstall is for a configuration that leaves the ports to somebody else.
func nothingToInstall(c *cli.Context, config controller.Config, choice choose.Choice) error {
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, installation{
			Table: config.Firewall.Table, Installed: []survey.Variant{}, Backend: choice.Backend, Reason: choice.Reason,
			DryRun: c.Bool("dry-run"),
		})
	}
	say(c, "nothing is installed (%s)", choice)
	return nil
}

// upConfig is the configuration, or what takes its place with --closed.
func upConfig(c *cli.Context) (controller.Config, error) {
	if c.Bool(flagClosed) {
		return lastGood(), nil
	}
	return controller.LoadConfig(c.String(flagConfig))
}

// note notes a configuration that could be used. Without a note the rules are as good.
func note(c *cli.Context, config controller.Config) {
	if c.Bool(flagClosed) || c.Bool("dry-run") {
		return
	}
	if err := noteGood(config); err != nil {
		say(c, "what a boot with a faulty configuration falls back on is not noted: %v", err)
	}
}

func firewallDown(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	config, err := controller.LoadConfig(c.String(flagConfig))
	if err != nil {
		if c.IsSet(flagConfig) || !errors.Is(err, fs.ErrNotExist) {
			say(c, "%v; going on with the last one that could be used, or the defaults", err)
		}
		config = lastGood()
	}
	i, err := look(c, config)
	if err != nil {
		return err
	}
	if !i.DryRun {
		if err := stopped(c); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), rulesLimit)
		defer cancel()
		if _, err := choose.RemoveAll(ctx, config.Firewall.Table); err != nil {
			return err
		}
	}
	switch {
	case c.Bool(flagJSON):
		return printJSON(c.App.Writer, i)
	case len(i.Installed) == 0:
		say(c, "there are no rules of ours, of the name %s", i.Table)
	default:
		say(c, "the rules %s %s; what listens here can be reached", i.Table, would(i, "taken away"))
	}
	return nil
}

// errRunning is for rules that a running controller would put back.
var errRunning = errors.New("the controller runs, and would put its rules back")

// stopped returns an error unless no controller runs here.
func stopped(c *cli.Context) error {
	a, err := admin(c)
	if err != nil {
		a = api.NewAdmin(controller.DefaultSocket)
	}
	ctx, cancel := context.WithTimeout(c.Context, runningLimit)
	defer cancel()
	_, err = a.Status(ctx)
	switch {
	case errors.Is(err, api.ErrNotRunning):
		return nil
	case err == nil || errors.Is(err, context.DeadlineExceeded):
		return errRunning
	}
	return err
}

// standing lists what rules leave open to those who have not knocked.
func standing(rules firewall.Rules) []string {
	var open []string
	for _, p := range rules.OpenPorts {
		open = append(open, p.String()+" to anyone")
	}
	for _, k := range rules.Keep {
		k.TTL = k.TTL.Round(time.Second)
		open = append(open, k.String())
	}
	return open
}

func would(i installation, done string) string {
	if i.DryRun {
		return "would be " + done
	}
	return "are " + done
}

func listed(items []string) string {
	if len(items) == 0 {
		return "nothing"
	}
	return strings.Join(items, "; ")
}
