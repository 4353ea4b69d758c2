package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

// TestTheAgentFollowsWhatIsDecided while an administrator's command decides beside it.
func TestTheAgentFollowsWhatIsDecided(t *testing.T) {
	t.Setenv(decidedEnv, "1")
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	installed := func() bool {
		_, err := fw.List(t.Context())
		if err != nil && !errors.Is(err, firewall.ErrNotInstalled) {
			t.Fatal(err)
		}
		return err == nil
	}
	if installed() {
		t.Fatal("nobody has decided to protect the host, and its table is there")
	}
	d := l.device(clientOne, time.Hour)
	link.order(control.ToHost{Open: &d.session})
	_, s := d.connect()
	echo(t, s, "unprotected, and served")

	command := protect.Switch{Store: protect.Store{Folder: l.settings.State}, Firewall: fw}
	if _, err := command.Begin(t.Context(), time.Minute, nil, "a login"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "the session's pinhole is in the new table", func() bool {
		holes := l.pinholes(fw)
		return len(holes) == 1 && holes[0].SourcePort != 0
	})
	echo(t, s, "protected, and still served")

	l.kill()
	l.start()
	if !installed() {
		t.Error("the trial did not outlive the agent")
	}
	if _, err := command.Confirm(t.Context(), "another login", false, 0); err != nil {
		t.Fatal(err)
	}
	if err := fw.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 2*reconcileEvery, "the removed table is back", installed)

	if err := command.Revert(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * decisionsEvery) // an agent that puts it back would have by now
	if installed() {
		t.Error("the agent put the table back that an administrator took away")
	}
	if !strings.Contains(l.log.String(), "STRANGERS SEE") {
		t.Error("not logged")
	}
}

// TestATrialThatIsOverIsTakenDown, with its record, by an agent that was there all
// along.
func TestATrialThatIsOverIsTakenDown(t *testing.T) {
	t.Setenv(decidedEnv, "1")
	l := newLab(t)
	l.start()
	fw := l.firewall()
	command := protect.Switch{Store: protect.Store{Folder: l.settings.State}, Firewall: fw}
	if _, err := command.Begin(t.Context(), time.Second, nil, ""); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 15*time.Second, "table and record are gone", func() bool {
		_, err := fw.List(context.Background())
		r, _, readErr := command.Store.Read()
		return errors.Is(err, firewall.ErrNotInstalled) && readErr == nil && r.State == protect.Off
	})
}

