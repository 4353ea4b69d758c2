package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/internal/daemon"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/internal/version"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "run the controller until it is told to end",
		UsageText: "postern-controller serve [--check]",
		Description: `Installs the firewall's rules, listens and serves in the foreground. SIGHUP reads the policy
file again; SIGINT and SIGTERM end it. While it runs, rules that somebody takes away come
back; they outlive the daemon, so that the door stays shut: postern-controller firewall
down takes them away then.

It needs CAP_NET_ADMIN for the firewall and CAP_NET_RAW for capture.

Examples:
  $ postern-controller serve --check
  $ postern-controller serve`,
		OnUsageError: asUsage,
		Action:       serveAction,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "check", Usage: "print the configuration with all defaults, and end"},
			jsonFlag(),
		},
	}
}

func serveAction(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	config, err := controller.LoadConfig(c.String(flagConfig))
	if err != nil {
		return configError{err}
	}
	if c.Bool("check") {
		return check(c, config)
	}
	level, err := config.Level()
	if err != nil {
		return configError{err}
	}
	log := daemon.Logger(c.App.ErrWriter, level)
	fw, choice, err := openFirewall(c.Context, config)
	if err != nil {
		return err
	}
	config.Firewall.Backend = choice.Backend
	if fw != nil {
		log.Info("firewall chosen", logkeys.Backend, choice.String())
		defer fw.Close()
	}
	if err := noteGood(config); err != nil {
		log.Warn("what a boot with a faulty configuration falls back on is not noted", logkeys.Error, err)
	}
	warn(c.Context, config, choice, log)
	ready := make(chan struct{})
	ctrl, err := controller.New(controller.Options{
		Config: config, Firewall: fw, Log: log, Version: version.Version,
		Ready: func(controller.Addresses) { close(ready) },
	})
	if err != nil {
		return err
	}
	return serve(c.Context, ctrl, ready, log)
}

// warn logs who would drop what the controller lets in, as the rules of a host agent on
// the same machine do.
func warn(ctx context.Context, config controller.Config, choice choose.Choice, log *slog.Logger) {
	if choice.Backend == choose.None {
		if m, err := choose.Look(ctx, config.Firewall.Table); err == nil && len(m.Ours) > 0 {
			log.Warn("rules of before are still there, and nobody opens a door in them: postern-controller firewall down",
				logkeys.Backend, m.Ours[0])
		}
	}
	for _, port := range config.Ports() {
		obstacles, err := choose.Obstacles(ctx, config.Firewall.Table, choice,
			survey.Probe{Protocol: "udp", Port: port})
		if errors.Is(err, firewall.ErrPermission) {
			return // which no firewall of ours needs
		}
		if err != nil {
			log.Warn("other packet filters not surveyed", logkeys.Error, err)
			return
		}
		for _, o := range obstacles {
			log.Warn("another packet filter stops what the controller lets in: see OPERATIONS.md, beside a host agent",
				logkeys.Port, port, logkeys.Chain, o.Chain.String(), logkeys.Reason, o.Rule)
		}
	}
}

// serve runs the controller, tells the service manager how it fares, and reloads
// its policy at SIGHUP.
func serve(ctx context.Context, ctrl *controller.Controller, ready <-chan struct{}, log *slog.Logger) error {
	hangup := make(chan os.Signal, 1) // from now on SIGHUP does not kill
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	manager := daemon.Manager{Log: log}
	stop := context.AfterFunc(ctx, manager.Stopping)
	defer stop()
	ended, end := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		defer end()
		return ctrl.Run(ctx)
	})
	g.Go(func() error {
		select {
		case <-ready:
			manager.Ready(ctrl.Summary())
			manager.Watch(ended, ctrl.Alive, ctrl.Summary)
		case <-ended.Done():
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ready:
		case <-ended.Done():
			return nil
		}
		for {
			select {
			case <-ended.Done():
				return nil
			case <-hangup:
				manager.Reloading()
				if err := ctrl.Reload(ended); err != nil {
					log.Error("policy not loaded", logkeys.Error, err)
				}
				manager.Ready(ctrl.Summary())
			}
		}
	})
	return g.Wait()
}

// check prints the configuration in force. It reads no secret and changes nothing.
func check(c *cli.Context, config controller.Config) error {
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, config)
	}
	if _, err := fmt.Fprint(c.App.Writer, config.TOML()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
