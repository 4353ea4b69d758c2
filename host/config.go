package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
)

// Where things are when nothing else is said.
const (
	DefaultConfig = "/etc/postern/host.toml"
	DefaultState  = "/var/lib/postern-host"
	DefaultSocket = "/run/postern-host/status.sock"
	DefaultTable  = "postern"

	// The values of firewall.backend.
	BackendAuto     = "auto"
	BackendNFTables = "nftables"
	BackendIPTables = "iptables"
	BackendNone     = "none"

	// maxAlone bounds emergency.only_when_alone: a key must work on the day it is needed.
	maxAlone = 24 * time.Hour

	// maxAdvertise is how many addresses fit into a grant.
	maxAdvertise = 2
)

// Settings are the agent's configuration file. configs/host.toml explains every key.
type Settings struct {
	State        string            `toml:"state"`
	StatusSocket string            `toml:"status_socket"`
	LogLevel     string            `toml:"log_level"`
	Metrics      string            `toml:"metrics"`
	Tunnel       TunnelSettings    `toml:"tunnel"`
	Firewall     FirewallSettings  `toml:"firewall"`
	Emergency    EmergencySettings `toml:"emergency"`
	Gateway      GatewaySettings   `toml:"gateway"`
	Keep         []config.Keep     `toml:"keep"`
}

// TunnelSettings are the [tunnel] section.
type TunnelSettings struct {
	Listen     string   `toml:"listen"`
	Advertise  []string `toml:"advertise"`
	Capture    bool     `toml:"capture"`
	Interfaces []string `toml:"interfaces"`
}

// FirewallSettings are the [firewall] section.
type FirewallSettings struct {
	Backend string   `toml:"backend"`
	Table   string   `toml:"table"`
	Inside  []string `toml:"inside"`
}

// GatewaySettings are the [gateway] section.
type GatewaySettings struct {
	Networks []string `toml:"networks"`
}

// prefixes returns the networks, valid when the settings are.
func (g GatewaySettings) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range g.Networks {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p.Masked())
		}
	}
	return all
}

// EmergencySettings are the [emergency] section.
type EmergencySettings struct {
	OnlyWhenAlone control.Duration `toml:"only_when_alone"`
}

// Defaults returns the settings of an empty file.
func Defaults() Settings {
	return Settings{
		State:        DefaultState,
		StatusSocket: DefaultSocket,
		LogLevel:     "info",
		Tunnel:       TunnelSettings{Listen: "[::]:4042", Capture: true},
		Firewall: FirewallSettings{
			Backend: BackendAuto, Table: DefaultTable, Inside: config.Bridges(),
		},
		Emergency: EmergencySettings{OnlyWhenAlone: control.Duration(time.Minute)},
	}
}

// LoadSettings reads and validates the file at path.
func LoadSettings(path string) (Settings, error) {
	s := Defaults()
	if err := config.Load(path, &s); err != nil {
		return Settings{}, err
	}
	if err := s.Validate(); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Validate returns all faults of s, each with its key.
func (s Settings) Validate() error {
	var faults []error
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	for _, path := range []struct{ key, value string }{
		{"state", s.State}, {"status_socket", s.StatusSocket},
	} {
		if !filepath.IsAbs(path.value) {
			fault(path.key, "%q is not an absolute path", path.value)
		}
	}
	if _, err := s.Level(); err != nil {
		fault("log_level", "%q is none of debug, info, warn, error", s.LogLevel)
	}
	if m, err := netip.ParseAddrPort(s.Metrics); s.Metrics != "" && (err != nil || m.Port() == 0) {
		fault("metrics", "%q is not of the form ip:port or [ip]:port", s.Metrics)
	} else if s.Metrics != "" && !m.Addr().IsLoopback() {
		fault("metrics", "%s is not a loopback address, and everybody may read the metrics", m.Addr())
	}
	s.Tunnel.validate(fault)
	backends := []string{BackendAuto, BackendNFTables, BackendIPTables, BackendNone}
	if !slices.Contains(backends, s.Firewall.Backend) {
		fault("firewall.backend", "%q is none of %s", s.Firewall.Backend, strings.Join(backends, ", "))
	}
	if d := time.Duration(s.Emergency.OnlyWhenAlone); d < 0 || d > maxAlone {
		fault("emergency.only_when_alone", "%s is not from 0s to %s", d, maxAlone)
	}
	for _, text := range s.Gateway.Networks {
		if p, err := netip.ParsePrefix(text); err != nil || p.Addr().Is4In6() {
			fault("gateway.networks", "%q is not a prefix like 10.0.0.0/8", text)
		}
	}
	if s.Firewall.Table == "" {
		fault("firewall.table", "is empty")
	}
	if s.Firewall.Backend == BackendNone && len(s.Keep) > 0 {
		fault("keep", "needs a firewall; firewall.backend is %q", BackendNone)
	}
	if _, err := s.Rules(); errors.Is(err, firewall.ErrInterface) {
		fault("firewall", "%v", err)
	} else if err != nil {
		fault("keep", "%v", err) // a fault's text; nobody branches on it
	}
	return errors.Join(faults...)
}

func (t TunnelSettings) validate(fault func(key, format string, args ...any)) {
	if listen, err := netip.ParseAddrPort(t.Listen); err != nil || listen.Port() == 0 {
		fault("tunnel.listen", "%q is not of the form ip:port or [ip]:port", t.Listen)
	}
	if len(t.Advertise) > maxAdvertise {
		fault("tunnel.advertise", "has %d addresses, at most %d fit into a grant",
			len(t.Advertise), maxAdvertise)
	}
	for _, text := range t.Advertise {
		a, err := netip.ParseAddrPort(text)
		if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			fault("tunnel.advertise", "%q is not of the form ip:port", text)
		}
	}
	if !t.Capture && len(t.Interfaces) > 0 {
		fault("tunnel.interfaces", "is for tunnel.capture = true only")
	}
}

// Level returns the configured log level.
func (s Settings) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(s.LogLevel))
	return l, err
}

// listen returns the address of the tunnel's socket, valid when s is.
func (t TunnelSettings) listen() netip.AddrPort {
	a, _ := netip.ParseAddrPort(t.Listen) // validated
	return a
}

// advertise returns the addresses that clients shall dial, valid when s is.
func (t TunnelSettings) advertise() []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range t.Advertise {
		if a, err := netip.ParseAddrPort(text); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// Rules returns the rules of this moment by this machine's clock.
func (s Settings) Rules() (firewall.Rules, error) { return s.RulesAt(time.Now()) }
