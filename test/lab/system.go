package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Ports of the lab's daemons: the defaults.
const (
	knockPort   = 4040
	controlPort = 4041
	tunnelPort  = 4042
	bulkPort    = 7000
	helloPort   = 7001
)

// hostTable is what the agent's rules and sets are called: the default.
const hostTable = "postern"

// people are who enrols a device in the lab, by machine; alice where it is not here.
var people = map[string]string{"client": "alice", "roamer": "bob"}

func (l *Lab) path(parts ...string) string {
	return filepath.Join(append([]string{l.Dir}, parts...)...)
}

// ConfigHome is the folder of one machine's client (XDG_CONFIG_HOME).
func (l *Lab) ConfigHome(who string) string { return l.path("clients", who) }

// StartSystem starts everything on a standing network: sshd, the controller, the
// host's agent, and two enrolled clients.
func (l *Lab) StartSystem(ctx context.Context) error {
	if err := l.writeSettings(); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	if err := l.startSSHD(ctx); err != nil {
		return fmt.Errorf("start sshd: %w", err)
	}
	if err := l.startSources(); err != nil {
		return fmt.Errorf("start the services: %w", err)
	}
	if err := l.startController(ctx); err != nil {
		return fmt.Errorf("start the controller: %w", err)
	}
	if err := l.enrolHost(ctx); err != nil {
		return fmt.Errorf("enrol the host: %w", err)
	}
	if err := l.protectHost(ctx); err != nil {
		return fmt.Errorf("protect the host: %w", err)
	}
	if err := l.StartHost(ctx); err != nil {
		return fmt.Errorf("start the host's agent: %w", err)
	}
	if err := l.configure(ctx); err != nil {
		return fmt.Errorf("set up services and grants: %w", err)
	}
	for who := range people {
		if err := l.enrolClient(ctx, who); err != nil {
			return fmt.Errorf("enrol %s: %w", who, err)
		}
	}
	return nil
}

