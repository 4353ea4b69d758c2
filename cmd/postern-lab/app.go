package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/version"
	"github.com/postern-sdp/postern/test/lab"
)

// app is the command line: stdout is for what was asked, the rest goes to stderr.
func app(out io.Writer) *cli.App {
	return &cli.App{
		Name:    "postern-lab",
		Usage:   "a small internet on this machine, with Postern running on it",
		Version: version.Version,
		Description: "Builds network namespaces (stranger, client, its neighbour behind the same NAT, a client\n" +
			"behind a NAT that shows two addresses, controller, host), starts the real daemons and a\n" +
			"real sshd in them, and shows what holds. Needs root.\n\n" +
			"  # postern-lab demo\n" +
			"  # postern-lab up && postern-lab shell client",
		Writer: out, ErrWriter: os.Stderr, EnableBashCompletion: true, HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "prefix", Value: "postern", Usage: "first part of the namespaces' `NAME`s"},
			&cli.StringFlag{Name: "bin", Usage: "`FOLDER` of the built commands (default: this one's)"},
		},
		Commands: []*cli.Command{
			{Name: "demo", Usage: "build everything, show every promise, take everything down", Action: demo},
			{
				Name: "remote", Usage: "protect a server with ufw and a container on it, from the package's installation to its purge",
				Action: remote, Flags: []cli.Flag{backend(), &cli.StringFlag{
					Name: "package", Usage: "`FILE` of the host agent's .deb (default: the newest in dist)",
				}},
			},
			{
				Name: "gateway", Usage: "reach a machine behind a host, which nobody else reaches",
				Action: gateway, Flags: []cli.Flag{backend()},
			},
			{
				Name: "everyday", Usage: "use ssh, git, psql, curl and others through Postern, nobody else being answered",
				Action: everyday,
			},
			{
				Name: "roam", Usage: "change a client's path during transfers, and measure what they feel of it",
				Action: roam,
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "times", Value: 1, Usage: "`NUMBER` of rounds through all changes"},
					&cli.StringFlag{Name: "only", Usage: "make only the changes whose name has `TEXT` in it"},
					&cli.DurationFlag{Name: "rtt", Value: 40 * time.Millisecond, Usage: "`TIME` of a round trip to the host"},
					&cli.DurationFlag{Name: "sleep", Value: 3 * time.Second, Usage: "`TIME` for which the client sleeps"},
				},
			},
			{Name: "up", Usage: "leave the lab standing, to play with", Action: up},
			{
				Name: "shell", Usage: "open a shell on one of the lab's machines", ArgsUsage: "NAME",
				Description: "NAME is one of: " + strings.Join(lab.Machines(), ", "), Action: shell,
			},
			{Name: "down", Usage: "take the lab down", Action: down},
		},
	}
}

func backend() cli.Flag {
	return &cli.StringFlag{
		Name: "backend", Value: "nftables", Usage: "firewall.backend of the host: nftables, iptables or auto",
	}
}

// labOf returns the lab that the flags describe.
func labOf(c *cli.Context, attached bool) (*lab.Lab, error) {
	bin := c.String("bin")
	if bin == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the folder of this command: %w", err)
		}
		bin = filepath.Dir(self)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, fmt.Errorf("find the folder of the commands: %w", err)
	}
	for _, name := range []string{"postern", "postern-controller", "postern-host"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("%s is not in %s: run `make build`, or name the folder with --bin", name, bin)
		}
	}
	dir := filepath.Join(os.TempDir(), c.String("prefix")+"-lab")
	return &lab.Lab{Prefix: c.String("prefix"), Bin: bin, Dir: dir, Attached: attached}, nil
}

func up(c *cli.Context) error {
	l, err := labOf(c, false)
	if err != nil {
		return err
	}
	if err := lab.Up(l); err != nil {
		return err
	}
	if err := l.StartSystem(c.Context); err != nil {
		return fmt.Errorf("%w\n%s\nhint: postern-lab down", err, l.Logs())
	}
	_, err = fmt.Fprintf(c.App.Writer, `the lab stands; its files are in %[1]s
  postern-lab shell client      then: postern services; postern connect ssh-lab
  postern-lab shell stranger    then: try to find 198.51.100.30
  postern-lab shell controller  then: postern-controller --config %[1]s/controller/controller.toml session list
  postern-lab down              takes it down
`, l.Dir)
	return err
}

func shell(c *cli.Context) error {
	if c.NArg() != 1 || !slices.Contains(lab.Machines(), c.Args().First()) {
		return fmt.Errorf("usage: postern-lab shell NAME, where NAME is one of %s", strings.Join(lab.Machines(), ", "))
	}
	l, err := labOf(c, true)
	if err != nil {
		return err
	}
	if !l.Standing() {
		return fmt.Errorf("no lab stands: run postern-lab up first")
	}
	return l.Shell(c.Context, c.Args().First())
}

func down(c *cli.Context) error {
	l, err := labOf(c, true)
	if err != nil {
		return err
	}
	return l.Down()
}
