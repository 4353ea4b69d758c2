package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/test/lab"
)

// TestAClientWithIPv6OnlyGetsInOverIPv6 from the enrolment to ssh.
func TestAClientWithIPv6OnlyGetsInOverIPv6(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.AddClient(t.Context(), "six", lab.SixV6); err != nil {
		t.Fatal(err)
	}
	login, took := sshFrom(t, l, "six")
	defer login.Close()
	t.Logf("ssh over IPv6 after %s", took)
	sessions, err := l.Sessions(t.Context())
	if err != nil || len(sessions) != 1 || sessions[0].Source != lab.SixV6 {
		t.Errorf("sessions %v, %v; want one, of %s", sessions, err, lab.SixV6)
	}
	open, err := l.Pinholes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(open) != 1 || open[0].Source != lab.SixV6 || open[0].SourcePort == 0 {
		t.Errorf("open are %v, want one for the very socket of %s", open, lab.SixV6)
	}
	for _, pair := range [][2]netip.Addr{{lab.StrangerV4, lab.HostV4}, {lab.StrangerV6, lab.HostV6}} {
		scan, err := l.Scan("stranger", pair[0], pair[1])
		if err != nil || scan.Answers != 0 {
			t.Errorf("the stranger: %s, %v", scan, err)
		}
	}
}

// TestABrokenIPv6CostsAMomentNotTheAccess has a client with both families whose IPv6
// packets vanish without a word from one moment to the next: knock and tunnel go over
// IPv4. Each takes some 300 ms to see that; what is ruled out is waiting for time-outs.
func TestABrokenIPv6CostsAMomentNotTheAccess(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatal(err)
	}
	v4, v6 := lab.DualV4, lab.DualV6
	for name, broken := range map[string][]netip.Addr{
		"everywhere":        {lab.ControllerV6, lab.HostV6},
		"to-the-host":       {lab.HostV6},
		"to-the-controller": {lab.ControllerV6},
	} {
		t.Run(name, func(t *testing.T) {
			machine := "dual-" + name
			if err := l.AddClient(t.Context(), machine, v4, v6); err != nil {
				t.Fatal(err)
			}
			costsAMoment(t, l, machine, broken)
		})
		v4, v6 = v4.Next(), v6.Next()
	}
}

func costsAMoment(t *testing.T, l *lab.Lab, machine string, broken []netip.Addr) {
	t.Helper()
	login, whole := sshFrom(t, l, machine)
	t.Logf("ssh with both families after %s", whole)
	if err := login.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.BlackHole(machine, broken...); err != nil {
		t.Fatal(err)
	}
	const limit = 4 * time.Second
	for range 2 { // the second one may know better
		login, took := sshFrom(t, l, machine)
		t.Logf("with its IPv6 broken after %s", took)
		if took > whole+limit {
			t.Errorf("ssh took %s, %s with both families", took, whole)
		}
		if err := login.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// sshFrom logs in through Postern from a machine, and says how long that took.
func sshFrom(t *testing.T, l *lab.Lab, machine string) (*lab.Login, time.Duration) {
	t.Helper()
	begun := time.Now()
	login, err := l.LoginThroughPostern(t.Context(), machine)
	if err != nil {
		t.Fatalf("ssh from %s: %v", machine, err)
	}
	took := time.Since(begun).Round(time.Millisecond)
	if out, err := login.Run(t.Context(), "echo $SSH_CONNECTION"); err != nil || !strings.HasPrefix(out, "127.0.0.1 ") {
		t.Errorf("ssh from %s: %q, %v", machine, out, err)
	}
	return login, took
}
