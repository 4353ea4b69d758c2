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
		Section: 1,
		Files: []cmdline.Entry{
			{Term: "~/.config/postern", Text: "the default profile's identity: certificate, key, knock secret; private to you " +
				"(on macOS in ~/Library/Application Support, on Windows in %AppData%)"},
			{Term: "~/.config/postern/profiles/NAME", Text: "the identities of the other profiles"},
			{Term: "~/.config/postern/profile", Text: "the name of the profile in use"},
			{Term: "services.json", Text: "beside an identity: the services that were listed last, for completion"},
		},
		SeeAlso: []string{"ssh(1)", "postern-host(8)", "postern-controller(8)"},
	}
}
