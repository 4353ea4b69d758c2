package resolver

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	unit = "postern-resolver.service"
	link = "postern"
	// linkAddress makes the link one that systemd-resolved cares for. Nobody listens or
	// sends there but who was to anyway: it is a loopback address.
	linkAddress = "127.63.0.53/32"
)

// unitText is a unit of systemd's that gives systemd-resolved a link of its own for the
// domain. A server in resolved.conf would be asked for all other names as well, and be
// the only one where the others are in resolv.conf: the global scope takes part in every
// look-up, and has one list of servers. A link is asked for its domains alone.
func unitText(domain string, server netip.AddrPort) string {
	return fmt.Sprintf(`[Unit]
Description=Names under .%[1]s are asked for at postern up
After=systemd-resolved.service
PartOf=systemd-resolved.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-ip link add %[2]s type dummy
ExecStart=ip address replace %[3]s dev %[2]s scope global
ExecStart=ip link set %[2]s up
ExecStart=resolvectl dns %[2]s %[4]s
ExecStart=resolvectl domain %[2]s ~%[1]s
ExecStart=resolvectl default-route %[2]s no
ExecStop=ip link delete %[2]s

[Install]
WantedBy=systemd-resolved.service
`, domain, link, linkAddress, server)
}

// resolvedAnswers checks that systemd-resolved runs, and that programs ask it.
func resolvedAnswers(root string) error {
	conn, err := net.Dial("unix", filepath.Join(root, "run/systemd/resolve/io.systemd.Resolve"))
	if err != nil {
		return fmt.Errorf("%w: systemd-resolved does not run here", ErrNoResolver)
	}
	conn.Close()
	if asksStub(filepath.Join(root, "etc/resolv.conf")) || asksResolve(filepath.Join(root, "etc/nsswitch.conf")) {
		return nil
	}
	return fmt.Errorf("%w: systemd-resolved runs, but programs do not ask it, "+
		"as neither /etc/resolv.conf nor /etc/nsswitch.conf says so", ErrNoResolver)
}

// asksStub reports whether a resolv.conf names the server of systemd-resolved.
func asksStub(path string) bool {
	return anyLine(path, func(words []string) bool {
		return len(words) > 1 && words[0] == "nameserver" && (words[1] == "127.0.0.53" || words[1] == "127.0.0.54")
	})
}

// asksResolve reports whether an nsswitch.conf has its module for hosts.
func asksResolve(path string) bool {
	return anyLine(path, func(words []string) bool { return words[0] == "hosts:" && slices.Contains(words, "resolve") })
}

func anyLine(path string, is func(words []string) bool) bool {
	text, _ := os.ReadFile(path) // one that is not there says nothing
	for line := range bytes.Lines(text) {
		if words := strings.Fields(string(line)); len(words) > 0 && is(words) {
			return true
		}
	}
	return false
}
