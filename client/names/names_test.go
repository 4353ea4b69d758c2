package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/postern-sdp/postern/internal/testkit"
)

func TestAServiceHasTheSameAddressEverywhere(t *testing.T) {
	// These are on people's machines and in their scripts: they do not change.
	for name, want := range map[string]string{"db": "127.69.36.156", "web": "127.121.137.65"} {
		for _, others := range [][]string{{}, {"a", "b", "ssh"}} {
			if got := Plan(append(others, name))[name]; got.String() != want {
				t.Errorf("%s with %v is at %v, want %s", name, others, got, want)
			}
		}
	}
}

// macOS answers for 127.0.0.1 alone, unless root makes other addresses.
func TestTheServerIsAtAnAddressThatTheSystemHas(t *testing.T) {
	for system, many := range map[string]bool{"linux": true, "windows": true, "darwin": false} {
		at := serverOn(system)
		if many == (at.Addr().String() == "127.0.0.1") || !at.Addr().IsLoopback() || at.Port() < 1024 {
			t.Errorf("%s: %s", system, at)
		}
	}
}

func TestNoTwoServicesShareAnAddressOrPort(t *testing.T) {
	var names []string
	for i := range 5000 {
		names = append(names, fmt.Sprintf("service-%d", i))
	}
	addresses := make(map[netip.Addr]bool)
	for name, a := range Plan(names) {
		last := a.As4()[3]
		if addresses[a] || !Range.Contains(a) || last == 0 || last == 255 || a == Server.Addr() {
			t.Errorf("%s is at %v", name, a)
		}
		addresses[a] = true
	}
	ports := make(map[uint16]bool)
	for name, p := range Ports(names) {
		if ports[p] || p < firstPort || int(p) >= firstPort+portCount {
			t.Errorf("%s is at %d", name, p)
		}
		ports[p] = true
	}
	if len(addresses) != len(names) || len(ports) != len(names) {
		t.Errorf("%d addresses, %d ports for %d services", len(addresses), len(ports), len(names))
	}
}

// serve runs a server with two services and returns its address.
func serve(t *testing.T) netip.AddrPort {
	t.Helper()
	d := NewDNS("postern.internal")
	d.Set(map[string]netip.Addr{"db": netip.MustParseAddr("127.64.1.2"), "a.b": netip.MustParseAddr("127.64.1.3")})
	ctx, stop := context.WithCancel(t.Context())
	at, done := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		done <- d.Serve(ctx, netip.MustParseAddrPort("127.0.0.1:0"), func(a netip.AddrPort) { at <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return <-at
}

func TestDigGetsTheAddressOfAServiceAndOfNothingElse(t *testing.T) {
	testkit.NoLeak(t)
	at := serve(t)
	dig := func(args ...string) string {
		t.Helper()
		args = append([]string{"@" + at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+tries=1", "+time=5"}, args...)
		out, err := exec.CommandContext(t.Context(), "dig", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, way := range []string{"+notcp", "+tcp"} {
		if got := dig(way, "+short", "DB.postern.internal"); got != "127.64.1.2\n" {
			t.Errorf("%s: db is at %q", way, got)
		}
		if got := dig(way, "+short", "a.b.postern.internal"); got != "127.64.1.3\n" {
			t.Errorf("%s: a.b is at %q", way, got)
		}
		for question, status := range map[string]string{
			"nosuch.postern.internal": "NXDOMAIN", "example.com": "REFUSED", "xpostern.internal": "REFUSED",
			"postern.internal": "NOERROR", "postern.internal SOA": "NOERROR", "db.postern.internal AAAA": "NOERROR",
			"x.db.postern.internal": "NXDOMAIN", "db.postern.internal CH": "REFUSED",
		} {
			got := dig(append([]string{way}, strings.Fields(question)...)...)
			answered := strings.Contains(got, "ANSWER: 0") == strings.HasSuffix(question, "SOA")
			if !strings.Contains(got, "status: "+status) || answered {
				t.Errorf("%s: %s: want %s:\n%s", way, question, status, got)
			}
		}
	}
}

func TestWhatIsNoQuestionIsNotAnswered(t *testing.T) {
	at := serve(t)
	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	response := new(dns.Msg)
	response.SetQuestion("db.postern.internal.", dns.TypeA)
	response.Response = true
	b, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(b)                  // would go to and fro for ever between two servers
	conn.Write([]byte("nonsense")) // too short for a header
	question := new(dns.Msg)
	question.SetQuestion("db.postern.internal.", dns.TypeA)
	b, _ = question.Pack()
	conn.Write(b)
	got := make([]byte, 512)
	n, err := conn.Read(got)
	m := new(dns.Msg)
	if err != nil || m.Unpack(got[:n]) != nil || m.Id != question.Id || len(m.Answer) != 1 {
		t.Errorf("the first answer is %v, %v", m, err)
	}
}
