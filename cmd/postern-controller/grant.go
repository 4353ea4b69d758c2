package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
)

func grantCommand() *cli.Command {
	return &cli.Command{
		Name:         "grant",
		Usage:        "who may reach which service",
		UsageText:    "postern-controller grant add|list|remove [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "let a user reach a service", ArgsUsage: "USER SERVICE",
				UsageText: "postern-controller grant add USER SERVICE [--for TIME] [--json]",
				Description: `Grants of the policy file hold besides. What no grant allows is denied.

Example:
  $ postern-controller grant add ana ssh --for 1h`,
				OnUsageError: asUsage, Action: grantAdd,
				Flags: []cli.Flag{
					&cli.DurationFlag{Name: "for", Usage: "longest session, `TIME` like 90m (default: 8h)"},
					jsonFlag(),
				},
			},
			{
				Name: "list", Usage: "list the policy in force", UsageText: "postern-controller grant list [--json]",
				Description:  "  $ postern-controller grant list",
				OnUsageError: asUsage, Action: grantList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "remove", Usage: "take a grant back and cut what it allowed", ArgsUsage: "USER SERVICE",
				UsageText:    "postern-controller grant remove USER SERVICE [--json]",
				Description:  "  $ postern-controller grant remove ana ssh",
				OnUsageError: asUsage, Action: grantRemove, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func policyCommand() *cli.Command {
	return &cli.Command{
		Name:         "policy",
		Usage:        "the policy file",
		UsageText:    "postern-controller policy reload [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{{
			Name: "reload", Usage: "read the policy file again and cut what it no longer allows",
			UsageText:    "postern-controller policy reload [--json]",
			Description:  "  $ postern-controller policy reload",
			OnUsageError: asUsage, Action: policyReload, Flags: []cli.Flag{jsonFlag()},
		}},
	}
}

func grantArguments(c *cli.Context) (api.GrantRequest, *api.Admin, error) {
	args, err := arguments(c, "USER", "SERVICE")
	if err != nil {
		return api.GrantRequest{}, nil, err
	}
	a, err := admin(c)
	return api.GrantRequest{
		User: args[0], Service: args[1], For: control.Duration(c.Duration("for")),
	}, a, err
}

func grantAdd(c *cli.Context) error {
	r, a, err := grantArguments(c)
	if err != nil {
		return err
	}
	if err := a.AddGrant(c.Context, r); err != nil {
		return err
	}
	return done(c, "%s may reach %s", r.User, r.Service)
}

func grantList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	grants, err := a.Grants(c.Context)
	if err != nil {
		return err
	}
	return printList(c, grants, "USERS SERVICES FOR FROM", func(g api.GrantInfo) []string {
		return []string{
			strings.Join(g.Users, ","), strings.Join(g.Services, ","), span(g.For), fmt.Sprint(g.From),
		}
	})
}

func grantRemove(c *cli.Context) error {
	r, a, err := grantArguments(c)
	if err != nil {
		return err
	}
	cut, err := a.RemoveGrant(c.Context, r)
	if err != nil {
		return err
	}
	return sayCut(c, cut, "the grant of %s to %s is taken back", r.Service, r.User)
}

func policyReload(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	cut, err := a.ReloadPolicy(c.Context)
	if err != nil {
		return err
	}
	return sayCut(c, cut, "policy loaded")
}