// writeSettings writes the daemons' configuration.
func (l *Lab) writeSettings() error {
	host := hostConfig + l.HostSettings
	if l.Backend != "" {
		host += fmt.Sprintf("\n[firewall]\nbackend = %q\n", l.Backend)
	}
	for name, text := range map[string]string{"host": host, "controller": controllerConfig} {
		if err := os.MkdirAll(l.path(name), 0o700); err != nil {
			return err
		}
		text = strings.NewReplacer("DIR", l.path(name), "LEVEL", cmp.Or(l.LogLevel, "debug")).Replace(text)
		if err := os.WriteFile(l.path(name, name+".toml"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const controllerConfig = `name = "lab.example"
state = "DIR/state"
admin_socket = "DIR/admin.sock"
log_level = "LEVEL"

[knock]
source = "capture"
advertise = ["198.51.100.20:4040", "[2001:db8:1::20]:4040"]

[control]
advertise = ["198.51.100.20:4041", "[2001:db8:1::20]:4041"]
`

const hostConfig = `state = "DIR/state"
status_socket = "DIR/status.sock"
log_level = "LEVEL"

[tunnel]
advertise = ["198.51.100.30:4042", "[2001:db8:1::30]:4042"]
`

// Admin runs a command of the administrator on the controller.
func (l *Lab) Admin(ctx context.Context, args ...string) (string, error) {
	return l.Run(ctx, "controller", "postern-controller",
		append([]string{"--config", l.path("controller", "controller.toml")}, args...)...)
}

func (l *Lab) startController(ctx context.Context) error {
	if _, err := l.Admin(ctx, "init"); err != nil {
		return err
	}
	return l.StartController(ctx)
}

// StartController starts the daemon on the state that is there.
func (l *Lab) StartController(ctx context.Context) error {
	var err error
	l.controller, err = l.Start("controller", "postern-controller",
		"--config", l.path("controller", "controller.toml"), "serve")
	if err != nil {
		return err
	}
	return Wait(ctx, 10*time.Second, "the controller to answer its administrator", func() (bool, error) {
		if !l.controller.Running() {
			return false, fmt.Errorf("it ended: %s", l.controller.Log())
		}
		_, err := l.Admin(ctx, "status", "--json")
		return err == nil, err
	})
}

// token makes a join token and returns its text.
func (l *Lab) token(ctx context.Context, args ...string) (string, error) {
	out, err := l.Admin(ctx, append([]string{"token", "create", "--json"}, args...)...)
	if err != nil {
		return "", err
	}
	var made struct {
		Token string `json:"join_token"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return "", fmt.Errorf("token create printed no JSON: %w", err)
	}
	if !strings.HasPrefix(made.Token, "postern-join:") {
		return "", errors.New("token create printed no join token")
	}
	return made.Token, nil
}

func (l *Lab) enrolHost(ctx context.Context) error {
	token, err := l.token(ctx, "--role", "host", "--name", "host1")
	if err != nil {
		return err
	}
	_, err = l.RunInput(ctx, strings.NewReader(token+"\n"), "host", "postern-host", "enroll",
		"--config", l.path("host", "host.toml"), "-")
	return err
}

// protectHost puts the host's rules in force for good: nobody can be locked out of
// the lab.
func (l *Lab) protectHost(ctx context.Context) error {
	_, err := l.Run(ctx, "host", "postern-host", "protect", "--now", "--yes",
		"--config", l.path("host", "host.toml"))
	return err
}

// StartHost starts the host's agent and waits until the controller sees it.
func (l *Lab) StartHost(ctx context.Context) error {
	return l.startHost(ctx, func() (*Process, error) {
		return l.Start("host", "postern-host", "serve", "--config", l.path("host", "host.toml"))
	})
}

func (l *Lab) startHost(ctx context.Context, start func() (*Process, error)) error {
	var err error
	begun := time.Now()
	if l.host, err = start(); err != nil {
		return err
	}
	return Wait(ctx, 15*time.Second, "the host to be online", func() (bool, error) {
		if !l.host.Running() {
			return false, fmt.Errorf("it ended: %s", l.host.Log())
		}
		return l.hostOnline(ctx, begun)
	})
}

// hostOnline reports whether the agent has connected since a time: a controller
// does not know of a killed one before its connection has been idle for a while.
func (l *Lab) hostOnline(ctx context.Context, since time.Time) (bool, error) {
	out, err := l.Admin(ctx, "host", "list", "--json")
	if err != nil {
		return false, err
	}
	var hosts []struct {
		Name   string    `json:"name"`
		Online bool      `json:"online"`
		Since  time.Time `json:"since"`
	}
	if err := json.Unmarshal([]byte(out), &hosts); err != nil {
		return false, err
	}
	for _, h := range hosts {
		if h.Name == "host1" && h.Online && h.Since.After(since) {
			return true, nil
		}
	}
	return false, nil
}

func (l *Lab) configure(ctx context.Context) error {
	for _, args := range [][]string{
		{"service", "add", "--host", "host1", "--target", "127.0.0.1:22", "ssh-lab"},
		{"service", "add", "--host", "host1", "--target", fmt.Sprintf("127.0.0.1:%d", bulkPort), "bulk"},
		{"service", "add", "--host", "host1", "--target", fmt.Sprintf("127.0.0.1:%d", helloPort), "hello"},
		{"service", "add", "--host", "host1", "--target", "127.0.0.1:23", "secret"},
		{"grant", "add", "--for", "1h", "alice", "ssh-lab"},
		{"grant", "add", "--for", "1h", "alice", "bulk"},
		{"grant", "add", "--for", "1h", "alice", "hello"},
		{"grant", "add", "--for", "1h", "bob", "ssh-lab"},
	} {
		if _, err := l.Admin(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) enrolClient(ctx context.Context, who string) error {
	token, err := l.token(ctx, "--role", "client", "--user", cmp.Or(people[who], "alice"), "--name", who)
	if err != nil {
		return err
	}
	_, err = l.postern(ctx, who, strings.NewReader(token+"\n"), "enroll", "-")
	return err
}

// Session is what `session list --json` tells.
type Session struct {
	ID      string     `json:"id"`
	Device  string     `json:"device_name"`
	Service string     `json:"service"`
	Source  netip.Addr `json:"source"`
}

// Sessions lists the live sessions, as the administrator sees them.
func (l *Lab) Sessions(ctx context.Context) ([]Session, error) {
	out, err := l.Admin(ctx, "session", "list", "--json")
	if err != nil {
		return nil, err
	}
	var sessions []Session
	if err := json.Unmarshal([]byte(out), &sessions); err != nil {
		return nil, fmt.Errorf("session list printed no JSON: %w", err)
	}
	return sessions, nil
}
