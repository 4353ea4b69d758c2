package lab

import (
	"context"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/iptables"
	"github.com/postern-sdp/postern/firewall/nft"
)

// Pinholes asks the kernel of the host, not the daemon, what is open.
func (l *Lab) Pinholes(ctx context.Context) (open []firewall.Pinhole, err error) {
	err = l.in("host", func() error {
		f, err := l.firewall()
		if err != nil {
			return err
		}
		defer f.Close()
		open, err = f.List(ctx)
		return err
	})
	return open, err
}

// firewall is that of the current namespace.
func (l *Lab) firewall() (firewall.Firewall, error) {
	if l.Backend == "iptables" {
		return iptables.New(iptables.Config{Name: hostTable})
	}
	return nft.New(nft.Config{Table: hostTable})
}
