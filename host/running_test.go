package host

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
)

// started runs an agent until it is ready.
func started(t *testing.T) (*inProcess, *hostLink, *Running) {
	t.Helper()
	a := newInProcess(t)
	a.config.Firewall = &fullKernel{memoryKernel: a.kernel}
	ready := make(chan *Running, 1)
	a.config.Ready = func(r *Running) { ready <- r }
	link := a.start(t)
	t.Cleanup(func() {
		a.cancel()
		<-a.done
	})
	return a, link, <-ready
}

// fullKernel can refuse to install rules.
type fullKernel struct {
	*memoryKernel
	full atomic.Bool
}

// Install implements [firewall.Firewall].
func (k *fullKernel) Install(ctx context.Context, rules firewall.Rules) error {
	if k.full.Load() {
		return errors.New("the kernel is full")
	}
	return k.memoryKernel.Install(ctx, rules)
}

func TestAStuckOwnerIsNotAlive(t *testing.T) {
	a, _, r := started(t)
	if err := r.Alive(t.Context()); err != nil {
		t.Fatalf("a healthy agent: %v", err)
	}
	asked := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return r.Alive(ctx)
	}
	stuck, free := make(chan struct{}), make(chan struct{})
	go func() { // ends when free is closed
		_ = r.agent.sessions.do(func(context.Context) { close(stuck); <-free })
	}()
	<-stuck
	if err := asked(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its owner is stuck: %v", err)
	}
	close(free)
	r.agent.sessions.mu.Lock()
	if err := asked(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its lock is held for ever: %v", err)
	}
	r.agent.sessions.mu.Unlock()
	if err := r.Alive(t.Context()); err != nil {
		t.Errorf("alive again: %v", err)
	}
	a.cancel()
	<-r.agent.sessions.stopped
	if err := asked(); !errors.Is(err, errStopped) {
		t.Errorf("an agent that ended: %v", err)
	}
}

func TestReloadChangesTheRulesAndNoSession(t *testing.T) {
	a, link, r := started(t)
	s := order("192.0.2.1", time.Hour)
	link.order(control.ToHost{Open: &s})
	before, err := a.kernel.List(t.Context())
	if err != nil || len(before) != 1 {
		t.Fatalf("%v, %v", before, err)
	}
	next := a.config.Settings
	next.Keep = []config.Keep{{Source: "198.51.100.0/24"}}
	next.LogLevel = "debug"
	next.Tunnel.Listen = "[::]:1"
	next.Tunnel.Advertise = []string{} // says nothing else than a missing one
	next.Metrics = "127.0.0.1:1"
	waiting, err := r.Reload(t.Context(), next)
	if err != nil || !slices.Equal(waiting, []string{"metrics", "tunnel.listen"}) {
		t.Errorf("Reload: %v, %v", waiting, err)
	}
	if got := r.agent.sessions.rules.Keep; len(got) != 1 || got[0].Source.String() != "198.51.100.0/24" {
		t.Errorf("the rules are %v", got)
	}
	if after, err := a.kernel.List(t.Context()); err != nil || len(after) != 1 {
		t.Errorf("after the reload: %v, %v", after, err)
	}
	if st, err := r.Status(); err != nil || len(st.Sessions) != 1 {
		t.Errorf("sessions: %+v, %v", st.Sessions, err)
	}
}

func TestAReloadThatFailsChangesNothing(t *testing.T) {
	a, _, r := started(t)
	bad := a.config.Settings
	bad.Keep = []config.Keep{{Source: "nonsense"}}
	if _, err := r.Reload(t.Context(), bad); err == nil {
		t.Error("nonsense was taken over")
	}
	good := a.config.Settings
	good.Keep = []config.Keep{{Source: "198.51.100.0/24"}}
	a.config.Firewall.(*fullKernel).full.Store(true)
	if _, err := r.Reload(t.Context(), good); err == nil {
		t.Error("a failing kernel was not noticed")
	}
	if got := r.agent.sessions.rules.Keep; len(got) != 0 {
		t.Errorf("the rules are %v", got)
	}
}

func TestAReloadPutsNoTableWhereThereIsNone(t *testing.T) {
	a, _, r := started(t)
	if err := a.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := a.config.Settings
	next.Keep = []config.Keep{{Source: "198.51.100.0/24"}}
	if _, err := r.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := a.kernel.List(t.Context()); !errors.Is(err, firewall.ErrNotInstalled) {
		t.Errorf("the table is back: %v", err)
	}
	if len(r.agent.sessions.rules.Keep) != 1 {
		t.Error("the next table would have the old rules")
	}
}
