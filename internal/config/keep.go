package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-sdp/postern/firewall"
)

// Keep is one [[keep]] section of a daemon's configuration: what a source may
// reach without a knock.
type Keep struct {
	Source string   `toml:"source"` // an address or a prefix
	Ports  []string `toml:"ports"`  // like "tcp/22"; none means all
}

// KeepRules parses the [[keep]] sections.
func KeepRules(sections []Keep) ([]firewall.Keep, error) {
	var rules []firewall.Keep
	for _, k := range sections {
		source, err := parsePrefix(k.Source)
		if err != nil {
			return nil, err
		}
		rule := firewall.Keep{Source: source}
		for _, text := range k.Ports {
			port, err := parsePort(text)
			if err != nil {
				return nil, err
			}
			rule.Ports = append(rule.Ports, port)
		}
		rules = append(rules, rule)
	}
	return rules, nil
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
