package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const testPort = 4042

// owner is a running sessions with its surroundings in memory, on the clock of a
// synctest bubble.
type owner struct {
	*sessions
	kernel *memoryKernel
	gate   *memoryGate
	table  *spa.Table[key.HostKnock]
	cut    *memoryTunnels

	mu   sync.Mutex // guards told
	told []control.Ended
}

// ended returns what the controller would have been told.
func (o *owner) ended() []control.Ended {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.told)
}

func (o *owner) tell(e control.Ended) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, e)
}

func startOwner(t *testing.T) *owner {
	t.Helper()
	start := time.Now()
	now := func() time.Duration { return time.Hour + time.Since(start) }
	o := &owner{
		kernel: newMemoryKernel(now),
		gate:   &memoryGate{admitted: make(map[netip.AddrPort]key.ID)},
		table:  spa.NewTable[key.HostKnock](start),
		cut:    &memoryTunnels{closed: make(map[key.ID]endReason)},
	}
	o.sessions = newSessions(&sessions{
		fw: o.kernel, gate: o.gate, hints: o.table, tunnels: o.cut, now: now, port: testPort,
		log:      slog.New(slog.DiscardHandler),
		onEnd:    o.tell,
		onChange: func() {},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.run(ctx) }() // ended by the clean-up
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return o
}

func (o *owner) mustOpen(t *testing.T, orders ...control.Session) {
	t.Helper()
	var err error
	stopped := o.do(func(ctx context.Context) { err = o.open(ctx, orders...) })
	if stopped != nil || err != nil {
		t.Fatalf("open: %v, %v", stopped, err)
	}
}

func (o *owner) mustEnd(t *testing.T, reason string, id key.ID) {
	t.Helper()
	if err := o.do(func(ctx context.Context) { o.end(ctx, ordered(reason), id) }); err != nil {
		t.Fatal(err)
	}
}

// wantKernel compares the kernel's pinholes, in the order of their sources.
func (o *owner) wantKernel(t *testing.T, want ...firewall.Pinhole) {
	t.Helper()
	synctest.Wait()
	got, err := o.kernel.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	opt := cmp.Options{same, cmpopts.EquateEmpty()}
	if diff := cmp.Diff(want, got, opt); diff != "" {
		t.Fatalf("kernel differs (-want +got):\n%s", diff)
	}
}

// memoryTunnels remembers how the sessions' tunnels were closed.
type memoryTunnels struct {
	mu     sync.Mutex // guards closed
	closed map[key.ID]endReason
	stuck  chan struct{} // when not nil, closing takes until it is closed
}

func (m *memoryTunnels) CloseSession(id key.ID, reason tunnel.Reason, text string) int {
	m.mu.Lock()
	m.closed[id] = endReason{reason, text}
	stuck := m.stuck
	m.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	return 1
}

func (m *memoryTunnels) reason(id key.ID) endReason {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed[id]
}

func client(s control.Session) control.Identity {
	return control.Identity{Authority: "test", Role: control.RoleClient, ID: s.Device}
}

func order(source string, ttl time.Duration) control.Session {
	return control.Session{
		ID: key.NewID(), Device: key.NewID(), Service: "ssh", Target: "127.0.0.1:22",
		Source: netip.MustParseAddr(source), TTL: control.Duration(ttl),
		Knock: control.HostKnockText{HostKnock: key.NewHostKnock()},
	}
}

func wide(source string, ttl time.Duration) firewall.Pinhole {
	return timed(opening(netip.MustParseAddr(source), 0, testPort), ttl)
}

func exact(source string, ttl time.Duration) firewall.Pinhole {
	a := netip.MustParseAddrPort(source)
	return timed(opening(a.Addr(), a.Port(), testPort), ttl)
}

func bubble(t *testing.T, f func(t *testing.T, o *owner)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, startOwner(t)) })
}

// pass lets time go by on the bubble's clock, and what is due happen.
func pass(d time.Duration) {
	time.Sleep(d) // takes no time: see testing/synctest
	synctest.Wait()
}

func TestWidePinholeLivesThirtySecondsAtMost(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		o.mustOpen(t, order("192.0.2.1", time.Hour), order("192.0.2.2", 10*time.Second))
		o.wantKernel(t, wide("192.0.2.1", wideTTL), wide("192.0.2.2", 10*time.Second))
		pass(wideTTL)
		o.wantKernel(t)
	})
}

