//go:build linux

package choose

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/internal/testkit"
)

// dockerRules are those that dockerd writes for a container with port 8080 published.
const dockerRules = `*nat
:PREROUTING ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT
:FORWARD DROP
:DOCKER -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`

func TestAPortThatDockerPublishesIsDark(t *testing.T) {
	lan := testkit.NewSwitch(t)
	host := lan.Attach(t, "192.0.2.1/24")
	stranger := lan.Attach(t, "192.0.2.9/24")
	container := testkit.Netns(t)
	testkit.Cable(t, host, "docker0", []string{"172.17.0.1/16"}, container, "eth0", []string{"172.17.0.2/16"})
	container.Route(t, "default4", "172.17.0.1")
	host.Sysctl(t, "ipv4/ip_forward", "1")
	listen(t, container, "172.17.0.2:80")
	listen(t, stranger, "192.0.2.9:80")
	feed(t, host, dockerRules, "iptables-nft-restore")

	before := host.Run(t, "iptables-nft-save")
	if !reaches(t, stranger, "192.0.2.1:8080") {
		t.Fatal("docker's rules publish nothing: the test is wrong")
	}
	open(t, host, Config{Name: name}, func(fw firewall.Firewall, got Choice) {
		if got.Backend != NFTables {
			t.Errorf("beside docker: %+v", got)
		}
		must(t, fw.Install(t.Context(), firewall.Rules{Inside: []string{"docker0"}}))
		m := lookIn(t, host)
		if !m.OursForward || !slices.Contains(m.Owners, survey.Docker) || len(m.Published) != 1 {
			t.Errorf("surveyed: %+v", m)
		}
		if reaches(t, stranger, "192.0.2.1:8080") {
			t.Error("a stranger gets to a published port")
		}
		if !reaches(t, container, "192.0.2.9:80") {
			t.Error("the container does not get out any more")
		}
		must(t, fw.Remove(t.Context()))
	})
	if !reaches(t, stranger, "192.0.2.1:8080") {
		t.Error("after removal the published port is not reachable again")
	}
	if after := host.Run(t, "iptables-nft-save"); dropStamps(after) != dropStamps(before) {
		t.Errorf("docker's rules before:\n%s\nand after:\n%s", before, after)
	}
}

// listen accepts connections inside n.
func listen(t *testing.T, n *testkit.Namespace, address string) {
	t.Helper()
	n.Do(t, func() {
		l, err := net.Listen("tcp4", address)
		must(t, err)
		t.Cleanup(func() { l.Close() })
	})
}

// reaches reports whether a connection from inside n comes about: the kernel completes
// it, whether anybody accepts or not.
func reaches(t *testing.T, n *testkit.Namespace, address string) bool {
	t.Helper()
	var err error
	n.Do(t, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", address, time.Second); err == nil {
			c.Close()
		}
	})
	return err == nil
}

// dropStamps leaves out comments, which have times, and counters.
func dropStamps(save string) string {
	var b strings.Builder
	for line := range strings.Lines(save) {
		if !strings.HasPrefix(line, "#") {
			rule, _, _ := strings.Cut(line, " [")
			b.WriteString(strings.TrimSpace(rule) + "\n")
		}
	}
	return b.String()
}
