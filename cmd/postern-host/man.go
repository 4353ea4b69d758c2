package main

import (
	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
)

func (p program) man() *cli.Command {
	return cmdline.Man(p.app, manual(), p.out, func(err error) error { return usageError{err} })
}

// manual is what the manual pages say besides the help.
func manual() cmdline.Manual {
	return cmdline.Manual{
		Section: 8,
		Variables: []cmdline.Entry{
			{Term: "NO_COLOR", Text: "when it is set to anything, doctor uses no colours; nor does it elsewhere than on a terminal"},
		},
		Files: []cmdline.Entry{
			{Term: "/etc/postern/host.toml", Text: "the configuration; serve --check prints it with all defaults"},
			{Term: "/var/lib/postern-host", Text: "the identity, the emergency keys' halves that stay on the host, the record of protection"},
			{Term: "/var/lib/postern-host/last-good.json", Text: "state and table for a boot whose configuration cannot be used"},
		},
		SeeAlso: []string{"postern(1)", "postern-controller(8)", "nft(8)", "systemctl(1)"},
	}
}