func TestHostKnockNarrowsThePinholeInOneTransaction(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Hour)
		o.mustOpen(t, s)
		source := netip.MustParseAddrPort("192.0.2.1:5000")
		if !o.bind(s.ID, source) {
			t.Fatal("the knock of a live session was refused")
		}
		if got, ok := o.gate.Session(source); !ok || got != s.ID {
			t.Fatal("the source was not admitted when bind returned")
		}
		o.wantKernel(t, exact("192.0.2.1:5000", time.Hour))
		last := o.kernel.transactions()[1]
		if len(last.Revoke) != 1 || len(last.Open) != 1 {
			t.Errorf("narrowing was %+v, want one revoke and one open in one change", last)
		}
	})
}

func TestSecondHostKnockReplacesTheFirstOpening(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Hour)
		o.mustOpen(t, s)
		first := netip.MustParseAddrPort("192.0.2.1:5000")
		second := netip.MustParseAddrPort("198.51.100.7:6000")
		o.bind(s.ID, first)
		o.wantKernel(t, exact(first.String(), time.Hour))
		o.bind(s.ID, second)
		o.wantKernel(t, exact(second.String(), time.Hour))
		if _, ok := o.gate.Session(first); ok {
			t.Error("the first source is still admitted")
		}
		if id, ok := o.gate.Session(second); !ok || id != s.ID {
			t.Error("the second source is not admitted")
		}
	})
}

func TestSharedWidePinholeEndsWithItsLastOwner(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		long, short := order("192.0.2.1", time.Hour), order("192.0.2.1", 10*time.Second)
		o.mustOpen(t, long)
		o.mustOpen(t, short)
		o.wantKernel(t, wide("192.0.2.1", wideTTL))
		o.mustEnd(t, "revoked", long.ID)
		o.wantKernel(t, wide("192.0.2.1", 10*time.Second)) // shrunk to what is left of the other
		o.mustEnd(t, "revoked", short.ID)
		o.wantKernel(t)
	})
}

func TestDeadlineEndsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Minute)
		o.mustOpen(t, s)
		source := netip.MustParseAddrPort("192.0.2.1:5000")
		o.bind(s.ID, source)
		pass(time.Minute - time.Millisecond)
		if len(o.ended()) != 0 {
			t.Fatal("the session ended before its deadline")
		}
		pass(time.Millisecond)
		if got := o.cut.reason(s.ID); got != expired() {
			t.Errorf("tunnel closed with %+v", got)
		}
		if len(o.ended()) != 1 || o.ended()[0].Session != s.ID || o.ended()[0].Reason != "expired" {
			t.Errorf("told %+v", o.ended())
		}
		if _, ok := o.gate.Session(source); ok {
			t.Error("the source is still admitted")
		}
		if o.bind(s.ID, source) {
			t.Error("a host knock was taken after the deadline")
		}
		o.wantKernel(t)
	})
}

func TestHostKnockAtTheDeadlineIsRefusedBeforeTheOwnerGetsToIt(t *testing.T) {
	b, s := due()
	if b.bind(s.ID, netip.MustParseAddrPort("192.0.2.1:5000")) {
		t.Error("bound at its deadline")
	}
}

// due returns sessions with one whose deadline is now, and no owner to end it.
func due() (*sessions, control.Session) {
	b := newSessions(&sessions{
		now:  func() time.Duration { return time.Hour },
		gate: &memoryGate{admitted: make(map[netip.AddrPort]key.ID)}, port: testPort,
	})
	s := order("192.0.2.1", time.Hour)
	b.live[s.ID] = newSession(terms{order: s, until: time.Hour})
	return b, s
}

func TestTunnelAndStreamAreJudgedByTheirSession(t *testing.T) {
	b, over := due()
	live := order("192.0.2.1", time.Hour)
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	live.Target = service.Addr().String()
	b.live[over.ID].order.Target = live.Target
	b.live[live.ID] = newSession(terms{order: live, until: time.Hour + 1})
	host, stranger := client(live), client(live)
	host.Role, stranger.ID = control.RoleHost, key.NewID()
	for name, c := range map[string]struct {
		session key.ID
		who     control.Identity
		ok      bool
	}{
		"its own device":         {live.ID, client(live), true},
		"another device":         {live.ID, stranger, false},
		"a host of the same id":  {live.ID, host, false},
		"at its deadline":        {over.ID, client(over), false},
		"of no session":          {key.NewID(), client(live), false},
		"another session's":      {over.ID, client(live), false},
		"the zero session":       {key.ID{}, client(live), false},
		"nobody, in the session": {live.ID, control.Identity{}, false},
	} {
		if err := b.attach(t.Context(), c.session, c.who); (err == nil) != c.ok {
			t.Errorf("tunnel of %s: %v", name, err)
		}
		conn, err := b.connect(t.Context(), c.session, c.who)
		if (err == nil) != c.ok {
			t.Errorf("stream of %s: %v", name, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

func TestRenewalReplacesTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Minute)
		o.mustOpen(t, s)
		o.bind(s.ID, netip.MustParseAddrPort("192.0.2.1:5000"))
		pass(30 * time.Second)
		s.TTL = control.Duration(10 * time.Minute)
		o.mustOpen(t, s)
		o.wantKernel(t, exact("192.0.2.1:5000", 10*time.Minute))
		pass(10*time.Minute - time.Second)
		o.wantKernel(t, exact("192.0.2.1:5000", time.Second))
		s.TTL = control.Duration(100 * time.Millisecond) // shorter works too
		o.mustOpen(t, s)
		pass(100 * time.Millisecond)
		if len(o.ended()) != 1 {
			t.Fatalf("ended: %+v", o.ended())
		}
		o.wantKernel(t)
	})
}

