package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/host/protect"
)

func (p program) confirm() *cli.Command {
	return &cli.Command{
		Name:      "confirm",
		Usage:     "make the protection stay that is on trial",
		UsageText: "postern-host confirm [--keep-admin DURATION] [--force] [--config FILE]",
		Description: `Must come from another login than the one that ran protect, best through Postern
itself: that is what shows that somebody can still get in. The addresses that the
trial kept open are closed then, and logins from them are cut, unless --keep-admin
gives them more time.

   $ ssh -o ProxyCommand='postern connect --stdio %h' root@ssh-web1 postern-host confirm
   $ postern-host confirm --keep-admin 1h`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.DurationFlag{Name: "keep-admin", Usage: "leave the trial's addresses open for a `DURATION` more"},
			&cli.BoolFlag{Name: "force", Usage: "take the login that ran protect, too"},
		},
		Action: p.guarded(p.runConfirm),
	}
}

func (p program) runConfirm(c *cli.Context, g *guard) error {
	keep := c.Duration("keep-admin")
	if keep < 0 || keep > protect.MaxTrial {
		return usageError{errors.New("confirm: --keep-admin: want a time up to 24h")}
	}
	if err := g.checkAgent(c.Context, configPath(c)); err != nil {
		return err
	}
	login := protect.Present()
	record, clock, _ := g.Store.Read() // openGuard has told its error
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), limit)
	defer cancel()
	_, err := g.Confirm(ctx, login.Name, c.Bool("force"), keep)
	switch {
	case errors.Is(err, protect.ErrSameLogin):
		return hintError{err, "log in once more, through Postern or from another window, and confirm there; " +
			"--force takes this one"}
	case errors.Is(err, protect.ErrNoTrial) && record.At(clock) == protect.On:
		return hintError{err, "the protection is in force for good already"}
	case errors.Is(err, protect.ErrNoTrial):
		return hintError{err, "it was never begun, or its time was over: postern-host protect"}
	case err != nil:
		return err
	}
	if keep == 0 {
		for _, a := range record.Admins {
			p.sayf("closed to %s: logins from there, like the one that ran protect, are cut", a.Source)
		}
	}
	p.sayf("confirmed: the protection stays, until postern-host unprotect")
	return nil
}
