package main

import (
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
)

func hostCommand() *cli.Command {
	return &cli.Command{
		Name:         "host",
		Usage:        "enrolled hosts",
		UsageText:    "postern-controller host list|remove [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the hosts", UsageText: "postern-controller host list [--json]",
				Description:  "  $ postern-controller host list",
				OnUsageError: asUsage, Action: hostList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "remove", Usage: "end a host's identity; its services must be removed before",
				ArgsUsage: "NAME|ID", UsageText: "postern-controller host remove NAME|ID [--json]",
				Description: `Example:
  $ postern-controller host remove web`,
				OnUsageError: asUsage, Action: hostRemove, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func hostList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	hosts, err := a.Hosts(c.Context)
	if err != nil {
		return err
	}
	return printList(c, hosts, "NAME ID ONLINE SINCE ADDRESSES SESSIONS", func(h api.HostInfo) []string {
		addresses := "-"
		if len(h.Addresses) > 0 {
			addresses = fmt.Sprint(h.Addresses)
		}
		return []string{
			h.Name, h.ID.String(), yes(h.Online), when(h.Since), addresses, strconv.Itoa(h.Sessions),
		}
	})
}

func hostRemove(c *cli.Context) error {
	name, a, err := nameArgument(c)
	if err != nil {
		return err
	}
	cut, err := a.RemoveHost(c.Context, name)
	if err != nil {
		return err
	}
	return sayCut(c, cut, "host %s removed", name)
}