func TestRenewalFromAnotherAddressOpensItForTheHostKnock(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Minute)
		o.mustOpen(t, s)
		o.bind(s.ID, netip.MustParseAddrPort("192.0.2.1:5000"))
		s.Source = netip.MustParseAddr("198.51.100.7")
		o.mustOpen(t, s)
		o.wantKernel(t, exact("192.0.2.1:5000", time.Minute), wide("198.51.100.7", wideTTL))
		o.bind(s.ID, netip.MustParseAddrPort("198.51.100.7:5000"))
		o.wantKernel(t, exact("198.51.100.7:5000", time.Minute))
	})
}

func TestRenewalForAnotherDeviceIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Minute)
		o.mustOpen(t, s)
		s.Device = key.NewID()
		var err error
		if stopped := o.do(func(ctx context.Context) { err = o.open(ctx, s) }); stopped != nil {
			t.Fatal(stopped)
		}
		if !errors.Is(err, errMismatch) {
			t.Errorf("got %v, want errMismatch", err)
		}
	})
}

func TestSyncIsTheWholeTruth(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		gone, stays, comes := order("192.0.2.1", time.Hour), order("192.0.2.2", time.Hour),
			order("192.0.2.3", 20*time.Second)
		o.mustOpen(t, gone, stays)
		o.bind(stays.ID, netip.MustParseAddrPort("192.0.2.2:5000"))
		orphan := exact("203.0.113.9:99", time.Hour) // of a session nobody remembers
		o.kernel.hold(t, orphan)
		over := order("192.0.2.4", 0)
		var err error
		stopped := o.do(func(ctx context.Context) {
			err = o.sync(ctx, []control.Session{stays, comes, over})
		})
		if stopped != nil || err != nil {
			t.Fatal(stopped, err)
		}
		o.wantKernel(t, exact("192.0.2.2:5000", time.Hour), wide("192.0.2.3", 20*time.Second))
		if len(o.ended()) != 1 || o.ended()[0].Session != gone.ID {
			t.Errorf("ended %+v, want %s alone", o.ended(), gone.ID)
		}
	})
}

func TestBeforeTheFirstSyncUnknownPinholesAreLeft(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		unknown := exact("203.0.113.9:99", time.Hour)
		o.kernel.hold(t, unknown)
		pass(5 * reconcileEvery)
		o.wantKernel(t, exact("203.0.113.9:99", time.Hour-5*reconcileEvery))
	})
}

func TestFailingFirewallOpensNoSession(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		o.kernel.failing(firewall.ErrPermission)
		s := order("192.0.2.1", time.Hour)
		var err error
		if stopped := o.do(func(ctx context.Context) { err = o.open(ctx, s) }); stopped != nil {
			t.Fatal(stopped)
		}
		if !errors.Is(err, firewall.ErrPermission) {
			t.Fatalf("open: %v", err)
		}
		if o.bind(s.ID, netip.MustParseAddrPort("192.0.2.1:5000")) || o.table.Len() != 0 {
			t.Error("a session that was not opened takes host knocks")
		}
		o.kernel.failing(nil)
		o.do(func(context.Context) { o.synced = true })
		pass(2 * reconcileEvery)
		o.wantKernel(t)
	})
}

func TestFailureToNarrowEndsTheSessionAndLaterClosesItsPinhole(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Hour)
		o.mustOpen(t, s)
		o.do(func(context.Context) { o.synced = true })
		o.kernel.failing(errors.New("no buffer space"))
		source := netip.MustParseAddrPort("192.0.2.1:5000")
		o.bind(s.ID, source)
		synctest.Wait()
		if _, ok := o.gate.Session(source); ok || len(o.ended()) != 1 {
			t.Errorf("the source is admitted: %v, ended: %+v", ok, o.ended())
		}
		o.kernel.failing(nil)
		pass(look) // the owner tries again each second, long before the kernel's time
		o.wantKernel(t)
	})
}

