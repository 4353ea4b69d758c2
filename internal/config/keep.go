package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// Keep is one [[keep]] section of a daemon's configuration: what a source may
// reach without a knock.
type Keep struct {
	Source    string   `toml:"source"`    // an address or a prefix; none means any
	Interface string   `toml:"interface"` // like "eth1" or "br-*"; none means any
	Ports     []string `toml:"ports"`     // like "tcp/22"; none means all
	// Until is an RFC 3339 time, or a date, whose day still counts. None: for ever.
	Until string `toml:"until"`
}

// KeepRules parses the [[keep]] sections as they are at now: those whose time is
// over are left out, the others have the time they have left.
func KeepRules(sections []Keep, now time.Time) ([]firewall.Keep, error) {
	var rules []firewall.Keep
	for i, k := range sections {
		rule, err := k.rule(now)
		if err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
		if rule.TTL >= 0 {
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// Expired reports whether the section's time is over at now. It is false for one
// that cannot be parsed.
func (k Keep) Expired(now time.Time) bool {
	rule, err := k.rule(now)
	return err == nil && rule.TTL < 0
}

// rule parses k; its TTL is negative when its time is over.
func (k Keep) rule(now time.Time) (firewall.Keep, error) {
	rule := firewall.Keep{Interface: k.Interface}
	if k.Source == "" && k.Interface == "" {
		return rule, errors.New("has neither source nor interface")
	}
	var err error
	if k.Source != "" {
		if rule.Source, err = parsePrefix(k.Source); err != nil {
			return rule, err
		}
	}
	for _, text := range k.Ports {
		port, err := parsePort(text)
		if err != nil {
			return rule, err
		}
		rule.Ports = append(rule.Ports, port)
	}
	if k.Until != "" {
		until, err := parseUntil(k.Until, now.Location())
		if err != nil {
			return rule, err
		}
		if rule.TTL = until.Sub(now); rule.TTL == 0 {
			rule.TTL = -1
		}
	}
	return rule, nil
}

// parseUntil reads "2026-12-31T18:00:00Z", or "2026-12-31", which ends with that
// day in zone.
func parseUntil(text string, zone *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, zone)
	if err != nil {
		return time.Time{}, fmt.Errorf("until %q: want a date like 2026-12-31, or a time like "+
			"2026-12-31T18:00:00Z", text)
	}
	return day.AddDate(0, 0, 1), nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("source %q: want an address or a prefix like 192.0.2.0/24", text)
	}
	return p.Masked(), nil
}

// parsePort reads "tcp/22" or "udp/51820".
func parsePort(text string) (firewall.Port, error) {
	protocol, number, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	protocols := map[string]firewall.Protocol{"tcp": firewall.TCP, "udp": firewall.UDP}
	p, ok := protocols[protocol]
	if err != nil || n == 0 || !ok {
		return firewall.Port{}, fmt.Errorf("ports %q: want the form tcp/22 or udp/53", text)
	}
	return firewall.Port{Protocol: p, Number: uint16(n)}, nil
}
