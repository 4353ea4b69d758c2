package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/sshconfig"
)

// sshWithValue are the options of ssh(1) that have a value.
const sshWithValue = "BbcDEeFIiJLlmOoPpQRSWw"

func (p program) ssh() *cli.Command {
	return &cli.Command{
		Name:      "ssh",
		Usage:     "log in to a service with ssh",
		ArgsUsage: "[USER@]SERVICE",
		UsageText: "postern ssh [SSH OPTION]... [USER@]SERVICE [COMMAND [ARGUMENT]...]",
		Description: `Runs the system's ssh, with all its options, through Postern. The host's key is
known by the service's name, and logins share one session (see postern agent). The
exit code is ssh's own.

   $ postern ssh me@web
   $ postern ssh -L 8080:localhost:80 me@web uptime

For plain ssh, scp, sftp, rsync, git and editors: postern ssh-config --install`,
		SkipFlagParsing: true,
		BashComplete:    p.completeService,
		Action:          p.runSSH,
	}
}

func (p program) runSSH(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		if err := cli.ShowSubcommandHelp(c); err != nil || len(args) > 0 {
			return err
		}
		return usagef("ssh: service is missing")
	}
	path, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("find ssh: %w: install OpenSSH's client", err)
	}
	command, err := carrier(c)
	if err != nil {
		return err
	}
	var options []string
	if service := destination(args); service != "" {
		// ssh hands the command to a shell.
		if service = client.ServiceName(service); !safeName.MatchString(service) {
			return usagef("ssh: %q is no service's name", service)
		}
		proxy := sshconfig.Command(append(command, service), runtime.GOOS == "windows")
		options = []string{"-o", "ProxyCommand=" + proxy, "-o", "CheckHostIP=no",
			"-o", "HostKeyAlias=" + service + "." + client.Domain}
	}
	return p.become(path, append(options, args...))
}

// carrier is the command line of this program that carries one connection, for
// others to run.
func carrier(c *cli.Context) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	command := []string{self}
	if path := c.Path("identity"); path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("find this device's identity: %w", err)
		}
		command = append(command, "--identity", path)
	} else if name := c.String("profile"); name != "" {
		command = append(command, "--profile", name)
	}
	return append(command, "connect", "--stdio", "--"), nil
}

// destination returns the host in a command line of ssh's, "" when it has none.
func destination(args []string) string {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			return hostOf(a)
		}
		if a == "--" {
			if i+1 < len(args) {
				return hostOf(args[i+1])
			}
			return ""
		}
		// Options may be joined: -4Av, -p22. A value is the rest, or the next word.
		if at := strings.IndexAny(a[1:], sshWithValue); at == len(a)-2 {
			i++
		}
	}
	return ""
}

// hostOf takes "user@host" and "ssh://user@host:port".
func hostOf(destination string) string {
	uri, isURI := strings.CutPrefix(destination, "ssh://")
	if at := strings.LastIndexByte(uri, '@'); at >= 0 {
		uri = uri[at+1:]
	}
	if isURI {
		uri, _, _ = strings.Cut(uri, "/")
		uri, _, _ = strings.Cut(uri, ":")
	}
	return uri
}

// runFor runs a program with our standard input and outputs, and returns its exit
// code as an error.
func (p program) runFor(path string, args []string) error {
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.talk
	return p.runCommand(context.Background(), cmd)
}
