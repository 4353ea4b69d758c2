package main

import (
	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
)

func serviceCommand() *cli.Command {
	return &cli.Command{
		Name:         "service",
		Usage:        "what can be reached behind hosts",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "add a service of a host", ArgsUsage: "NAME",
				UsageText: "postern-controller service add NAME --host HOST --target IP:PORT [--json]",
				Description: `The target is what the host's agent dials, most often on the host itself.

Example:
  $ postern-controller service add ssh --host web --target 127.0.0.1:22`,
				OnUsageError: asUsage, Action: serviceAdd,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "host", Usage: "name of the `HOST` it is behind"},
					&cli.StringFlag{Name: "target", Usage: "`IP:PORT` that the host dials"},
					jsonFlag(),
				},
			},
			{
				Name: "list", Usage: "list the services", UsageText: "postern-controller service list [--json]",
				OnUsageError: asUsage, Action: serviceList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "remove", Usage: "remove a service and end its sessions", ArgsUsage: "NAME",
				UsageText:    "postern-controller service remove NAME [--json]",
				OnUsageError: asUsage, Action: serviceRemove, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func serviceAdd(c *cli.Context) error {
	if c.String("host") == "" || c.String("target") == "" {
		return usagef("--host and --target are needed")
	}
	name, a, err := nameArgument(c)
	if err != nil {
		return err
	}
	s, err := a.AddService(c.Context, api.ServiceRequest{
		Name: name, Host: c.String("host"), Target: c.String("target"),
	})
	if err != nil {
		return err
	}
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, s)
	}
	say(c, "service %s added: %s on host %s", s.Name, s.Target, s.Host)
	say(c, "next: postern-controller grant add USER %s", s.Name)
	return nil
}

func serviceList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	services, err := a.AllServices(c.Context)
	if err != nil {
		return err
	}
	return printList(c, services, "NAME HOST TARGET ONLINE", func(s api.ServiceInfo) []string {
		return []string{s.Name, s.Host, s.Target, yes(s.Online)}
	})
}

func serviceRemove(c *cli.Context) error {
	name, a, err := nameArgument(c)
	if err != nil {
		return err
	}
	cut, err := a.RemoveService(c.Context, name)
	if err != nil {
		return err
	}
	return sayCut(c, cut, "service %s removed", name)
}
