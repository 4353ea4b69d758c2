package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
)

// prober is a stranger who connects to a port again and again.
type prober struct {
	mu      sync.Mutex // guards what follows
	tries   int
	answers int
}

func (l *lab) probe(at string) *prober {
	p := &prober{}
	done := make(chan struct{})
	var probing sync.WaitGroup
	probing.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			var c net.Conn
			var err error
			l.client.Do(l.t, func() { c, err = net.DialTimeout("tcp", at, 20*time.Millisecond) })
			p.note(err == nil)
			if err == nil {
				c.Close()
			}
		}
	})
	l.t.Cleanup(func() {
		close(done)
		probing.Wait()
	})
	return p
}

func (p *prober) note(answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries++
	if answered {
		p.answers++
	}
}

func (p *prober) counts() (tries, answers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tries, p.answers
}

// TestAFlushedRulesetIsBackAtOnce, with the pinholes of the sessions that live, and
// not only when the agent looks next.
func TestAFlushedRulesetIsBackAtOnce(t *testing.T) {
	l := newLab(t)
	var open net.Listener
	var err error
	l.host.Do(t, func() { open, err = net.Listen("tcp", hostAddress+":2222") })
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	link := l.start()
	fw := l.firewall()
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	echo(t, s, "hello")
	hole := func() bool {
		holes, err := fw.List(t.Context())
		return err == nil && len(holes) == 1 && holes[0].SourcePort != 0
	}
	testkit.Eventually(t, 5*time.Second, "one exact pinhole", hole)
	p := l.probe(netip.AddrPortFrom(netip.MustParseAddr(hostAddress), 2222).String())
	for name, harm := range map[string][]string{
		"a flush":        {"flush", "ruleset"},
		"a lost chain":   {"delete", "chain", "inet", "postern", "input"},
		"a table asleep": {"add table inet postern { flags dormant; }"},
	} {
		l.host.Run(t, "nft", harm...)
		began := time.Now()
		// Regular looks come every 10 s, and would find only the first of these.
		testkit.Eventually(t, reconcileEvery/2, "the rules are back after "+name, func() bool {
			rules := l.host.Run(t, "nft", "list", "ruleset")
			return strings.Contains(rules, "chain input") && !strings.Contains(rules, "dormant") && hole()
		})
		t.Logf("%s: back within %v", name, time.Since(began))
		tries, answers := p.counts()
		testkit.Eventually(t, 5*time.Second, "the stranger tried again", func() bool {
			now, _ := p.counts()
			return now > tries+2
		})
		if _, now := p.counts(); now > answers+1 { // one may have been on its way
			t.Errorf("after %s a stranger is let in", name)
		}
		echo(t, s, "still here")
	}
	if !strings.Contains(l.log.String(), "installed again") {
		t.Error("not logged")
	}
}

// deaf hears of nothing, and fails when it is told to.
type deaf struct {
	*notedKernel
	fail chan struct{}
}

func (d deaf) Watch(ctx context.Context, _ func()) error {
	select {
	case <-d.fail:
		return errors.New("no more room for news")
	case <-ctx.Done():
		return nil
	}
}

// TestRulesAreInstalledAnewWhenNewsOfThemWereMissed: what others did to them while nobody
// heard of it is undone, and nobody is accused of anything.
func TestRulesAreInstalledAnewWhenNewsOfThemWereMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := startOwner(t)
		kernel := deaf{&notedKernel{memoryKernel: o.kernel}, make(chan struct{})}
		log := &logBuffer{}
		err := o.do(func(context.Context) {
			o.sessions.fw, o.sessions.log = kernel, slog.New(slog.NewTextHandler(log, nil))
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.watch(ctx) }()
		for i := range 2 {
			pass(2 * reconcileEvery)
			if n := len(kernel.installed()); n != i {
				t.Errorf("installed %d times before anything was missed, want %d", n, i)
			}
			kernel.fail <- struct{}{}
			synctest.Wait()
			if n := len(kernel.installed()); n != i+1 {
				t.Errorf("installed %d times after news were missed, want %d", n, i+1)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if said := log.String(); !strings.Contains(said, "not heard of") || strings.Contains(said, "another process") {
			t.Errorf("logged: %s", said)
		}
	})
}
