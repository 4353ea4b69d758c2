package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// stopLimit bounds the wait for a service's end.
const stopLimit = 20 * time.Second

// Text returns the command line that the service manager runs.
func Text(d Definition) (path, text string, err error) {
	if err := d.validate(); err != nil {
		return "", "", err
	}
	words := []string{syscall.EscapeArg(d.Program)}
	for _, a := range d.Args {
		words = append(words, syscall.EscapeArg(a))
	}
	return "service " + Name, strings.Join(words, " ") + "\r\n", nil
}

// Install defines a service that starts with the machine, and, with start, starts it.
// It takes an administrator.
func Install(_ context.Context, d Definition, start bool) error {
	if err := d.validate(); err != nil {
		return err
	}
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("reach the service manager: %w", err)
	}
	defer m.Disconnect()
	s, err := m.CreateService(Name, d.Program, mgr.Config{
		StartType: mgr.StartAutomatic, DisplayName: "Postern", Description: description,
	}, d.Args...)
	if err != nil {
		return fmt.Errorf("create the service: %w", err)
	}
	defer s.Close()
	again := []mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: 5 * time.Second}}
	if err := s.SetRecoveryActions(again, uint32((24 * time.Hour).Seconds())); err != nil {
		return fmt.Errorf("have the service restarted: %w", err)
	}
	if !start {
		return nil
	}
	if err := s.Start(); err != nil {
		return fmt.Errorf("start the service: %w", err)
	}
	return nil
}

// with calls do with the service: [ErrNotInstalled] when there is none.
func with(do func(*mgr.Service) error) error {
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("reach the service manager: %w", err)
	}
	defer m.Disconnect()
	s, err := m.OpenService(Name)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return ErrNotInstalled
	}
	if err != nil {
		return fmt.Errorf("open the service: %w", err)
	}
	defer s.Close()
	return do(s)
}

// Uninstall stops the service and takes it away.
func Uninstall(ctx context.Context) error {
	return with(func(s *mgr.Service) error {
		_ = stop(ctx, s) // one that does not run is as good
		if err := s.Delete(); err != nil {
			return fmt.Errorf("delete the service: %w", err)
		}
		return nil
	})
}

// Start starts it.
func Start(context.Context) error {
	return with(func(s *mgr.Service) error { return s.Start() })
}

// Stop stops it until the machine starts again.
func Stop(ctx context.Context) error {
	return with(func(s *mgr.Service) error { return stop(ctx, s) })
}

func stop(ctx context.Context, s *mgr.Service) error {
	status, err := s.Control(svc.Stop)
	if err != nil {
		return fmt.Errorf("stop the service: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for status.State != svc.Stopped {
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop the service: %w", context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
		if status, err = s.Query(); err != nil {
			return fmt.Errorf("stop the service: %w", err)
		}
	}
	return nil
}

// Status returns what the manager says of it.
func Status(context.Context) (text string, err error) {
	err = with(func(s *mgr.Service) error {
		status, err := s.Query()
		if err != nil {
			return fmt.Errorf("query the service: %w", err)
		}
		names := map[svc.State]string{
			svc.Stopped: "stopped", svc.StartPending: "starting", svc.StopPending: "stopping", svc.Running: "running",
		}
		text = fmt.Sprintf("%s is %s (process %d)", Name, names[status.State], status.ProcessId)
		return nil
	})
	return text, err
}

// Run runs main as a service when this process is one: main's context ends when the
// manager wants it to. It reports false, and runs nothing, elsewhere.
func Run(main func(context.Context) int) (code int, isService bool) {
	is, err := svc.IsWindowsService()
	if err != nil || !is {
		return 0, false
	}
	h := &handler{main: main}
	if err := svc.Run(Name, h); err != nil {
		return 1, true
	}
	return h.code, true
}

type handler struct {
	main func(context.Context) int
	code int
}

// Execute implements [svc.Handler].
func (h *handler) Execute(_ []string, orders <-chan svc.ChangeRequest, states chan<- svc.Status) (bool, uint32) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan int, 1)
	go func() { done <- h.main(ctx) }()
	const accepted = svc.AcceptStop | svc.AcceptShutdown
	states <- svc.Status{State: svc.Running, Accepts: accepted}
	stopping := false
	for {
		select {
		case h.code = <-done:
			states <- svc.Status{State: svc.StopPending}
			if stopping {
				h.code = 0
			}
			return h.code != 0, uint32(h.code)
		case order := <-orders:
			switch order.Cmd {
			case svc.Interrogate:
				states <- order.CurrentStatus
			case svc.Stop, svc.Shutdown:
				stopping = true
				states <- svc.Status{State: svc.StopPending}
				cancel()
			}
		}
	}
}
