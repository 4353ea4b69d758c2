package main

import (
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
)

func deviceCommand() *cli.Command {
	return &cli.Command{
		Name:         "device",
		Usage:        "enrolled client machines",
		UsageText:    "postern-controller device list|revoke [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the devices", UsageText: "postern-controller device list [--json]",
				Description:  "  $ postern-controller device list",
				OnUsageError: asUsage, Action: deviceList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "revoke", Usage: "end a device's identity, its sessions and its connections",
				ArgsUsage: "NAME|ID", UsageText: "postern-controller device revoke NAME|ID [--json]",
				Description: `From then on the device's knocks are met with silence. What it had open is cut at once.

Example:
  $ postern-controller device revoke anas-laptop`,
				OnUsageError: asUsage, Action: deviceRevoke, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func deviceList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	devices, err := a.Devices(c.Context)
	if err != nil {
		return err
	}
	return printList(c, devices, "NAME USER ID ENROLLED REVOKED SESSIONS", func(d api.DeviceInfo) []string {
		return []string{
			d.Name, d.User, d.ID.String(), when(d.Created), yes(d.Revoked), strconv.Itoa(d.Sessions),
		}
	})
}

func deviceRevoke(c *cli.Context) error {
	name, a, err := nameArgument(c)
	if err != nil {
		return err
	}
	cut, err := a.RevokeDevice(c.Context, name)
	if err != nil {
		return err
	}
	return sayCut(c, cut, "device %s revoked", name)
}
