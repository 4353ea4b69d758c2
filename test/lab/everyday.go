package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Ports of the host's everyday services, all on its loopback.
const (
	webServerPort = 80
	databasePort  = 5432
	namesPort     = 53
	logPort       = 514
	moshPort      = 60001
)

// Everyday is a host with the services of every day behind Postern (sshd with git
// repositories, PostgreSQL, nginx, dnsmasq, a receiver of syslog), and a client that
// uses them with the programs of every day, while a stranger, and the client's
// neighbour behind the same NAT, probe the host without a pause.
type Everyday struct {
	*Lab

	others   onlookers
	daemons  []*Process
	logged   *mailbox
	password string // of the database's
}

// NewEveryday starts the system and the services on a standing lab and begins to
// probe the host. Close ends the probing; what runs in the lab ends with the lab.
func NewEveryday(ctx context.Context, l *Lab) (*Everyday, error) {
	e := &Everyday{Lab: l}
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the folders", e.makeFolders},
		{"the system", l.StartSystem},
		{"the database", e.startDatabase},
		{"the web server", e.startWeb},
		{"the name server", e.startNames},
		{"the receiver of log lines", e.startLogs},
		{"the services", e.addServices},
		{"ssh's configuration", e.installSSHConfig},
	} {
		if err := s.do(ctx); err != nil {
			return nil, fmt.Errorf("set up %s: %w", s.what, err)
		}
	}
	ports := []uint16{22, webServerPort, databasePort, namesPort, logPort, moshPort, tunnelPort}
	var err error
	e.others, err = l.onlook(ports, HostV4, HostV6)
	return e, err
}

// Close ends the probing.
func (e *Everyday) Close() error { return e.others.Close() }

// Log is what the probing saw, phase by phase, and the ends of the services' logs.
func (e *Everyday) Log() string {
	logs := []string{e.others.Log()}
	for _, p := range e.daemons {
		logs = append(logs, "== "+p.name, p.Log())
	}
	return strings.Join(logs, "\n")
}

// Folders of the lab's folder that the steps work in.
const (
	atClient = "at-client" // files of the person's
	atHost   = "at-host"   // files of the host's
)

func (e *Everyday) makeFolders(context.Context) error {
	for _, name := range []string{atClient, atHost} {
		if err := os.MkdirAll(e.path(name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (e *Everyday) addServices(ctx context.Context) error {
	for _, s := range []struct {
		name string
		port int
		udp  bool
	}{
		{"web", webServerPort, false},
		{"db", databasePort, false},
		{"names", namesPort, true},
		{"names-tcp", namesPort, false},
		{"log", logPort, true},
		{"mosh", moshPort, true},
	} {
		add := []string{"service", "add", "--host", "host1", "--target", fmt.Sprintf("127.0.0.1:%d", s.port)}
		if s.udp {
			add = append(add, "--udp")
		}
		for _, args := range [][]string{append(add, s.name), {"grant", "add", "--for", "1h", "alice", s.name}} {
			if _, err := e.Admin(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// use runs one of the person's programs on the client to its end and returns what
// it wrote to its standard output.
func (e *Everyday) use(ctx context.Context, program string, args ...string) (string, error) {
	return e.useWith(ctx, nil, nil, program, args...)
}

// useWith is use with a standard input and more of an environment.
func (e *Everyday) useWith(ctx context.Context, in io.Reader, env []string, program string, args ...string,
) (string, error) {
	cmd := e.command(ctx, program, args...)
	cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+e.ConfigHome("client"), "LC_ALL=C.UTF-8", "TERM=xterm",
		"POSTERN_NO_AGENT=0")
	cmd.Env = append(cmd.Env, env...)
	return e.runCommand(cmd, in, "client")
}

// step is a Step in which nobody else may get an answer from the host.
func (e *Everyday) step(name string, run func(context.Context) (string, error)) Step {
	return Step{name, func(ctx context.Context, _ *Lab) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		e.others.dark(name)
		evidence, err := run(ctx)
		seen, fault := e.others.sees(0)
		e.others.dark("between steps")
		return evidence + "; " + seen, errors.Join(err, fault, e.others.faults())
	}}
}
