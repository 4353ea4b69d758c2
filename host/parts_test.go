package host

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// knockParts is the host knocks' verifier with one session that it knows.
func knockParts(t *testing.T, bind func(key.ID, netip.AddrPort) bool) (
	k *knocks, seal func() []byte) {
	t.Helper()
	host, session, secret := key.NewID(), key.NewID(), key.NewHostKnock()
	start := time.Now()
	clock := &wallClock{
		boot:   func() time.Duration { return time.Since(start) },
		offset: func() time.Duration { return 0 },
	}
	table := spa.NewTable[key.HostKnock](start)
	table.Put(session, secret)
	guard := &lateGuard{path: filepath.Join(t.TempDir(), journalName)}
	k = &knocks{
		clock: clock, table: table, guard: guard, bind: bind, log: slog.New(slog.DiscardHandler),
		receiver: spa.NewHostKnockReceiver(host, table, guard),
	}
	t.Cleanup(func() { guard.close() })
	return k, func() []byte { return spa.SealHostKnock(secret, host, session, clock.now()) }
}

func TestSecondReaderOfAKnockWaitsUntilItsSourceIsAdmitted(t *testing.T) {
	entered, admit := make(chan struct{}), make(chan struct{})
	k, seal := knockParts(t, func(key.ID, netip.AddrPort) bool {
		close(entered)
		<-admit
		return true
	})
	k.setClock(time.Now())
	knock, source := seal(), netip.MustParseAddrPort("192.0.2.1:5000")
	var readers sync.WaitGroup
	readers.Go(func() { k.take(knock, source) }) // capture, say
	<-entered
	second := make(chan struct{})
	readers.Go(func() { // the tunnel's socket, which reads QUIC's first packet next
		k.take(knock, source)
		close(second)
	})
	select {
	case <-second:
		t.Error("the second reader went on before the source was admitted")
	case <-time.After(50 * time.Millisecond):
	}
	close(admit)
	readers.Wait()
	if got := k.counters(); got["ok"] != 1 || got["replay"] != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestNoHostKnockIsTakenBeforeTheControllersTimeIsKnown(t *testing.T) {
	k, seal := knockParts(t, func(key.ID, netip.AddrPort) bool { return true })
	k.take(seal(), netip.MustParseAddrPort("192.0.2.1:5000"))
	if got := k.counters(); got["ok"] != 0 {
		t.Errorf("counted %v", got)
	}
}

func TestHostKnocksAreJudgedByTheControllersClock(t *testing.T) {
	bound := 0
	k, _ := knockParts(t, func(key.ID, netip.AddrPort) bool { bound++; return true })
	host, session, secret := key.NewID(), key.NewID(), key.NewHostKnock()
	k.table.Put(session, secret)
	k.receiver = spa.NewHostKnockReceiver(host, k.table, k.guard)
	controllers := time.Now().Add(48 * time.Hour) // this machine's clock is two days behind
	k.setClock(controllers)
	source := netip.MustParseAddrPort("192.0.2.1:5000")
	k.take(spa.SealHostKnock(secret, host, session, time.Now()), source)
	if bound != 0 {
		t.Error("a knock of the local clock's time was taken")
	}
	k.take(spa.SealHostKnock(secret, host, session, controllers), source)
	if bound != 1 {
		t.Errorf("a knock of the controller's time was not taken: %v", k.counters())
	}
}

// TestAStepOfTheControllersClockIsFollowedWhileTheLinkLasts: clients seal their host
// knocks by the new time at once.
func TestAStepOfTheControllersClockIsFollowedWhileTheLinkLasts(t *testing.T) {
	bound := 0
	k, _ := knockParts(t, func(key.ID, netip.AddrPort) bool { bound++; return true })
	host, session, secret := key.NewID(), key.NewID(), key.NewHostKnock()
	k.table.Put(session, secret)
	k.receiver = spa.NewHostKnockReceiver(host, k.table, k.guard)
	source := netip.MustParseAddrPort("192.0.2.1:5000")
	begun := time.Now()
	k.setClock(begun)
	for _, step := range []time.Duration{10 * time.Minute, -20 * time.Minute} {
		now := begun.Add(step)
		k.take(spa.SealHostKnock(secret, host, session, now), source)
		if bound != 0 {
			t.Fatalf("%v: taken before the step was told", step)
		}
		k.correctClock(now)
		k.take(spa.SealHostKnock(secret, host, session, now.Add(time.Second)), source)
		if bound != 1 {
			t.Fatalf("%v: not taken after the step: %v", step, k.counters())
		}
		bound = 0
	}
	before := k.clock.atBoot()
	k.correctClock(time.Time{}) // of an older controller
	k.correctClock(k.clock.now().Add(-stepped / 2))
	if k.clock.atBoot() != before {
		t.Error("a late message, or one without a time, moved the clock")
	}
}

func TestGarbageIsNoKnockAndCostsNothing(t *testing.T) {
	k, _ := knockParts(t, func(key.ID, netip.AddrPort) bool { t.Error("bound"); return true })
	garbage, source := make([]byte, spa.Size), netip.MustParseAddrPort("192.0.2.1:5000")
	if allocs := testing.AllocsPerRun(100, func() { k.take(garbage, source) }); allocs != 0 {
		t.Errorf("%v allocations for a stranger's packet", allocs)
	}
	for _, n := range []int{0, 1, 255, 257, 65535} {
		if k.take(make([]byte, n), source) {
			t.Errorf("%d bytes taken for a knock", n)
		}
	}
}

func TestPausesGrowToHalfAMinuteWithFullJitter(t *testing.T) {
	b := newBackoff()
	var limits []time.Duration
	b.random = func(n int64) int64 {
		limits = append(limits, time.Duration(n))
		return n - 1
	}
	for range 10 {
		b.pause(0)
	}
	want := []time.Duration{200e6, 400e6, 800e6, 1600e6, 3200e6, 6400e6, 12800e6, 25600e6, 30e9, 30e9}
	if diff := cmp.Diff(want, limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	if got := b.pause(settled); got > firstPause {
		t.Errorf("after a link that lasted, the pause was %v", got)
	}
	if newBackoff().pause(0) <= 0 {
		t.Error("a pause of nothing")
	}
}

func TestControllerThatReadsNothingLosesTheStreamNotTheAgent(t *testing.T) {
	o := newOutbox()
	for range maxOutbox + 1 {
		o.put(control.FromHost{Ended: &control.Ended{}}) // never blocks
	}
	if _, err := o.take(t.Context()); err != errSlow {
		t.Errorf("got %v, want errSlow", err)
	}
}

func TestEndWaitsTenMillisecondsForStuckTunnelsAtMost(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Hour)
		o.mustOpen(t, s)
		o.cut.stuck = make(chan struct{})
		start := time.Now()
		o.mustEnd(t, "revoked", s.ID)
		if took := time.Since(start); took > closeLimit {
			t.Errorf("the end took %v", took)
		}
		o.wantKernel(t)
		close(o.cut.stuck)
		synctest.Wait()
	})
}

