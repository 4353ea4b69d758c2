package main

import (
	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
)

func serviceCommand() *cli.Command {
	return &cli.Command{
		Name:         "service",
		Usage:        "what can be reached behind hosts",
		UsageText:    "postern-controller service add|list|remove [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "add a service of a host", ArgsUsage: "NAME",
				UsageText: "postern-controller service add NAME --host HOST --target IP:PORT [--mode MODE] [--udp] " +
					"[--bind BINDING] [--listed] [--json]",
				Description: `The mode says how clients reach the service: through a tunnel to the host itself
(the default); through a tunnel to another machine behind it (gateway, which the host
has to allow: its [gateway] networks); or direct, in which the host opens the service's
own port to the client's address, and clients need nothing but a knock.

Who has no grant for a service does not learn that it exists, unless it is --listed:
postern services then names it, and says that it is not granted.

Example:
  $ postern-controller service add ssh --host web --target 127.0.0.1:22
  $ postern-controller service add db --host web --target :5432 --mode direct
  $ postern-controller service add printer --host web --target 10.0.0.9:631 --mode gateway`,
				OnUsageError: asUsage, Action: serviceAdd,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "host", Usage: "name of the `HOST` it is behind"},
					&cli.StringFlag{Name: "target", Usage: "`IP:PORT` that the host dials; :PORT with --mode direct"},
					&cli.StringFlag{Name: "mode", Value: string(control.ModeTunnel), Usage: "`MODE`: tunnel, direct or gateway"},
					&cli.BoolFlag{Name: "udp", Usage: "the service speaks UDP"},
					&cli.StringFlag{Name: "bind", Usage: "`BINDING`, whom an opening lets in: address, any port of the client's address, " +
						"or exact, the one port (default: exact; address with --mode direct)"},
					&cli.BoolFlag{Name: "listed", Usage: "tell people who may not reach it that it is there"},
					jsonFlag(),
				},
			},
			{
				Name: "list", Usage: "list the services", UsageText: "postern-controller service list [--json]",
				Description:  "  $ postern-controller service list",
				OnUsageError: asUsage, Action: serviceList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "remove", Usage: "remove a service and end its sessions", ArgsUsage: "NAME",
				UsageText:    "postern-controller service remove NAME [--json]",
				Description:  "  $ postern-controller service remove ssh",
				OnUsageError: asUsage, Action: serviceRemove, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func serviceAdd(c *cli.Context) error {
	if c.String("host") == "" || c.String("target") == "" {
		return usagef("--host and --target are needed")
	}
	access := control.Access{Mode: control.Mode(c.String("mode")), Binding: control.Binding(c.String("bind"))}
	if c.Bool("udp") {
		access.Transport = control.TransportUDP
	}
	if err := access.Validate(); err != nil {
		return usagef("%v", err)
	}
	name, a, err := nameArgument(c)
	if err != nil {
		return err
	}
	s, err := a.AddService(c.Context, api.ServiceRequest{
		Name: name, Host: c.String("host"), Target: c.String("target"), Access: access, Listed: c.Bool("listed"),
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
	return printList(c, services, "NAME HOST MODE PROTOCOL TARGET ONLINE", func(s api.ServiceInfo) []string {
		return []string{s.Name, s.Host, string(s.Mode), string(s.Transport), s.Target, yes(s.Online)}
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
