package main

import (
	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/control"
)

func sessionCommand() *cli.Command {
	return &cli.Command{
		Name:         "session",
		Usage:        "live accesses",
		UsageText:    "postern-controller session list|revoke [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the live sessions", UsageText: "postern-controller session list [--json]",
				Description:  "  $ postern-controller session list",
				OnUsageError: asUsage, Action: sessionList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "revoke", Usage: "end a session at once", ArgsUsage: "ID",
				UsageText: "postern-controller session revoke ID [--json]",
				Description: `Cuts what runs through it, also in the middle of a transfer. The user may knock again while
a grant lets them: see grant remove and device revoke.

Example:
  $ postern-controller session revoke 0123456789abcdef0123456789abcdef`,
				OnUsageError: asUsage, Action: sessionRevoke, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func sessionList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	sessions, err := a.AllSessions(c.Context)
	if err != nil {
		return err
	}
	head := "ID USER DEVICE SERVICE HOST SOURCE DEADLINE"
	return printList(c, sessions, head, func(s control.SessionInfo) []string {
		return []string{
			s.ID.String(), s.User, s.Name, s.Service, s.Host, s.Source.String(), when(s.Deadline),
		}
	})
}

func sessionRevoke(c *cli.Context) error {
	id, a, err := idArgument(c)
	if err != nil {
		return err
	}
	cut, err := a.RevokeSession(c.Context, id)
	if err != nil {
		return err
	}
	return sayCut(c, cut, "session %s revoked", id)
}
