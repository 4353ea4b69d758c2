package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// AdminV4 is where the remote server's administrator sits.
var AdminV4 = netip.MustParseAddr("198.51.100.40")

// Ports of the remote server that answer before Postern is there.
const (
	webPort           = 80   // TCP, a service of the machine's own
	dnsPort           = 53   // UDP, too
	publishedPort     = 8080 // TCP, of a container, by DNAT
	publishedDNSPort  = 8053 // UDP, too
	containersAddress = "172.17.0.2"
	containersV6      = "fd00:17::2"
)

// Remote is a server in a data centre as Postern finds it: sshd, a web and a name
// server, ufw, and a container with published ports, on the machine called host, which
// has a file system of its own. Its administrator has nothing but ssh.
type Remote struct {
	*Lab
	// Package is the file of the host's .deb, inside the lab's folder.
	Package string

	others onlookers
	admin  *Login // plain ssh
	rules  string // of all firewalls, before Postern
}

// NewRemote sets the server up on a standing lab and begins to probe it. deb is the
// host agent's Debian package.
func NewRemote(ctx context.Context, l *Lab, deb string) (*Remote, error) {
	r := &Remote{Lab: l, Package: l.path(filepath.Base(deb))}
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the package", func(context.Context) error { return copyFile(deb, r.Package) }},
		{"the administrator's machine", func(context.Context) error { return l.addAdmin() }},
		{"the container", r.addContainer},
		{"the server's file system", func(ctx context.Context) error { return l.addRoot(ctx, "host") }},
		{"sshd", l.startSSHD},
		{"ufw", r.startUFW},
		{"the container's rules", r.publish},
		{"the services", r.startServices},
		{"the controller", r.startOutside},
	} {
		if err := s.do(ctx); err != nil {
			return nil, fmt.Errorf("set up %s: %w", s.what, err)
		}
	}
	ports := []uint16{22, webPort, dnsPort, publishedPort, publishedDNSPort, tunnelPort}
	var err error
	r.others, err = l.onlook(ports, HostV4, HostV6)
	return r, err
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// Close ends the probing.
func (r *Remote) Close() error {
	var err error
	if r.admin != nil {
		err = r.admin.Close()
	}
	return errors.Join(err, r.others.Close())
}

// Log is what the probing saw, phase by phase.
func (r *Remote) Log() string { return r.others.Log() }

// addAdmin adds the administrator's machine, which is enrolled nowhere.
func (l *Lab) addAdmin() error {
	return l.addMachine(100, link{from: "admin", to: "internet", bridge: "br0",
		fromAddresses: []string{AdminV4.String() + "/24"}})
}

