package choose

import (
	"errors"
	"fmt"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/iptables"
	"github.com/postern-sdp/postern/firewall/survey"
)

func openIPTables(name, boot string, v survey.Variant) (firewall.Firewall, error) {
	variant := iptables.NFT
	if v == survey.IPTablesLegacy {
		variant = iptables.Legacy
	}
	fw, err := iptables.New(iptables.Config{Name: name, Variant: variant, Boot: boot})
	if errors.Is(err, iptables.ErrProgram) || errors.Is(err, iptables.ErrKernel) ||
		errors.Is(err, iptables.ErrName) {
		return nil, fmt.Errorf("%w: %w", ErrNoIPTables, err)
	}
	if err != nil {
		return nil, err // a nil *iptables.Firewall is no nil interface
	}
	return fw, nil
}
