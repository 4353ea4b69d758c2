package control

import (
	"errors"
	"fmt"

	"github.com/postern-sdp/postern/spa"
)

// ErrAccess is an access that no service can have.
var ErrAccess = errors.New("not a way to reach a service")

// Resolved returns a with its empty fields filled in.
func (a Access) Resolved() Access {
	if a.Mode == "" {
		a.Mode = ModeTunnel
	}
	if a.Transport == "" {
		a.Transport = TransportTCP
	}
	if a.Binding == "" {
		a.Binding = BindExact
		if a.Mode == ModeDirect {
			a.Binding = BindAddress
		}
	}
	return a
}

// Validate returns an [ErrAccess] that says what is wrong.
func (a Access) Validate() error {
	a = a.Resolved()
	switch {
	case a.Mode != ModeTunnel && a.Mode != ModeDirect && a.Mode != ModeGateway:
		return fmt.Errorf("%w: mode %q is none of tunnel, direct, gateway", ErrAccess, a.Mode)
	case a.Transport != TransportTCP && a.Transport != TransportUDP:
		return fmt.Errorf("%w: transport %q is neither tcp nor udp", ErrAccess, a.Transport)
	case a.Binding != BindExact && a.Binding != BindAddress:
		return fmt.Errorf("%w: binding %q is neither address nor exact", ErrAccess, a.Binding)
	}
	return nil
}

// Flags are what a grant tells the client of a.
func (a Access) Flags() spa.GrantFlags {
	a = a.Resolved()
	var f spa.GrantFlags
	if a.Mode == ModeDirect {
		f |= spa.FlagDirect
	}
	if a.Transport == TransportUDP {
		f |= spa.FlagUDP
	}
	if a.Binding == BindAddress {
		f |= spa.FlagAddress
	}
	return f
}

// AccessFromFlags is what a client knows of a service's access. That a host is a
// gateway does not concern it.
func AccessFromFlags(f spa.GrantFlags) Access {
	a := Access{Mode: ModeTunnel, Transport: TransportTCP, Binding: BindExact}
	if f&spa.FlagDirect != 0 {
		a.Mode = ModeDirect
	}
	if f&spa.FlagUDP != 0 {
		a.Transport = TransportUDP
	}
	if f&spa.FlagAddress != 0 {
		a.Binding = BindAddress
	}
	return a
}
