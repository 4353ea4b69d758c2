package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
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

Names under .postern.internal always work; bare names of services that you are granted
later come by themselves, when postern services or another command has asked. A name
that means something to ssh already, by your configuration or the system's, stays yours.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "install", Usage: "write the file, and the line that includes it"},
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
	install := c.Bool("install")
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
	config, err := p.sshText(c, files)
	if err != nil {
		return err
	}
	reached := slices.DeleteFunc(slices.Clone(config.Services), func(s string) bool { return slices.Contains(config.Left, s) })
	if !install && c.Bool("json") {
		return p.printJSON(sshInstalled{files.Config, files.Postern, false, reached, config.Left, config.String()})
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
		return p.printJSON(sshInstalled{files.Config, files.Postern, changed, reached, config.Left, ""})
	}
	p.sayf("ssh reaches %s by name: %s", plural(len(reached), "service"), files.Postern)
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
	Left     []string `json:"left_to_you,omitempty"` // names that ssh knows without Postern
	Text     string   `json:"text,omitempty"`        // what would be written
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

// sshText gathers what the file is to say.
func (p program) sshText(c *cli.Context, files sshconfig.Files) (sshconfig.Config, error) {
	command, err := carrier(c)
	if err != nil {
		return sshconfig.Config{}, err
	}
	device, err := open(c)
	if err != nil {
		return sshconfig.Config{}, err
	}
	stop := p.waiting(controllersAnswer)
	found, err := device.Services(c.Context)
	stop()
	if err != nil {
		if !isSilence(err) && !errors.Is(err, client.ErrNoControl) {
			return sshconfig.Config{}, explain(device, err)
		}
		known, _ := client.CachedServices(device.Status().Folder) // none where nobody has asked yet
		found = known.Services
		p.sayf("%v; these are the services of last time", err)
		p.hintf("others come when postern services can ask for them")
	}
	config := sshServices(found.Services)
	config.Command = sshconfig.Command(command, config.Windows)
	if c.Path("identity") != "" || c.String("profile") != "" {
		if config.Identity, err = filepath.Abs(device.Status().Folder); err != nil {
			return config, fmt.Errorf("find this device's identity: %w", err)
		}
	}
	if config, err = files.Settle(c.Context, config); err != nil {
		return config, err
	}
	if len(config.Left) > 0 {
		p.sayf("%s are known to ssh without Postern: those names stay yours", strings.Join(config.Left, ", "))
		p.hintf("the service is NAME.%s", client.Domain)
	}
	return config, nil
}

// sshServices are those services that ssh can have by their names.
func sshServices(services []client.Service) sshconfig.Config {
	config := sshconfig.Config{Domain: client.Domain, Windows: runtime.GOOS == "windows", Services: []string{}}
	for _, s := range services {
		if s.Access.Resolved().Transport == control.TransportTCP && safeName.MatchString(s.Name) {
			config.Services = append(config.Services, s.Name)
		}
	}
	return config
}

// list asks the controller what there is, for commands that are told of ssh's file too.
func (p program) list(ctx context.Context, device *client.Client) (client.Services, error) {
	found, err := device.Services(ctx)
	if err == nil {
		p.refreshSSH(ctx, device, found.Services)
	}
	return found, err
}

// refreshSSH has ssh know the services, where ssh-config was installed for this
// identity. It is a favour: what goes wrong is said, and ends nothing.
func (p program) refreshSSH(ctx context.Context, device *client.Client, services []client.Service) {
	files, ours := sshFiles(device)
	if !ours {
		return
	}
	changed, err := files.Refresh(ctx, sshServices(services))
	if err != nil {
		p.sayf("%v", err)
	} else if changed {
		p.sayf("ssh knows your present services: %s", files.Postern)
	}
}

// sshFiles returns ssh's usual files, and whether ours is there for this identity.
func sshFiles(device *client.Client) (files sshconfig.Files, ours bool) {
	files, err := sshconfig.Default()
	if err != nil {
		return files, false
	}
	bound, installed := files.Bound()
	if installed && bound == "" {
		bound, err = identityInUse()
	}
	folder, wrong := filepath.Abs(device.Status().Folder)
	return files, installed && err == nil && wrong == nil && bound == folder
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
