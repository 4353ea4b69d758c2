//go:build linux

package iptables_test

import (
	"testing"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/fwtest"
	"github.com/postern-sdp/postern/firewall/iptables"
)

func variants() []iptables.Variant { return []iptables.Variant{iptables.NFT, iptables.Legacy} }

func TestConformance(t *testing.T) {
	for _, v := range variants() {
		t.Run(string(v), func(t *testing.T) {
			run := fwtest.Run
			if v == iptables.Legacy {
				run = fwtest.RunLegacy
			}
			run(t, func() (firewall.Firewall, error) {
				return iptables.New(iptables.Config{Variant: v})
			})
		})
	}
}
