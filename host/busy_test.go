package host

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
)

// slowKernel is a command's, whose programs take their time.
type slowKernel struct {
	*memoryKernel
	begun, release chan struct{}
}

func (k *slowKernel) Install(ctx context.Context, r firewall.Rules) error {
	close(k.begun)
	<-k.release
	return k.memoryKernel.Install(ctx, r)
}

// TestACommandAtWorkOnTheProtectionHoldsNoOrderUp, however long it takes: a revocation
// may be among them.
func TestACommandAtWorkOnTheProtectionHoldsNoOrderUp(t *testing.T) {
	a := newInProcess(t)
	a.config.Protection = &protect.Store{Folder: a.config.State}
	ready := make(chan *Running, 1)
	a.config.Ready = func(r *Running) { ready <- r }
	link := a.start(t)
	r := <-ready
	slow := &slowKernel{a.kernel, make(chan struct{}), make(chan struct{})}
	command := protect.Switch{Store: protect.Store{Folder: a.config.State}, Firewall: slow}
	var working sync.WaitGroup
	working.Go(func() {
		if _, err := command.Begin(context.Background(), 0, nil, ""); err != nil {
			t.Errorf("begin: %v", err)
		}
	})
	defer working.Wait()
	free := sync.OnceFunc(func() { close(slow.release) })
	defer free()
	<-slow.begun
	testkit.Eventually(t, 10*time.Second, "the agent wants to follow, and cannot", func() bool {
		return strings.Contains(a.log.String(), "not carried out yet")
	})
	session := order("192.0.2.1", time.Hour)
	link.order(control.ToHost{Open: &session})
	link.order(control.ToHost{Close: &control.CloseHost{Session: session.ID}})
	if _, err := r.Reload(t.Context(), a.config.Settings); err != nil {
		t.Errorf("reload: %v", err)
	}
	free()
	testkit.Eventually(t, 10*time.Second, "the agent follows once the command is done", func() bool {
		s, err := r.Status()
		return err == nil && s.Protection == string(protect.On)
	})
	a.stop(t)
}
