package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/host"
)

func (p program) unprotect() *cli.Command {
	return &cli.Command{
		Name:      "unprotect",
		Usage:     "take the rules away: this machine is as visible as before",
		UsageText: "postern-host unprotect [--yes] [--config FILE]",
		Description: `Removes what postern-host put into the kernel and nothing else, with the agent
running or not. Sessions go on; their tunnels have lost the layer that hides them.
With a broken configuration the last good one tells what is ours, or the defaults.

   $ postern-host unprotect`,
		Flags: []cli.Flag{
			configFlag(), &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask (it never does)", Hidden: true},
		},
		Action: p.runUnprotect,
	}
}

func (p program) runUnprotect(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, fault := settings(c)
	if fault != nil {
		s = lastGood()
		p.sayf("%v; going on with state %s and table %s", fault, s.State, s.Firewall.Table)
	}
	if s.Firewall.Backend == host.BackendNone {
		s.Firewall.Backend = host.BackendAuto // there may be something of before
	}
	g, err := p.openGuard(c.Context, s)
	if err != nil {
		return err
	}
	defer g.close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), limit)
	defer cancel()
	err = g.Revert(ctx)
	_, rest := choose.RemoveAll(ctx, s.Firewall.Table) // what another backend left
	if err := errors.Join(err, rest); err != nil {
		return err
	}
	doors, err := g.doors(ctx)
	if err != nil {
		return err
	}
	var all []string
	for _, d := range doors {
		all = append(all, d.Protocol+"/"+itoa(d.Port))
	}
	p.sayf("not protected any more; what listens here: %s", listed(all))
	return nil
}