// addContainer is what a container engine makes: a bridge with a machine behind it.
func (r *Remote) addContainer(context.Context) error {
	return errors.Join(r.in("host", forwarding),
		r.addMachine(101, link{from: "container", to: "host", bridge: "docker0",
			fromAddresses: []string{containersAddress + "/16", containersV6 + "/64"},
			toAddresses:   []string{"172.17.0.1/16", "fd00:17::1/64"}, gateway: "172.17.0.1"}),
		r.route("container", netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd00:17::1")))
}

// startUFW runs the real ufw: what answers is allowed in, as an administrator would.
func (r *Remote) startUFW(ctx context.Context) error {
	lines := "ufw allow 22/tcp && ufw allow 80/tcp && ufw allow 53/udp && ufw --force enable"
	if r.Backend == "nftables" {
		// What an nftables table lets in, ufw still drops: postern-host doctor says so.
		lines = fmt.Sprintf("ufw allow %d/udp && ", tunnelPort) + lines
	}
	return r.shell(ctx, lines)
}

// shell runs lines of shell on the server.
func (r *Remote) shell(ctx context.Context, lines string) error {
	_, err := r.Run(ctx, "host", "sh", "-ec", lines)
	return err
}

// publish lets the world reach the container's ports, with rules in the shape of a
// container engine's.
func (r *Remote) publish(ctx context.Context) error {
	const rules = `PROGRAM -t nat -N DOCKER
PROGRAM -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
PROGRAM -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination [ADDRESS]:80
PROGRAM -t nat -A DOCKER ! -i docker0 -p udp --dport 8053 -j DNAT --to-destination [ADDRESS]:53
PROGRAM -t nat -A POSTROUTING -s ADDRESS ! -o docker0 -j MASQUERADE
PROGRAM -N DOCKER
PROGRAM -I FORWARD -o docker0 -j DOCKER
PROGRAM -I FORWARD -i docker0 -j ACCEPT
PROGRAM -I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
PROGRAM -A DOCKER -d ADDRESS ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
PROGRAM -A DOCKER -d ADDRESS ! -i docker0 -o docker0 -p udp --dport 53 -j ACCEPT
`
	v4 := strings.NewReplacer("PROGRAM", "iptables", "[ADDRESS]", containersAddress, "ADDRESS", containersAddress)
	v6 := strings.NewReplacer("PROGRAM", "ip6tables", "ADDRESS", containersV6)
	return r.shell(ctx, v4.Replace(rules)+v6.Replace(rules))
}

func (r *Remote) startServices(context.Context) error {
	return errors.Join(r.startSources(),
		r.Serve("host", fmt.Sprintf("[::]:%d", webPort), greet), r.ServePackets("host", fmt.Sprintf("[::]:%d", dnsPort)),
		r.Serve("container", "[::]:80", pour), r.ServePackets("container", "[::]:53"))
}

// startOutside starts the controller and enrols the administrator's device, on the
// machine called client. The host is not known to it yet.
func (r *Remote) startOutside(ctx context.Context) error {
	if err := r.writeSettings(); err != nil {
		return err
	}
	if err := r.startController(ctx); err != nil {
		return err
	}
	return r.enrolClient(ctx, "client")
}

// startAgent is what postern-host.path does after an enrolment, and each boot.
func (r *Remote) startAgent(ctx context.Context) error {
	return r.startHost(ctx, func() (*Process, error) { return r.startUnit("host", "postern-host.service") })
}

// ruleset is every firewall's rules on the host, without counters.
func (r *Remote) ruleset(ctx context.Context) (string, error) {
	var all []string
	for _, line := range []string{
		"nft -s list ruleset", "iptables-legacy-save | grep -E '^-A|^:[^ ]+ (-|DROP)' | sed 's/\\[.*\\]//' || true",
		"ip6tables-legacy-save | grep -E '^-A|^:[^ ]+ (-|DROP)' | sed 's/\\[.*\\]//' || true", "ipset list -n",
	} {
		out, err := r.Run(ctx, "host", "sh", "-c", line)
		if err != nil {
			return "", err
		}
		all = append(all, inOrder(out))
	}
	return strings.Join(all, "\n"), nil
}

// inOrder sorts the tables and chains of nft's list, and leaves the rules of each
// chain as they are: a reboot makes the same chains in another order.
func inOrder(list string) string {
	var blocks []string
	table, block := "", ""
	for line := range strings.Lines(list) {
		switch {
		case strings.HasPrefix(line, "table "):
			table = line
		case block != "":
			block += line
			if line == "\t}\n" {
				blocks, block = append(blocks, block), ""
			}
		case strings.HasPrefix(line, "\tchain "):
			block = table + line
		default:
			blocks = append(blocks, table+line)
		}
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "")
}

// setLink takes the host's way to the world down or up, with its addresses.
func (r *Remote) setLink(up bool) error {
	return r.in("host", func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if !up {
			return netlink.LinkSetDown(dev)
		}
		if err := configure("eth0", []string{HostV4.String() + "/24", HostV6.String() + "/64"}); err != nil {
			return err
		}
		return linksUp()
	})
}

// reboot is what a restart of the machine does to it: no process survives, the
// kernel forgets all rules, and the boot's order brings them back before the link.
func (r *Remote) reboot(ctx context.Context) error {
	if err := errors.Join(r.setLink(false), r.restart(ctx, "host")); err != nil {
		return err
	}
	if err := r.shell(ctx, "nft flush ruleset; for t in filter mangle nat raw; do for c in iptables-legacy ip6tables-legacy; do "+
		"$c -t $t -F; $c -t $t -X; done; done; "+
		// The kernel lets go of the sets of deleted rules a moment later.
		"for i in $(seq 50); do ipset flush; ipset destroy && exit 0; sleep 0.1; done; exit 1"); err != nil {
		return err
	}
	// As the packages' tmpfiles.d has it, which comes before.
	if err := r.shell(ctx, "systemd-tmpfiles --create postern-host.conf"); err != nil {
		return err
	}
	if err := r.runUnit(ctx, "host", "postern-host-firewall.service"); err != nil {
		return fmt.Errorf("at boot, before the network: %w", err)
	}
	if err := r.setLink(true); err != nil {
		return err
	}
	if err := errors.Join(r.shell(ctx, "ufw --force enable"), r.publish(ctx)); err != nil {
		return fmt.Errorf("bring ufw and the container's rules back: %w", err)
	}
	if err := r.runSSHD(ctx); err != nil {
		return err
	}
	return r.startAgent(ctx)
}

// answering waits until all get answers from all that anybody may reach.
func (r *Remote) answering(ctx context.Context, within time.Duration) error {
	v4 := []string{"tcp/22", "tcp/80", "tcp/8080", "udp/53", "udp/8053", "icmp"}
	v6 := []string{"tcp6/22", "tcp6/80", "tcp6/8080", "udp6/53", "udp6/8053", "icmpv6"}
	for _, w := range r.others {
		wanted := v4
		if w.From == "stranger" {
			wanted = slices.Concat(v4, v6)
		}
		err := Wait(ctx, within, w.From+" to be answered", func() (bool, error) {
			p := w.Now()
			for _, want := range wanted {
				if p.Kinds[want] == 0 {
					return false, fmt.Errorf("no %s: %s", want, p)
				}
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
