package main

import (
	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
)

func manCommand(s streams) *cli.Command {
	return cmdline.Man(func() *cli.App { return newApp(s) }, manual(), s.out,
		func(err error) error { return usageError{err} })
}

// manual is what the manual pages say besides the help.
func manual() cmdline.Manual {
	return cmdline.Manual{
		Section: 8,
		Variables: []cmdline.Entry{
			{Term: "NO_COLOR", Text: "when it is set to anything, QR codes are drawn without colours, for dark backgrounds; " +
				"so they are elsewhere than on a terminal"},
		},
		Files: []cmdline.Entry{
			{Term: "/etc/postern/controller.toml", Text: "the configuration; serve --check prints it with all defaults"},
			{Term: "/var/lib/postern-controller", Text: "keys, the authority, devices, hosts, services and grants: keep a copy"},
			{Term: "/var/lib/postern-controller/last-good.json", Text: "the table for a boot whose configuration cannot be used"},
		},
		SeeAlso: []string{"postern(1)", "postern-host(8)", "systemctl(1)"},
	}
}
