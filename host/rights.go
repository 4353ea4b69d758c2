package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// right is one capability (capabilities(7)) and what the agent needs it for.
type right struct {
	bit  uint
	name string
	why  string
}

// needs returns the capabilities that the settings ask for.
func (s Settings) needs() []right {
	var rights []right
	if b := s.Firewall.Backend; b != BackendNone {
		rights = append(rights, right{12, "CAP_NET_ADMIN", "firewall.backend = " + strconv.Quote(b)})
	}
	switch {
	case s.Tunnel.Capture:
		rights = append(rights, right{13, "CAP_NET_RAW", "tunnel.capture = true"})
	case s.Firewall.Backend == BackendIPTables:
		rights = append(rights, right{13, "CAP_NET_RAW", "iptables"})
	}
	if s.Tunnel.listen().Port() < firstFreePort() {
		rights = append(rights, right{10, "CAP_NET_BIND_SERVICE", "tunnel.listen on a low port"})
	}
	return rights
}

// firstFreePort is the lowest port that needs no capability.
func firstFreePort() uint16 {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	n, parseErr := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16)
	if err != nil || parseErr != nil {
		return 1024 // the kernel's default
	}
	return uint16(n)
}

// CheckRights returns a [RightsError] that names every capability that this
// process needs for the settings and does not have.
func (s Settings) CheckRights() error {
	have, err := effective()
	if err != nil {
		return err
	}
	var missing []right
	for _, r := range s.needs() {
		if have&(1<<r.bit) == 0 {
			missing = append(missing, r)
		}
	}
	if len(missing) > 0 {
		return &RightsError{missing}
	}
	return nil
}

// effective returns this thread's effective capabilities.
func effective() (uint64, error) {
	const path = "/proc/thread-self/status"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("read own capabilities: %w", err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("read own capabilities: %w: %s has no CapEff", errUnusable, path)
}

// RightsError says which capabilities are missing.
type RightsError struct{ missing []right }

// Error implements error.
func (e *RightsError) Error() string {
	var parts []string
	for _, r := range e.missing {
		parts = append(parts, fmt.Sprintf("%s (for %s)", r.name, r.why))
	}
	return "missing capabilities: " + strings.Join(parts, ", ")
}

// Hint says how to give them.
func (e *RightsError) Hint() string {
	var names []string
	for _, r := range e.missing {
		names = append(names, r.name)
	}
	return fmt.Sprintf("run as root, put AmbientCapabilities=%s into the systemd unit, or run "+
		"setcap %s+ep on the program",
		strings.Join(names, " "), strings.ToLower(strings.Join(names, ",")))
}
