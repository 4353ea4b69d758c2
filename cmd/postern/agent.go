package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/agent"
	"github.com/postern-sdp/postern/internal/version"
)

const (
	// agentIdle is how long an agent that nobody needs stays.
	agentIdle = 10 * time.Minute
	// agentReady is what an agent says when it, or another one, can be asked.
	agentReady = "ready\n"
	// agentStart bounds the starting of an agent.
	agentStart = 10 * time.Second
	// listOld is when an agent that starts asks again what there is, for ssh.
	listOld = time.Hour
)

func (p program) agent() *cli.Command {
	return &cli.Command{
		Name:      "agent",
		Usage:     "share sessions among your programs",
		UsageText: "postern agent [--idle DURATION] | postern agent stop",
		Description: `Holds the sessions of connect --stdio, and so of ssh, for all your programs: ten
ssh to a service at once are one knock and one tunnel. It is started when it is
needed and ends when nobody has needed it for a while; there is no need to run it
by hand. Only you can ask it: its socket is in a folder of yours, under
$XDG_RUNTIME_DIR where there is one.

   $ postern agent
   $ postern agent stop`,
		Flags: []cli.Flag{
			&cli.DurationFlag{
				Name: "idle", Value: agentIdle, EnvVars: []string{"POSTERN_AGENT_IDLE"},
				Usage: "`DURATION` without use after which it ends; 0 for never",
			},
			&cli.DurationFlag{
				Name: "session-idle", Value: client.DefaultIdle, EnvVars: []string{"POSTERN_SESSION_IDLE"},
				Usage: "`DURATION` without use after which a session is ended",
			},
			&cli.BoolFlag{Name: "ready", Hidden: true, Usage: "say on standard output that one runs"},
		},
		Subcommands: []*cli.Command{{
			Name: "stop", Usage: "end the agent, and the connections that it carries",
			UsageText: "postern agent stop [--json]", Action: p.stopAgent,
			Description: "   $ postern agent stop", Flags: []cli.Flag{jsonFlag()},
		}},
		Action: p.runAgent,
	}
}

func (p program) runAgent(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	l, err := agent.Listen(device.Status().Folder)
	if c.Bool("ready") && (err == nil || errors.Is(err, agent.ErrRunning)) {
		_, _ = io.WriteString(p.out, agentReady) // who wanted it may be gone
		if errors.Is(err, agent.ErrRunning) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	var notices agent.Notices
	d := p.dialer(device, client.DialerConfig{Idle: c.Duration("session-idle"), Notify: notices.Tell})
	defer d.Close()
	ctx, cancel := context.WithCancel(c.Context)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { p.lookForServices(ctx, device) })
	return agent.Serve(c.Context, l, agent.Config{
		Kind: "agent", Version: version.Version, Dialer: d, Sessions: d.Sessions,
		Idle: c.Duration("idle"), Current: device.Current, Notices: &notices,
	})
}

// lookForServices has ssh know what was granted of late: plain ssh never asks for a name
// that it does not know. Nobody waits for it, and nothing depends on it.
func (p program) lookForServices(ctx context.Context, device *client.Client) {
	known, err := client.CachedServices(device.Status().Folder)
	if _, installed := sshFiles(device); installed && (err != nil || time.Since(known.Asked) > listOld) {
		_, _ = p.list(ctx, device)
	}
}

func (p program) stopAgent(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	path, err := folder(c)
	if err != nil {
		return err
	}
	r, err := agent.New(path, version.Version, nil)
	if err != nil {
		return err
	}
	err = r.Stop(c.Context)
	none := errors.Is(err, agent.ErrNoAgent)
	switch {
	case err != nil && !none:
		return err
	case c.Bool("json"):
		return p.printJSON(map[string]bool{"stopped": !none})
	case none:
		p.sayf("no agent is running")
	default:
		p.sayf("the agent ends")
	}
	return nil
}

// shared returns the way to services over the agent.
func (p program) shared(c *cli.Context, device *client.Client) (*agent.Remote, error) {
	folder, err := filepath.Abs(device.Status().Folder)
	if err != nil {
		return nil, fmt.Errorf("find this device's identity: %w", err)
	}
	return agent.New(folder, version.Version, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, agentStart, errors.New("it says nothing"))
		defer cancel()
		return p.spawn(ctx, "--identity", folder, "--timeout", c.Duration("timeout").String(), "agent", "--ready")
	})
}

// publish lets `postern status` see what this command has open, until ctx ends.
func (p program) publish(ctx context.Context, device *client.Client, kind string,
	sessions func() []client.AccessInfo) (stop func()) {
	l, err := agent.Publish(device.Status().Folder, kind)
	if err != nil {
		return func() {} // nothing depends on it
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.Serve(ctx, l, agent.Config{Kind: kind, Version: version.Version, Sessions: sessions})
	}()
	return func() { cancel(); <-done }
}

// waitReady reads what a starting agent says.
func waitReady(ctx context.Context, r io.ReadCloser) error {
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	said := make([]byte, len(agentReady))
	if _, err := io.ReadFull(r, said); err != nil || string(said) != agentReady {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("it ended at once: %w", io.ErrUnexpectedEOF)
	}
	return nil
}