func TestFailureToRevokeIsTriedAgainUntilItWorks(t *testing.T) {
	bubble(t, func(t *testing.T, o *owner) {
		s := order("192.0.2.1", time.Hour)
		o.mustOpen(t, s)
		o.do(func(context.Context) { o.synced = true })
		o.bind(s.ID, netip.MustParseAddrPort("192.0.2.1:5000"))
		synctest.Wait()
		o.kernel.failing(errors.New("no buffer space"))
		o.mustEnd(t, "revoked", s.ID)
		pass(5 * look)
		o.wantKernel(t, exact("192.0.2.1:5000", time.Hour-5*look))
		o.kernel.failing(nil)
		pass(look)
		o.wantKernel(t)
	})
}

func TestTableThatVanishedIsPutBackWithItsPinholes(t *testing.T) {
	for name, act := range map[string]func(*testing.T, *owner) []firewall.Pinhole{
		"noticed by itself": func(t *testing.T, _ *owner) []firewall.Pinhole {
			pass(reconcileEvery)
			return nil
		},
		"noticed by an order": func(t *testing.T, o *owner) []firewall.Pinhole {
			o.mustOpen(t, order("192.0.2.9", time.Minute))
			return []firewall.Pinhole{wide("192.0.2.9", wideTTL)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, o *owner) {
				s := order("192.0.2.1", time.Hour)
				o.mustOpen(t, s)
				o.bind(s.ID, netip.MustParseAddrPort("192.0.2.1:5000"))
				synctest.Wait()
				before := time.Now()
				if err := o.kernel.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
				more := act(t, o)
				want := exact("192.0.2.1:5000", time.Hour-time.Since(before))
				o.wantKernel(t, append([]firewall.Pinhole{want}, more...)...)
			})
		})
	}
}

func TestRestartAdoptsWhatIsLiveAndOpensNothing(t *testing.T) {
	bubble(t, func(t *testing.T, old *owner) {
		bound, closed, late := order("192.0.2.1", time.Hour), order("192.0.2.2", time.Hour),
			order("192.0.2.3", time.Second)
		old.mustOpen(t, bound, closed, late)
		old.bind(bound.ID, netip.MustParseAddrPort("192.0.2.1:5000"))
		synctest.Wait()
		records := old.records()
		pass(2 * time.Second)
		kernel := []firewall.Pinhole{exact("192.0.2.1:5000", time.Hour-2*time.Second)}

		next := newSessions(&sessions{
			fw: newMemoryKernel(old.now), gate: &memoryGate{admitted: make(map[netip.AddrPort]key.ID)},
			hints: spa.NewTable[key.HostKnock](time.Now()), now: old.now, port: testPort, log: old.log,
		})
		next.adopt(records, kernel)
		ids := next.ids()
		if len(ids) != 2 || slices.Contains(ids, late.ID) {
			t.Errorf("adopted %v", ids)
		}
		got := next.holes.all(next.now())
		if len(got) != 1 || got[0] != kernel[0] {
			t.Errorf("claims %v, want what the kernel holds: %v", got, kernel)
		}
		if len(next.fw.(*memoryKernel).transactions()) != 0 {
			t.Error("adopting changed the kernel")
		}
	})
}

func TestOrdersThatMakeNoSenseAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*control.Session){
		"no id":     func(s *control.Session) { s.ID = key.ID{} },
		"no device": func(s *control.Session) { s.Device = key.ID{} },
		"no secret": func(s *control.Session) { s.Knock = control.HostKnockText{} },
		"no target": func(s *control.Session) { s.Target = "" },
		"no port":   func(s *control.Session) { s.Target = "127.0.0.1" },
		"port 0":    func(s *control.Session) { s.Target = "127.0.0.1:0" },
		"over":      func(s *control.Session) { s.TTL = 0 },
		"negative":  func(s *control.Session) { s.TTL = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			s := order("192.0.2.1", time.Hour)
			spoil(&s)
			if _, err := newTerms(s, 0); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestSourceNobodyCanComeFromGetsNoWidePinhole(t *testing.T) {
	for _, source := range []netip.Addr{
		{}, netip.IPv6Unspecified(), netip.MustParseAddr("224.0.0.1"),
	} {
		s := order("192.0.2.1", time.Hour)
		s.Source = source
		terms, err := newTerms(s, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := terms.claims(netip.AddrPort{}, testPort); len(got) != 0 {
			t.Errorf("source %v opens %v", source, got)
		}
	}
}

func TestMappedSourceIsOpenedAsIPv4(t *testing.T) {
	s := order("::ffff:192.0.2.1", time.Hour)
	terms, err := newTerms(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := wide("192.0.2.1", 0)
	if got := terms.claims(netip.AddrPort{}, testPort); len(got) != 1 || got[0].opening != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