func TestConfigurationFileHasEveryKeyWithItsDefault(t *testing.T) {
	got, err := LoadSettings("../configs/host.toml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Defaults(), got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("configs/host.toml differs from the defaults (-defaults +file):\n%s", diff)
	}
}

func TestFaultsOfAConfigurationAreAllToldWithTheirKeys(t *testing.T) {
	const text = `
state = "relative"
log_level = "loud"
[tunnel]
listen = "4042"
advertise = ["a", "192.0.2.1:0", "0.0.0.0:1"]
capture = false
interfaces = ["eth0"]
[firewall]
backend = "pf"
table = ""
[[keep]]
source = "nowhere"
`
	s := Defaults()
	if err := config.Parse("host.toml", text, &s); err != nil {
		t.Fatal(err)
	}
	err := s.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		`state: "relative"`, `log_level: "loud"`, `tunnel.listen: "4042"`, `tunnel.advertise: has 3`,
		`tunnel.advertise: "a"`, `tunnel.advertise: "192.0.2.1:0"`, `tunnel.advertise: "0.0.0.0:1"`,
		`tunnel.interfaces: `, `firewall.backend: "pf"`, `firewall.table: `, `keep: number 1: source "nowhere"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin:\n%v", want, err)
		}
	}
}

func TestKeepRulesReachTheFirewall(t *testing.T) {
	s := Defaults()
	s.Keep = []config.Keep{
		{Source: "192.0.2.0/24", Ports: []string{"tcp/22", "udp/51820"}}, {Source: "2001:db8::7"},
	}
	rules, err := s.Rules()
	if err != nil || len(rules.OpenPorts) != 0 || len(rules.Keep) != 2 {
		t.Fatalf("%+v, %v", rules, err)
	}
	if rules.Keep[1].Source != netip.MustParsePrefix("2001:db8::7/128") ||
		len(rules.Keep[0].Ports) != 2 {
		t.Errorf("%+v", rules)
	}
	for _, bad := range []config.Keep{
		{Source: ""}, {Source: "fe80::1%eth0"}, {Source: "192.0.2.1", Ports: []string{"22"}},
		{Source: "192.0.2.1", Ports: []string{"tcp/0"}},
		{Source: "192.0.2.1", Ports: []string{"tcp/65536"}},
	} {
		s.Keep = []config.Keep{bad}
		if _, err := s.Rules(); err == nil {
			t.Errorf("%+v accepted", bad)
		}
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	s := Defaults()
	s.Tunnel.Listen = "[::]:443"
	err := &RightsError{s.needs()}
	for _, want := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"} {
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Hint(), want) {
			t.Errorf("%s is not in %q and %q", want, err, err.Hint())
		}
	}
	s.Tunnel.Listen, s.Tunnel.Capture, s.Firewall.Backend = "[::]:4042", false, BackendNone
	if err := s.CheckRights(); err != nil {
		t.Errorf("nothing is needed: %v", err)
	}
}
