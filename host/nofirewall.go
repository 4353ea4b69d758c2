package host

import (
	"context"

	"github.com/postern-sdp/postern/firewall"
)

// noFirewall stands in where something else guards the ports. Pinholes are
// accepted and mean nothing; the tunnel's socket still admits sources one by one.
type noFirewall struct{}

var _ firewall.Firewall = noFirewall{}

// Install implements [firewall.Firewall].
func (noFirewall) Install(context.Context, firewall.Rules) error { return nil }

// Apply implements [firewall.Firewall].
func (noFirewall) Apply(context.Context, firewall.Change) error { return nil }

// List implements [firewall.Firewall].
func (noFirewall) List(context.Context) ([]firewall.Pinhole, error) { return nil, nil }

// Dropped implements [firewall.Firewall].
func (noFirewall) Dropped(context.Context) (firewall.Dropped, error) {
	return firewall.Dropped{}, nil
}

// Remove implements [firewall.Firewall].
func (noFirewall) Remove(context.Context) error { return nil }

// Close implements [firewall.Firewall].
func (noFirewall) Close() error { return nil }
