package controller

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
)

// Where things are when nothing else is said.
const (
	DefaultConfig = "/etc/postern/controller.toml"
	DefaultState  = "/var/lib/postern-controller"
	DefaultSocket = "/run/postern-controller/admin.sock"
	DefaultTable  = "postern_controller"

	// The values of firewall.backend.
	BackendAuto     = "auto"
	BackendNFTables = "nftables"
	BackendIPTables = "iptables"
	BackendNone     = "none"

	// SourceSocket and SourceCapture are the values of knock.source.
	SourceSocket  = "socket"
	SourceCapture = "capture"

	maxName     = 63 // bytes; the name is under each knock's HMAC and in each certificate
	minLifetime = 10 * time.Minute
	maxLifetime = 30 * 24 * time.Hour
)

// Config is the controller's configuration file. configs/controller.toml explains
// every key.
type Config struct {
	Name        string         `toml:"name"`
	State       string         `toml:"state"`
	AdminSocket string         `toml:"admin_socket"`
	Policy      string         `toml:"policy"`
	LogLevel    string         `toml:"log_level"`
	Knock       KnockConfig    `toml:"knock"`
	Control     ControlConfig  `toml:"control"`
	Firewall    FirewallConfig `toml:"firewall"`
	Keep        []config.Keep  `toml:"keep"`
}

// KnockConfig is the [knock] section.
type KnockConfig struct {
	Listen        string   `toml:"listen"`
	Advertise     []string `toml:"advertise"`
	Source        string   `toml:"source"`
	Interfaces    []string `toml:"interfaces"`
	AcceptClaimed bool     `toml:"accept_claimed_source"`
}

// ControlConfig is the [control] section.
type ControlConfig struct {
	Listen      string           `toml:"listen"`
	Advertise   []string         `toml:"advertise"`
	Capture     bool             `toml:"capture"`
	Certificate control.Duration `toml:"certificate_lifetime"`
}

// FirewallConfig is the [firewall] section.
type FirewallConfig struct {
	Backend string   `toml:"backend"`
	Table   string   `toml:"table"`
	Inside  []string `toml:"inside"`
}

// Defaults returns the configuration of an empty file, but for the name, which
// has no default.
func Defaults() Config {
	return Config{
		State:       DefaultState,
		AdminSocket: DefaultSocket,
		LogLevel:    "info",
		Knock:       KnockConfig{Listen: "[::]:4040", Source: SourceSocket},
		Control: ControlConfig{
			Listen:      "[::]:4041",
			Capture:     true,
			Certificate: control.Duration(24 * time.Hour),
		},
		Firewall: FirewallConfig{Backend: BackendAuto, Table: DefaultTable, Inside: config.Bridges()},
	}
}

// LoadConfig reads and validates the file at path.
func LoadConfig(path string) (Config, error) {
	c := Defaults()
	if err := config.Load(path, &c); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Validate returns all faults of c, each with its key.
func (c Config) Validate() error {
	var faults []error
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if err := checkName(c.Name); err != nil {
		fault("name", "%v", err)
	}
	for key, path := range map[string]string{"state": c.State, "admin_socket": c.AdminSocket} {
		if !filepath.IsAbs(path) {
			fault(key, "%q is not an absolute path", path)
		}
	}
	if c.Policy != "" && !filepath.IsAbs(c.Policy) {
		fault("policy", "%q is not an absolute path", c.Policy)
	}
	if _, err := c.Level(); err != nil {
		fault("log_level", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	c.Knock.validate(fault)
	c.Control.validate(fault)
	c.Firewall.validate(fault)
	if _, err := c.Rules(); errors.Is(err, firewall.ErrInterface) {
		fault("firewall", "%v", err)
	} else if err != nil {
		fault("keep", "%v", err)
	}
	knock, err1 := netip.ParseAddrPort(c.Knock.Listen)
	api, err2 := netip.ParseAddrPort(c.Control.Listen)
	if err1 == nil && err2 == nil && knock.Port() == api.Port() && knock.Port() != 0 {
		fault("control.listen", "port %d is the knock port already", api.Port())
	}
	return errors.Join(faults...)
}

type faultFunc func(key, format string, args ...any)

func (k KnockConfig) validate(fault faultFunc) {
	checkListen(k.Listen, "knock.listen", fault)
	if k.Source != SourceSocket && k.Source != SourceCapture {
		fault("knock.source", "%q is neither %q nor %q", k.Source, SourceSocket, SourceCapture)
	}
	if k.Source == SourceSocket && len(k.Interfaces) > 0 {
		fault("knock.interfaces", "is for knock.source = %q only", SourceCapture)
	}
	for _, a := range k.Advertise {
		host, port, err := net.SplitHostPort(a)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
			fault("knock.advertise", "%q is not of the form host:port", a)
		}
	}
}

func (c ControlConfig) validate(fault faultFunc) {
	checkListen(c.Listen, "control.listen", fault)
	if len(c.Advertise) > 2 {
		fault("control.advertise", "has %d addresses, at most 2 fit into a grant", len(c.Advertise))
	}
	for _, a := range c.Advertise {
		ap, err := netip.ParseAddrPort(a)
		if err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() {
			fault("control.advertise", "%q is not of the form ip:port", a)
		}
	}
	if d := time.Duration(c.Certificate); d < minLifetime || d > maxLifetime {
		fault("control.certificate_lifetime", "%s is not between %s and %s", d, minLifetime, maxLifetime)
	}
}

func (f FirewallConfig) validate(fault faultFunc) {
	backends := []string{BackendAuto, BackendNFTables, BackendIPTables, BackendNone}
	if !slices.Contains(backends, f.Backend) {
		fault("firewall.backend", "%q is none of %s", f.Backend, strings.Join(backends, ", "))
	}
	if f.Table == "" {
		fault("firewall.table", "is empty")
	}
}

func checkListen(address, key string, fault faultFunc) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		fault(key, "%q is not of the form ip:port or [ip]:port", address)
	}
}

