package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/daemon"
	"github.com/postern-sdp/postern/internal/version"
	"github.com/postern-sdp/postern/spa/listen"
)

func configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Value: host.DefaultConfig, EnvVars: []string{"POSTERN_HOST_CONFIG"},
		Usage: "configuration `FILE`; without the default one, the defaults hold",
	}
}

// settings reads the configuration that the command line names.
func settings(c *cli.Context) (host.Settings, error) {
	path := c.String("config")
	s, err := host.LoadSettings(path)
	if errors.Is(err, fs.ErrNotExist) && !c.IsSet("config") {
		return host.Defaults(), nil
	}
	if err != nil {
		return host.Settings{}, usageError{hintError{err, "configs/host.toml has every key with its " +
			"default and what it means"}}
	}
	return s, nil
}

// configPath is where the command line's configuration is, or would be.
func configPath(c *cli.Context) string {
	path := c.String("config")
	if whole, err := filepath.Abs(path); err == nil {
		return whole
	}
	return path
}

func (p program) serve() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "run the agent",
		UsageText: "postern-host serve [--config FILE] [--check]",
		Description: `Puts the rules in force that protect and confirm decided on, in nftables or in
iptables, in which nothing is open but what [[keep]] rules let in, connects to the
controller, and serves its sessions until SIGTERM or SIGINT. The rules stay when the
agent ends: the machine stays dark. SIGHUP reads the configuration again: keep rules
and log_level hold at once, a log line names what waits for a restart, and a file with
a fault changes nothing. protect and confirm have the keep rules read again, too.

Without a decision it installs nothing: run postern-host protect, which keeps your own
address open while it is on trial.

Needs CAP_NET_ADMIN for the firewall and CAP_NET_RAW for tunnel.capture: run it
as root, or give them with systemd's AmbientCapabilities=.

   $ postern-host serve --check
   $ postern-host serve --config /etc/postern/host.toml`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.BoolFlag{Name: "check", Usage: "print the resolved configuration, touch nothing and end"},
		},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			if c.Args().Present() {
				return usageError{fmt.Errorf("serve: takes no argument, got %q", c.Args().First())}
			}
			if c.Bool("check") {
				return printSettings(p.out, s)
			}
			return p.serveWith(c, s)
		},
	}
}

func (p program) serveWith(c *cli.Context, s host.Settings) error {
	if err := s.CheckRights(); err != nil {
		return err
	}
	level := new(slog.LevelVar)
	if err := setLevel(level, s); err != nil {
		return usageError{err}
	}
	a := &attendant{
		settings: func() (host.Settings, error) { return settings(c) },
		level:    level, metrics: s.Metrics, log: daemon.Logger(p.talk, level),
		ready: make(chan *host.Running, 1),
	}
	cfg := host.Config{
		Settings: s, Version: version.Version, File: configPath(c), Log: a.log, Reread: a.settings,
		Ready: func(r *host.Running) { a.ready <- r },
	}
	//
	// ─── Above this line nothing on the machine was touched. ───────────────────────
	//
	fw, choice, err := openFirewall(c.Context, s, cfg.Log)
	if err != nil {
		return err
	}
	if fw != nil {
		defer fw.Close()
		cfg.Firewall = fw
		cfg.Protection = &protect.Store{Folder: s.State}
	}
	noteGood(s, cfg.Log)
	cfg.Backend = string(choice.Variant)
	err = a.run(c.Context, func(ctx context.Context) error { return host.Run(ctx, cfg) })
	if errors.Is(err, control.ErrNotEnrolled) {
		return hintError{err, "postern-host enroll @FILE, with a token from the controller"}
	}
	return err
}

// isMissingRight reports whether the kernel refused something for want of a capability.
func isMissingRight(err error) bool {
	return errors.Is(err, firewall.ErrPermission) || errors.Is(err, listen.ErrPermission) ||
		errors.Is(err, syscall.EACCES) && errors.Is(err, host.ErrBind)
}

// printSettings prints s as the file that gives it.
func printSettings(w io.Writer, s host.Settings) error {
	var b strings.Builder
	line := func(key, value string) { fmt.Fprintf(&b, "%s = %s\n", key, value) }
	line("state", strconv.Quote(s.State))
	line("status_socket", strconv.Quote(s.StatusSocket))
	line("log_level", strconv.Quote(s.LogLevel))
	line("metrics", strconv.Quote(s.Metrics))
	b.WriteString("\n[tunnel]\n")
	line("listen", strconv.Quote(s.Tunnel.Listen))
	line("advertise", list(s.Tunnel.Advertise))
	line("capture", strconv.FormatBool(s.Tunnel.Capture))
	line("interfaces", list(s.Tunnel.Interfaces))
	b.WriteString("\n[firewall]\n")
	line("backend", strconv.Quote(s.Firewall.Backend))
	line("table", strconv.Quote(s.Firewall.Table))
	line("inside", list(s.Firewall.Inside))
	b.WriteString("\n[gateway]\n")
	line("networks", list(s.Gateway.Networks))
	b.WriteString("\n[emergency]\n")
	line("only_when_alone", strconv.Quote(time.Duration(s.Emergency.OnlyWhenAlone).String()))
	for _, k := range s.Keep {
		b.WriteString("\n[[keep]]\n")
		for _, v := range []struct{ key, value string }{
			{"source", k.Source}, {"interface", k.Interface}, {"until", k.Until},
		} {
			if v.value != "" {
				line(v.key, strconv.Quote(v.value))
			}
		}
		line("ports", list(k.Ports))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func list(items []string) string {
	quoted := make([]string, 0, len(items))
	for _, i := range items {
		quoted = append(quoted, strconv.Quote(i))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
