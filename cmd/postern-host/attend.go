package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/metrics"
	"github.com/postern-sdp/postern/internal/daemon"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// attendant looks after a running agent: it tells the service manager how the agent
// fares, serves its metrics, and reads its configuration again at SIGHUP.
type attendant struct {
	settings func() (host.Settings, error) // reads the configuration
	level    *slog.LevelVar
	metrics  net.Listener // nil: none
	log      *slog.Logger
	ready    chan *host.Running // has room for one
}

// run runs the agent to its end.
func (a *attendant) run(ctx context.Context, agent func(context.Context) error) error {
	hangup := make(chan os.Signal, 1) // from now on SIGHUP does not kill
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	manager := daemon.Manager{Log: a.log}
	stop := context.AfterFunc(ctx, manager.Stopping)
	defer stop()
	if a.metrics != nil {
		defer a.metrics.Close()
	}
	ended, end := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		defer end()
		return agent(ctx)
	})
	g.Go(func() error {
		select {
		case r := <-a.ready:
			a.attend(ended, manager, r, hangup)
		case <-ended.Done():
		}
		return nil
	})
	return g.Wait()
}

func (a *attendant) attend(ctx context.Context, m daemon.Manager, r *host.Running, hangup <-chan os.Signal) {
	m.Ready(r.Summary())
	var g errgroup.Group
	g.Go(func() error {
		m.Watch(ctx, r.Alive, r.Summary)
		return nil
	})
	if a.metrics != nil {
		g.Go(func() error {
			if err := metrics.Serve(ctx, a.metrics, r.Status); err != nil {
				a.log.Error("metrics are not served any more", logkeys.Error, err)
			}
			return nil
		})
	}
	for {
		select {
		case <-ctx.Done():
			_ = g.Wait() // they return no error
			return
		case <-hangup:
			m.Reloading()
			if err := a.reload(ctx, r); err != nil {
				a.log.Error("configuration not taken, all is as it was", logkeys.Error, err)
			}
			m.Ready(r.Summary())
		}
	}
}

// reload takes over the configuration as it is now. On an error nothing changes.
func (a *attendant) reload(ctx context.Context, r *host.Running) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	waiting, err := r.Reload(ctx, s)
	if err != nil {
		return err
	}
	if err := setLevel(a.level, s); err != nil {
		return err
	}
	a.log.Info("configuration read again", logkeys.Count, len(s.Keep))
	if len(waiting) > 0 {
		a.log.Warn("these settings hold from the next start on", logkeys.Settings, waiting)
	}
	return nil
}

func setLevel(level *slog.LevelVar, s host.Settings) error {
	l, err := s.Level()
	if err == nil {
		level.Set(l)
	}
	return err
}

// listenMetrics opens the socket of the metrics, nil when there are to be none.
func listenMetrics(s host.Settings) (net.Listener, error) {
	if s.Metrics == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", s.Metrics)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, hintError{fmt.Errorf("metrics: %w", err), "set metrics to a free port, or to \"\""}
	}
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}