func checkName(name string) error {
	if name == "" {
		return errors.New("is missing; it is part of every knock and cannot change later")
	}
	if len(name) > maxName {
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(name), maxName)
	}
	for i, r := range name {
		alphanumeric := 'a' <= r && r <= 'z' || '0' <= r && r <= '9'
		if !alphanumeric && (i == 0 || r != '-' && r != '.') {
			return fmt.Errorf("%q is not lower-case letters, digits, '-' and '.'", name)
		}
	}
	return nil
}

// Level returns the configured log level.
func (c Config) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(c.LogLevel))
	return l, err
}

// Rules returns what the controller's firewall leaves open for everyone: the
// knock port when it is a socket's, the administrator's keep rules, and the ways out of
// what is behind this machine.
func (c Config) Rules() (firewall.Rules, error) {
	rules := firewall.Rules{Inside: c.Firewall.Inside}
	if listen, err := netip.ParseAddrPort(c.Knock.Listen); err == nil && c.Knock.Source == SourceSocket &&
		listen.Port() != 0 {
		rules.OpenPorts = []firewall.Port{{Protocol: firewall.UDP, Number: listen.Port()}}
	}
	keep, err := config.KeepRules(c.Keep, time.Now())
	if err != nil {
		return firewall.Rules{}, err
	}
	rules.Keep = keep
	return rules, rules.Validate()
}

// Ports are the UDP ports that datagrams have to get to: the control port, and the
// knock port when it is a socket's.
func (c Config) Ports() []uint16 {
	var ports []uint16
	for _, l := range []struct {
		address string
		bound   bool
	}{{c.Knock.Listen, c.Knock.Source == SourceSocket}, {c.Control.Listen, true}} {
		if a, err := netip.ParseAddrPort(l.address); err == nil && l.bound && a.Port() != 0 {
			ports = append(ports, a.Port())
		}
	}
	return ports
}

// knockAddresses are those that join tokens tell a joiner to knock at; port is
// the one that is listened on.
func (c Config) knockAddresses(port uint16) []string {
	if len(c.Knock.Advertise) > 0 {
		return c.Knock.Advertise
	}
	return []string{net.JoinHostPort(c.Name, strconv.Itoa(int(port)))}
}

// TOML returns the configuration as a file that says everything.
func (c Config) TOML() string {
	var b strings.Builder
	text := func(key, value string) { fmt.Fprintf(&b, "%s = %s\n", key, strconv.Quote(value)) }
	list := func(key string, values []string) {
		quoted := make([]string, len(values))
		for i, v := range values {
			quoted[i] = strconv.Quote(v)
		}
		fmt.Fprintf(&b, "%s = [%s]\n", key, strings.Join(quoted, ", "))
	}
	text("name", c.Name)
	text("state", c.State)
	text("admin_socket", c.AdminSocket)
	text("policy", c.Policy)
	text("log_level", c.LogLevel)
	b.WriteString("\n[knock]\n")
	text("listen", c.Knock.Listen)
	list("advertise", c.Knock.Advertise)
	text("source", c.Knock.Source)
	list("interfaces", c.Knock.Interfaces)
	fmt.Fprintf(&b, "accept_claimed_source = %t\n", c.Knock.AcceptClaimed)
	b.WriteString("\n[control]\n")
	text("listen", c.Control.Listen)
	list("advertise", c.Control.Advertise)
	fmt.Fprintf(&b, "capture = %t\n", c.Control.Capture)
	text("certificate_lifetime", time.Duration(c.Control.Certificate).String())
	b.WriteString("\n[firewall]\n")
	text("backend", c.Firewall.Backend)
	text("table", c.Firewall.Table)
	list("inside", c.Firewall.Inside)
	for _, k := range c.Keep {
		b.WriteString("\n[[keep]]\n")
		for _, v := range []struct{ key, value string }{
			{"source", k.Source}, {"interface", k.Interface}, {"until", k.Until},
		} {
			if v.value != "" {
				text(v.key, v.value)
			}
		}
		list("ports", k.Ports)
	}
	return b.String()
}
