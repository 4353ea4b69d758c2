package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/sshconfig"
	"github.com/postern-sdp/postern/internal/control"
)

func (p program) sshConfig() *cli.Command {
	return &cli.Command{
		Name:      "ssh-config",
		Usage:     "have plain ssh, scp, rsync and git go through Postern",
		UsageText: "postern ssh-config [--install | --uninstall] [--path FILE] [--json]",
		Description: `Prints what ssh must know to reach your services by their names, or installs it:
in a file of its own, ~/.ssh/postern.conf, which one line at the top of
~/.ssh/config includes. Nothing else there is touched. After that, ssh, scp, sftp,
rsync, git, Ansible and editors' remote modes work with every service's name.

   $ postern ssh-config --install
   $ ssh me@web
   $ rsync -a site/ me@web:/srv/site/
   $ git clone git@forge.postern.internal:project.git

Names under .postern.internal always work; for bare names of services that you were
granted since, install once more. A name that your configuration has a section for
stays yours.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "install", Usage: "write the file, and the line that includes it"},
			&cli.BoolFlag{Name: "refresh", Hidden: true, Usage: "the same as --install"},
			&cli.BoolFlag{Name: "uninstall", Usage: "take both away"},
			&cli.PathFlag{Name: "path", Usage: "ssh's configuration `FILE` (default: ~/.ssh/config)", TakesFile: true},
			jsonFlag(),
		},
		Action: p.runSSHConfig,
	}
}

func (p program) runSSHConfig(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	install := c.Bool("install") || c.Bool("refresh")
	if install && c.Bool("uninstall") {
		return usagef("ssh-config: --install or --uninstall, please")
	}
	files, err := sshconfig.Default()
	if path := c.Path("path"); path != "" {
		files, err = sshconfig.At(path), nil
	}
	if err != nil {
		return err
	}
	if c.Bool("uninstall") {
		return p.uninstallSSH(c, files)
	}
	config, taken, err := p.sshText(c, files)
	if err != nil {
		return err
	}
	if !install {
		_, err := io.WriteString(p.out, config.String())
		return err
	}
	changed, err := files.Install(config)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(sshInstalled{files.Config, files.Postern, changed, config.Services, taken})
	}
	p.sayf("ssh reaches %s by name: %s", plural(len(config.Services), "service"), files.Postern)
	if changed {
		p.sayf("%s includes it now, in its first line", files.Config)
	}
	return nil
}

type sshInstalled struct {
	Config   string   `json:"config"`
	Postern  string   `json:"postern"`
	Changed  bool     `json:"config_changed"`
	Services []string `json:"services"`
	Left     []string `json:"left_to_you,omitempty"` // names that the configuration has a section for
}

func (p program) uninstallSSH(c *cli.Context, files sshconfig.Files) error {
	changed, err := files.Uninstall()
	switch {
	case err != nil:
		return err
	case c.Bool("json"):
		return p.printJSON(sshInstalled{Config: files.Config, Postern: files.Postern, Changed: changed})
	case changed:
		p.sayf("ssh is as it was before")
	default:
		p.sayf("there was nothing to take away")
	}
	return nil
}

// safeName is what may stand in ssh's configuration, whatever a controller says.
var safeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// sshText gathers what the file is to say, and the names that are left to the person.
func (p program) sshText(c *cli.Context, files sshconfig.Files) (sshconfig.Config, []string, error) {
	command, err := carrier(c)
	if err != nil {
		return sshconfig.Config{}, nil, err
	}
	config := sshconfig.Config{Command: command, Domain: client.Domain, Windows: runtime.GOOS == "windows", Services: []string{}}
	device, err := open(c)
	if err != nil {
		return config, nil, err
	}
	found, err := device.Services(c.Context)
	if err != nil {
		if !isSilence(err) && !errors.Is(err, client.ErrNoControl) {
			return config, nil, explain(device, err)
		}
		p.sayf("%v", err)
		p.hintf("only names under .%s work until postern ssh-config --install can ask for your services", client.Domain)
	}
	for _, s := range found.Services {
		if s.Access.Resolved().Transport == control.TransportTCP && safeName.MatchString(s.Name) {
			config.Services = append(config.Services, s.Name)
		}
	}
	before, err := files.Read()
	if err != nil {
		return config, nil, err
	}
	taken := sshconfig.Taken(before, config.Services)
	if len(taken) > 0 {
		p.sayf("your configuration has sections of its own for %s: those names stay yours", strings.Join(taken, ", "))
		p.hintf("the service is NAME.%s", client.Domain)
	}
	config.Services = slices.DeleteFunc(config.Services, func(s string) bool { return slices.Contains(taken, s) })
	return config, taken, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