// TestAnAgentThatIsUnprotectedStaysSoWhenTheRecordIsDamaged under it: it has read it.
func TestAnAgentThatIsUnprotectedStaysSoWhenTheRecordIsDamaged(t *testing.T) {
	a := newInProcess(t)
	a.config.Protection = &protect.Store{Folder: a.config.State}
	if err := a.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	ready := make(chan *Running, 1)
	a.config.Ready = func(r *Running) { ready <- r }
	a.start(t)
	r := <-ready
	path := filepath.Join(a.config.State, "protection.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "the agent says that it cannot read it", func() bool {
		return strings.Contains(a.log.String(), "cannot be read")
	})
	err := r.agent.sessions.do(func(ctx context.Context) { r.agent.sessions.reconcile(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.kernel.List(t.Context()); !errors.Is(err, firewall.ErrNotInstalled) {
		t.Errorf("it is dark: %v", err)
	}
	a.cancel()
	<-a.done
	a.run(t)
	testkit.Eventually(t, 10*time.Second, "the next agent takes no chance", func() bool {
		_, err := a.kernel.List(t.Context())
		return err == nil
	})
	a.cancel()
	<-a.done
}

// decided has an owner follow a record, and calls f with the commands that change it.
func decided(t *testing.T, f func(o *owner, protect, unprotect func(), log *logBuffer)) {
	t.Helper()
	bubble(t, func(t *testing.T, o *owner) {
		store := protect.Store{Folder: t.TempDir(), Clock: func() (protect.Clock, error) {
			return protect.Clock{Boot: "this", Now: o.now()}, nil
		}}
		command := protect.Switch{Store: store, Firewall: o.kernel}
		log := new(logBuffer)
		err := o.do(func(context.Context) {
			store.NoWait = true
			o.protection, o.log = &store, slog.New(slog.NewTextHandler(log, nil))
		})
		if err != nil {
			t.Fatal(err)
		}
		f(o, func() {
			if _, err := command.Begin(t.Context(), 0, nil, ""); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := command.Revert(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, log)
	})
}

// TestProtectionThatIsDecidedAnewKeepsPinholesOpenWithoutAController: those that an
// emergency key opened, above all, and those of sessions from before a restart.
func TestProtectionThatIsDecidedAnewKeepsPinholesOpenWithoutAController(t *testing.T) {
	decided(t, func(o *owner, protect, unprotect func(), _ *logBuffer) {
		protect()
		pass(2 * decisionsEvery)
		begun := o.now()
		ours, unknown := wide("192.0.2.1", time.Hour), wide("192.0.2.9", time.Hour)
		err := o.do(func(ctx context.Context) {
			c := claim{ours.Opening(), begun + time.Hour}
			if err := o.apply(ctx, map[key.ID][]claim{key.NewID(): {c}}); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		o.kernel.hold(t, unknown)
		pass(2 * reconcileEvery)
		left := func(p firewall.Pinhole) firewall.Pinhole { return timed(p.Opening(), time.Hour-(o.now()-begun)) }
		o.wantKernel(t, left(ours), left(unknown)) // whose it is the controller knows
		unprotect()
		pass(2 * decisionsEvery)
		protect()
		pass(2 * decisionsEvery)
		o.wantKernel(t, left(ours))
	})
}

// TestACommandsOwnChangeOfTheRulesRaisesNoAlarm, and anybody else's does.
func TestACommandsOwnChangeOfTheRulesRaisesNoAlarm(t *testing.T) {
	decided(t, func(o *owner, protect, _ func(), log *logBuffer) {
		protect()
		o.disturbed <- true // the kernel tells of it
		pass(2 * decisionsEvery)
		if said := log.String(); strings.Contains(said, "another process") {
			t.Errorf("logged: %s", said)
		}
		o.disturbed <- true
		pass(2 * decisionsEvery)
		if said := log.String(); !strings.Contains(said, "another process") {
			t.Errorf("of somebody else's change it logged: %s", said)
		}
	})
}

// notedKernel keeps the rules that were installed.
type notedKernel struct {
	*memoryKernel
	mu    sync.Mutex // guards rules
	rules []firewall.Rules
}

// Install implements [firewall.Firewall].
func (k *notedKernel) Install(ctx context.Context, rules firewall.Rules) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rules = append(k.rules, rules)
	return k.memoryKernel.Install(ctx, rules)
}

func (k *notedKernel) installed() []firewall.Rules {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.rules)
}

// TestTheAgentPutsNoOlderRulesInForceThanACommand: an administrator edits the
// configuration and runs protect, without a word to the agent.
func TestTheAgentPutsNoOlderRulesInForceThanACommand(t *testing.T) {
	a := newInProcess(t)
	kernel := &notedKernel{memoryKernel: a.kernel}
	if err := a.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := a.config.Settings
	next.Keep = []config.Keep{{Source: "198.51.100.0/24"}}
	var fault atomic.Bool
	a.config.Firewall, a.config.Protection = kernel, &protect.Store{Folder: a.config.State}
	a.config.Reread = func() (Settings, error) {
		if fault.Load() {
			return Settings{}, errors.New("a typing mistake")
		}
		return next, nil
	}
	a.start(t)
	rules, err := next.Rules()
	if err != nil {
		t.Fatal(err)
	}
	// The command has its own hold of the kernel, so that kernel notes the agent's only.
	command := protect.Switch{Store: *a.config.Protection, Firewall: a.kernel, Rules: rules}
	if _, err := command.Begin(t.Context(), time.Hour, nil, "a login"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "the agent follows", func() bool { return len(kernel.installed()) > 0 })
	for _, r := range kernel.installed() {
		if len(r.Keep) != 1 || r.Keep[0].Source.String() != "198.51.100.0/24" {
			t.Errorf("the agent installed %+v", r)
		}
	}
	fault.Store(true)
	before := len(kernel.installed())
	if _, err := command.Confirm(t.Context(), "another login", false, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "the agent knows of the confirmation", func() bool {
		return strings.Contains(a.log.String(), "typing mistake") && strings.Contains(a.log.String(), "state=on")
	})
	if after := kernel.installed(); len(after) != before {
		t.Errorf("with a faulty file the agent installed %+v", after[before:])
	}
	a.cancel()
	<-a.done
}

func TestKeepRulesAgeOnTheBootClock(t *testing.T) {
	rules := firewall.Rules{Keep: []firewall.Keep{
		{Interface: "standing"}, {Interface: "long", TTL: time.Hour}, {Interface: "short", TTL: time.Minute},
	}}
	got := aged(rules, time.Minute).Keep
	if len(got) != 2 || got[0].TTL != 0 || got[1].TTL != 59*time.Minute {
		t.Errorf("after a minute: %v", got)
	}
	if rules.Keep[1].TTL != time.Hour {
		t.Error("the rules themselves have aged")
	}
}
