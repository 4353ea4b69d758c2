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
	webPort       = 80   // a service of the machine's own
	publishedPort = 8080 // of a container, by DNAT
)

// Remote is a server in a data centre as Postern finds it: sshd, a web server, ufw,
// and a container with a published port, on the machine called host. Its
// administrator has nothing but ssh.
type Remote struct {
	*Lab

	watches []*Watch
	admin   *Login // plain ssh
	rules   string // of all firewalls, before Postern
}

// NewRemote sets the server up on a standing lab and begins to probe it.
func NewRemote(ctx context.Context, l *Lab) (*Remote, error) {
	r := &Remote{Lab: l}
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the administrator's machine", r.addAdmin},
		{"the container", r.addContainer},
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
	ports := []uint16{22, webPort, publishedPort, tunnelPort}
	for _, probe := range []struct {
		from  string
		pairs []netip.Addr
	}{
		{"stranger", []netip.Addr{StrangerV4, HostV4, StrangerV6, HostV6}},
		{"neighbour", []netip.Addr{netip.MustParseAddr("10.7.0.3"), HostV4}},
	} {
		w, err := l.Watch(probe.from, ports, probe.pairs...)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.watches = append(r.watches, w)
	}
	return r, nil
}

// Close ends the probing.
func (r *Remote) Close() error {
	var errs []error
	if r.admin != nil {
		errs = append(errs, r.admin.Close())
	}
	for _, w := range r.watches {
		_, err := w.Close()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Log is what the probing saw, phase by phase.
func (r *Remote) Log() string {
	var logs []string
	for _, w := range r.watches {
		logs = append(logs, w.Log())
	}
	return strings.Join(logs, "\n")
}

// mark begins a new phase of all watches and returns the ended ones.
func (r *Remote) mark(name string) []Phase {
	var ended []Phase
	for _, w := range r.watches {
		ended = append(ended, w.Mark(name, anything))
	}
	return ended
}

func (r *Remote) addAdmin(context.Context) error {
	return r.addMachine(100, link{from: "admin", to: "internet", bridge: "br0",
		fromAddresses: []string{AdminV4.String() + "/24"}})
}

// addContainer is what a container engine makes: a bridge with a machine behind it.
func (r *Remote) addContainer(context.Context) error {
	return errors.Join(r.in("host", forwarding),
		r.addMachine(101, link{from: "container", to: "host", bridge: "docker0",
			fromAddresses: []string{"172.17.0.2/16"}, toAddresses: []string{"172.17.0.1/16"}, gateway: "172.17.0.1"}))
}

// startUFW runs the real ufw in the host's namespace, on a copy of its files: ssh
// and the web server are allowed in, as an administrator would.
func (r *Remote) startUFW(ctx context.Context) error {
	for from, to := range map[string]string{"/etc/ufw": "etc", "/lib/ufw": "lib"} {
		if err := os.CopyFS(r.path("ufw", to), os.DirFS(from)); err != nil {
			return fmt.Errorf("copy ufw's files: %w", err)
		}
	}
	lines := "ufw allow 22/tcp && ufw allow 80/tcp && ufw --force enable"
	if r.Backend == "nftables" {
		// What an nftables table lets in, ufw still drops: postern-host doctor says so.
		lines = fmt.Sprintf("ufw allow %d/udp && ", tunnelPort) + lines
	}
	return r.ufw(ctx, lines)
}

// ufw runs lines of shell in which ufw sees its copy.
func (r *Remote) ufw(ctx context.Context, lines string) error {
	_, err := r.Run(ctx, "host", "unshare", "-m", "sh", "-ec", fmt.Sprintf(
		"mount --bind %s /etc/ufw; mount --bind %s /lib/ufw; %s",
		r.path("ufw", "etc"), r.path("ufw", "lib"), lines))
	return err
}

// publish lets the world reach the container's port, with rules in the shape of a
// container engine's.
func (r *Remote) publish(ctx context.Context) error {
	for _, rule := range []string{
		"-t nat -N DOCKER",
		"-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
		"-t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
		"-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
		"-N DOCKER",
		"-I FORWARD -o docker0 -j DOCKER",
		"-I FORWARD -i docker0 -j ACCEPT",
		"-I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
	} {
		if _, err := r.Run(ctx, "host", "iptables", strings.Fields(rule)...); err != nil {
			return err
		}
	}
	return nil
}

func (r *Remote) startServices(context.Context) error {
	return errors.Join(r.startSources(),
		r.Serve("host", fmt.Sprintf("0.0.0.0:%d", webPort), greet),
		r.Serve("container", "0.0.0.0:80", pour))
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

// agent is a line of shell that runs a command of the agent's on the host.
func (r *Remote) agent(command string, args ...string) string {
	return strings.Join(append([]string{filepath.Join(r.Bin, "postern-host"), command,
		"--config", r.path("host", "host.toml")}, args...), " ")
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
	if err := errors.Join(r.host.Kill(), r.sshd.Kill(), r.setLink(false)); err != nil {
		return err
	}
	forget := "nft flush ruleset; for t in filter mangle nat raw; do for c in iptables-legacy ip6tables-legacy; do " +
		"$c -t $t -F; $c -t $t -X; done; done; " +
		// The kernel lets go of the sets of deleted rules a moment later.
		"for i in $(seq 50); do ipset flush; ipset destroy && exit 0; sleep 0.1; done; exit 1"
	if _, err := r.Run(ctx, "host", "sh", "-c", forget); err != nil {
		return err
	}
	if _, err := r.Run(ctx, "host", "sh", "-c", r.agent("firewall up")); err != nil {
		return fmt.Errorf("at boot, before the network: %w", err)
	}
	if err := r.setLink(true); err != nil {
		return err
	}
	if err := errors.Join(r.ufw(ctx, "ufw --force enable"), r.publish(ctx)); err != nil {
		return fmt.Errorf("bring ufw and the container's rules back: %w", err)
	}
	if err := r.runSSHD(ctx); err != nil {
		return err
	}
	return r.StartHost(ctx)
}

// quiet checks that no watch has seen an answer in its present phase, and says how
// long that was.
func (r *Remote) quiet(at time.Duration) (string, error) {
	time.Sleep(at)
	var seen []string
	for _, w := range r.watches {
		p := w.Now()
		seen = append(seen, w.From+": "+p.String())
		if p.Answers > 0 {
			return "", broken("%s got answers: %s", w.From, p)
		}
		if p.Probes == 0 {
			return "", broken("%s sent no probes", w.From)
		}
	}
	return strings.Join(seen, "; "), nil
}

// answering waits until every watch gets answers from all ports that anybody may reach.
func (r *Remote) answering(ctx context.Context, within time.Duration) error {
	for _, w := range r.watches {
		err := Wait(ctx, within, w.From+" to be answered", func() (bool, error) {
			p := w.Now()
			for _, want := range []string{"tcp/22", "tcp/80", "tcp/8080", "icmp"} {
				if p.Kinds[want] == 0 {
					return false, errors.New(p.String())
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
