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

A login shows that somebody gets in later when it came through a session of Postern's
while the agent is connected to its controller, from the source of a standing [[keep]]
rule, or from a console. For any other, as a second one from the address that the trial
keeps open, confirm says what is to fear and asks; where nobody can be asked it
refuses. --force does neither.

   $ postern ssh root@ssh-web1 postern-host confirm
   $ postern-host confirm --keep-admin 1h`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.DurationFlag{Name: "keep-admin", Usage: "leave the trial's addresses open for a `DURATION` more"},
			&cli.BoolFlag{Name: "force", Usage: "take any login, also the one that ran protect, and do not ask"},
		},
		Action: p.guarded(p.runConfirm),
	}
}

func (p program) runConfirm(c *cli.Context, g *guard) error {
	keep := c.Duration("keep-admin")
	if keep < 0 || keep > protect.MaxTrial {
		return usageError{errors.New("confirm: --keep-admin: want a time up to 24h")}
	}
	agent, fault := g.askAgent(c.Context)
	if err := g.checkAgent(agent, fault, configPath(c)); err != nil {
		return err
	}
	login := protect.Present()
	record, clock, _ := g.Store.Read() // openGuard has told its error
	sure := assurance{login: login, keeps: g.Rules.Keep, agent: agent, fault: fault}
	if why := sure.doubt(); why != "" && !c.Bool("force") && record.Confirmable(clock, login.Name) == nil {
		if err := p.dare(why, keep); err != nil {
			return err
		}
	}
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
