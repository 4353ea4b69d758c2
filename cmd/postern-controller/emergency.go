package main

import (
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
)

func emergencyCommand() *cli.Command {
	return &cli.Command{
		Name:         "emergency",
		Usage:        "what hosts told of their emergency keys",
		UsageText:    "postern-controller emergency list [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{{
			Name: "list", Usage: "list the uses of emergency keys, and what else befell them",
			UsageText: "postern-controller emergency list [--json]",
			Description: `Hosts tell it when they are connected again, the newest 1,000 records of each host are
kept. The hash is that of the same line in the host's own audit: see postern-host
emergency log.

Example:
  $ postern-controller emergency list --json`,
			OnUsageError: asUsage, Action: emergencyList, Flags: []cli.Flag{jsonFlag()},
		}},
	}
}

func emergencyList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	all, err := a.Emergencies(c.Context)
	if err != nil {
		return err
	}
	head := "TIME EVENT HOST SERVICE PORT SOURCE KEY USE"
	return printList(c, all, head, func(e api.EmergencyInfo) []string {
		source := "-"
		if e.Record.Source.IsValid() {
			source = e.Record.Source.String()
		}
		return []string{
			when(e.Record.Time), string(e.Record.Event), e.Name, e.Record.Service, e.Record.Port.String(),
			source, e.Record.Key.String(), strconv.FormatUint(e.Record.Counter, 10),
		}
	})
}
