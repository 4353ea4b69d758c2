package fwtest

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// Run runs the suite. New makes a firewall that is not installed yet; it is
// called on a thread inside the host's namespace and must work on that one.
func Run(t *testing.T, New func() (firewall.Firewall, error)) { run(t, New, false) }

// RunLegacy is Run for a firewall whose rules are iptables-legacy's, which the
// program nft neither shows nor removes.
func RunLegacy(t *testing.T, New func() (firewall.Firewall, error)) { run(t, New, true) }

func run(t *testing.T, New func() (firewall.Firewall, error), legacy bool) {
	testkit.RequireRoot(t)
	for _, promise := range promises() {
		t.Run(promise.name, func(t *testing.T) {
			testkit.NoLeak(t)
			n := newNetwork(t, New)
			n.legacy = legacy
			promise.test(t, n)
		})
	}
}

type promise struct {
	name string
	test func(t *testing.T, n *network)
}

func promises() []promise {
	return []promise{
		{"AStrangerMeetsSilence", silence},
		{"APinholeAdmitsOneSourceToOnePort", oneSourceOnePort},
		{"AnExactPinholeAdmitsOneSourcePort", exactSourcePort},
		{"TheKernelCutsLiveFlowsAtTheDeadline", deadline},
		{"RevokingCutsATransferWithin50ms", revoke},
		{"ReplacingLosesNoPacket", replace},
		{"OpeningAgainSetsTheTimeLeft", refresh},
		{"ARevokedServerCannotTurnItsFlowAround", turnAround},
		{"InstallCutsFlowsThatWereThereBefore", flowsBeforeInstall},
		{"APublishedPortIsDarkAndOpensByItsPinhole", publishedPorts},
		{"KeepRulesAndOpenPortsHoldForPublishedPorts", publishedStanding},
		{"RevokingCutsAPublishedFlowWithin50ms", publishedCut},
		{"TheKernelCutsPublishedFlowsAtTheDeadline", publishedDeadline},
		{"ARevokedServerBehindTheHostCannotTurnItsFlowAround", publishedTurnAround},
		{"NobodyIsRoutedThroughTheHost", routedThrough},
		{"ForwardingAnswersNobody", forwardingSilence},
		{"FlowsFromInsideGoOutAndSurviveInstall", insideFlows},
		{"PathMTUMessagesReachBothEndsOfFlowsFromInside", insidePathMTU},
		{"MachinesBehindTheHostAreStrangersToIt", insideStrangers},
		{"AKeepRuleHoldsForItsInterface", keepInterface},
		{"AKeepRuleEndsByItself", keepEnds},
		{"ATrialEndsByItself", trialEnds},
		{"ATrialThatIsConfirmedStays", trialConfirmed},
		{"DroppedPacketsAreCountedByKind", droppedKinds},
		{"RepliesToOwnFlowsComeIn", ownFlows},
		{"NeighboursAreFoundAgain", neighbours},
		{"PathMTUMessagesAreHonoured", pathMTU},
		{"KeepRulesAndOpenPortsNeedNoPinhole", keepAndOpen},
		{"ForeignTablesStayUntouched", foreignTables},
		{"InstallKeepsLivePinholes", installKeeps},
		{"ANewInstanceCarriesOn", newInstance},
		{"RemoveRestoresWhatWasBefore", removeRestores},
		{"CloseLeavesTheTableAndNothingElse", closeLeaves},
		{"ATableRemovedBehindOurBackIsNoticed", removedBehind},
		{"WhatOthersTakeAwayIsHeardOf", watched},
		{"WithoutTheCapabilityTheErrorSaysSo", withoutCapability},
		{"BadInputChangesNothing", badInput},
		{"ConcurrentChangesAllCount", concurrent},
		{"FiveThousandPinholesInOneChange", fiveThousand},
		{"AListIsWholeWhileTheSetGrows", wholeList},
	}
}

