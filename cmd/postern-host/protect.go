package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/host/doctor"
	"github.com/postern-sdp/postern/host/protect"
)

func (p program) protect() *cli.Command {
	return &cli.Command{
		Name:  "protect",
		Usage: "make this machine dark, on trial until it is confirmed",
		UsageText: "postern-host protect [--dry-run] [--yes] [--revert-after DURATION | --now] " +
			"[--admin ADDRESS]... [--json] [--config FILE]",
		Description: `Says what will change, asks, and puts the rules in force: from then on this machine
answers nobody who has not knocked, but for [[keep]] rules. Your own ssh address may
still reach ssh while the trial lasts.

Unless somebody says postern-host confirm, from another login or through Postern
itself, everything is as before after --revert-after. The kernel counts that time:
neither a crash nor a reboot makes it longer.

   $ postern-host protect --dry-run
   $ postern-host protect
   $ postern-host protect --yes --now          # in an image: no trial, no way back by itself`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would change, and change nothing"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.DurationFlag{Name: "revert-after", Value: 5 * time.Minute, Usage: "length of the trial, as a `DURATION`"},
			&cli.BoolFlag{Name: "now", Usage: "in force at once and for good, without a trial"},
			&cli.StringSliceFlag{Name: "admin", Usage: "an `ADDRESS` or prefix that may reach everything during the trial"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: p.guarded(p.runProtect),
	}
}

// plan is what protect is about to do.
type plan struct {
	State   protect.State `json:"state"`           // before
	Fault   string        `json:"fault,omitempty"` // of the record, which is replaced
	Backend string        `json:"backend"`
	Reason  string        `json:"reason"`
	Trial   string        `json:"revert_after,omitempty"`
	Login   string        `json:"login,omitempty"`
	Ways    []protect.Way `json:"admins"`
	Doors   []doctor.Door `json:"doors"`
	Cuts    doctor.Cuts   `json:"cuts"` // beside the doors
	Agent   string        `json:"agent"`
	DryRun  bool          `json:"dry_run"`
	trial   time.Duration
}

func (p program) runProtect(c *cli.Context, g *guard) error {
	agent, fault := g.askAgent(c.Context)
	what, err := newPlan(c, g)
	if err != nil {
		return err
	}
	what.Agent = describeAgent(agent, fault)
	if c.Bool("json") {
		err = printJSON(p.out, what)
	} else {
		err = p.printPlan(g, what)
	}
	if err == nil {
		err = g.checkAgent(agent, fault, configPath(c))
	}
	if err != nil || what.DryRun {
		return err
	}
	if what.State == protect.On && what.Fault == "" {
		p.sayf("this machine is protected already; postern-host unprotect ends that")
		return nil
	}
	if !c.Bool("yes") {
		if !isTerminal(p.in) {
			return usageError{errors.New("protect: nobody is there to be asked: give --yes")}
		}
		if err := p.ask("put these rules in force?"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), limit)
	defer cancel()
	if _, err := g.Begin(ctx, what.trial, what.Ways, what.Login); err != nil {
		return err
	}
	if what.trial == 0 {
		p.sayf("protected")
		return nil
	}
	p.sayf("protected until %s; to make it stay, from another login: postern-host confirm",
		time.Now().Add(what.trial).Format(time.TimeOnly))
	return nil
}

func newPlan(c *cli.Context, g *guard) (plan, error) {
	what := plan{
		Backend: string(g.choice.Variant), Reason: g.choice.Reason, DryRun: c.Bool("dry-run"),
		Ways: []protect.Way{},
	}
	if c.Bool("now") && c.IsSet("revert-after") {
		return what, usageError{errors.New("protect: --now goes with no --revert-after")}
	}
	if !c.Bool("now") {
		what.trial = c.Duration("revert-after")
		what.Trial = what.trial.String()
		if what.trial < protect.MinTrial || what.trial > protect.MaxTrial {
			return what, usageError{fmt.Errorf("protect: --revert-after: %w", protect.ErrTrial)}
		}
	}
	record, clock, err := g.Store.Read()
	if err != nil {
		what.Fault = err.Error()
	}
	what.State = record.At(clock)
	login := protect.Present()
	what.Login = login.Name
	if way, ok := login.Way(); ok {
		what.Ways = append(what.Ways, way)
	}
	for _, text := range c.StringSlice("admin") {
		source, err := parseSource(text)
		if err != nil {
			return what, usageError{err}
		}
		what.Ways = append(what.Ways, protect.Way{Source: source})
	}
	rules := g.Rules
	if what.trial != 0 {
		rules.Keep = slices.Clone(rules.Keep)
		for _, w := range what.Ways {
			rules.Keep = append(rules.Keep, w.Keep(what.trial))
		}
	}
	if what.Cuts, err = doctor.FindCuts(c.Context, doctor.Config{Settings: g.settings}, rules); err != nil {
		return what, err
	}
	what.Doors, err = g.doors(c.Context)
	return what, err
}

func parseSource(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("protect: --admin %q: want an address or a prefix like 192.0.2.0/24", text)
	}
	return prefix.Masked(), nil
}

func (p program) printPlan(g *guard, what plan) error {
	var b strings.Builder
	fmt.Fprintf(&b, "rules: %s (%s)\n", what.Backend, what.Reason)
	describe(&b, what.Doors, g.Rules)
	describeCuts(&b, what.Cuts)
	fmt.Fprintf(&b, "%s\n", what.Agent)
	switch {
	case what.trial == 0:
		b.WriteString("no trial: in force for good, until postern-host unprotect\n")
	default:
		for _, w := range what.Ways {
			to := "everything"
			if w.Port != 0 {
				to = fmt.Sprintf("tcp/%d", w.Port)
			}
			fmt.Fprintf(&b, "while the trial lasts, %s may reach %s\n", w.Source, to)
		}
		if len(what.Ways) == 0 {
			b.WriteString("this is no ssh login: no address is kept open for the trial (--admin ADDRESS does that)\n")
		}
		fmt.Fprintf(&b, "unless confirmed, all is as before after %s\n", what.trial)
	}
	if what.DryRun {
		b.WriteString("dry run: nothing was changed\n")
	}
	_, err := fmt.Fprint(p.out, b.String())
	return err
}

// ask wants a yes to a question from a terminal.
func (p program) ask(question string) error {
	fmt.Fprint(p.talk, question+" [y/N] ")
	line, err := bufio.NewReader(p.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

func (p program) sayf(format string, args ...any) {
	fmt.Fprintf(p.talk, "postern-host: "+format+"\n", args...)
}
