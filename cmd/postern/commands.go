package main

import "github.com/urfave/cli/v2"

// commands are all of them, in the order of the help.
func (p program) commands() []*cli.Command {
	return []*cli.Command{
		p.enroll(),
		p.services(),
		p.ssh(),
		p.sshConfig(),
		p.connect(),
		p.up(),
		p.service(),
		p.proxy(),
		p.exec(),
		p.knock(),
		p.status(),
		p.doctor(),
		p.agent(),
		p.profile(),
		p.emergency(),
		p.version(),
		p.completion(),
		p.man(),
	}
}