// Ports on the host: each of the first two has an echo server for TCP and UDP,
// nothing listens on the third.
const (
	portA      = 4042
	portB      = 4043
	portClosed = 4099
)

// station is one machine with its addresses.
type station struct {
	*testkit.Namespace
	v4, v6 netip.Addr
}

// addresses are both families' addresses, IPv4 first.
func (s station) addresses() []netip.Addr { return []netip.Addr{s.v4, s.v6} }

// in returns the station's address of the same family as a.
func (s station) in(a netip.Addr) netip.Addr {
	if a.Is4() {
		return s.v4
	}
	return s.v6
}

// read returns a file of the kernel's under /proc as the station sees it.
func (s station) read(t testing.TB, name string) string {
	t.Helper()
	var text []byte
	var err error
	s.Do(t, func() { text, err = os.ReadFile("/proc/" + name) })
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type network struct {
	host, client, neighbour station

	create func() (firewall.Firewall, error)
	fw     firewall.Firewall
	flows  int  // started so far
	legacy bool // the rules are iptables-legacy's
}

func newNetwork(t *testing.T, create func() (firewall.Firewall, error)) *network {
	lan := testkit.NewSwitch(t)
	attach := func(number string) station {
		s := station{v4: netip.MustParseAddr("192.0.2." + number),
			v6: netip.MustParseAddr("2001:db8::" + number)}
		s.Namespace = lan.Attach(t, s.v4.String()+"/24", s.v6.String()+"/64")
		return s
	}
	n := &network{host: attach("1"), client: attach("2"), neighbour: attach("3"), create: create}
	n.fw = n.newFirewall(t)
	return n
}

// newFirewall makes one more instance on the host's table.
func (n *network) newFirewall(t testing.TB) firewall.Firewall {
	t.Helper()
	var fw firewall.Firewall
	n.host.Do(t, func() {
		var err error
		if fw, err = n.create(); err != nil {
			t.Fatalf("new firewall: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := fw.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return fw
}

func (n *network) install(t testing.TB, rules firewall.Rules) {
	t.Helper()
	if err := n.fw.Install(context.Background(), rules); err != nil {
		t.Fatal(err)
	}
}

func (n *network) apply(t testing.TB, change firewall.Change) {
	t.Helper()
	if err := n.fw.Apply(context.Background(), change); err != nil {
		t.Fatal(err)
	}
}

func (n *network) open(t testing.TB, pinholes ...firewall.Pinhole) {
	t.Helper()
	n.apply(t, firewall.Change{Open: pinholes})
}

func (n *network) revoke(t testing.TB, pinholes ...firewall.Pinhole) {
	t.Helper()
	n.apply(t, firewall.Change{Revoke: pinholes})
}

func list(t testing.TB, fw firewall.Firewall) map[firewall.Pinhole]time.Duration {
	t.Helper()
	pinholes, err := fw.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[firewall.Pinhole]time.Duration, len(pinholes))
	for _, p := range pinholes {
		if _, twice := left[p.Opening()]; twice {
			t.Fatalf("listed twice: %v", p)
		}
		left[p.Opening()] = p.TTL
	}
	return left
}

// wide is a pinhole for any source port, exact for one, both for longer than a test takes.
func wide(p firewall.Protocol, source netip.Addr, port uint16) firewall.Pinhole {
	return firewall.Pinhole{Protocol: p, Source: source, Port: port, TTL: time.Hour}
}

func exact(p firewall.Protocol, source netip.AddrPort, port uint16) firewall.Pinhole {
	pinhole := wide(p, source.Addr(), port)
	pinhole.SourcePort = source.Port()
	return pinhole
}

func protocols() []firewall.Protocol { return []firewall.Protocol{firewall.TCP, firewall.UDP} }

func other(p firewall.Protocol) firewall.Protocol {
	if p == firewall.TCP {
		return firewall.UDP
	}
	return firewall.TCP
}
