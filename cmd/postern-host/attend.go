package main

import (
	"context"
	"log/slog"
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
	metrics  string // address; empty: none
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
	var g errgroup.Group
	if a.metrics != "" {
		a.serveMetrics(ctx, &g, r)
	}
	m.Ready(r.Summary())
	g.Go(func() error {
		m.Watch(ctx, r.Alive, r.Summary)
		return nil
	})
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

// serveMetrics returns when they are served, or when that has failed a first time.
func (a *attendant) serveMetrics(ctx context.Context, g *errgroup.Group, r *host.Running) {
	tried, done := context.WithCancel(ctx)
	g.Go(func() error {
		metrics.Keep(ctx, a.metrics, r.Status, func(err error) {
			a.scraped(r, err)
			done()
		})
		return nil
	})
	<-tried.Done()
}

// scraped notes whether the metrics are served, for status.
func (a *attendant) scraped(r *host.Running, fault error) {
	r.NoteMetrics(fault)
	if fault != nil {
		a.log.Error("metrics are not served, will try again; is the port another program's?",
			logkeys.Address, a.metrics, logkeys.Error, fault)
		return
	}
	a.log.Info("metrics are served", logkeys.Address, a.metrics)
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
