package lab

import (
	"context"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
)

// Pinholes asks the kernel of a machine, not the daemon, what is open.
func (l *Lab) Pinholes(ctx context.Context, where, table string) (open []firewall.Pinhole, err error) {
	err = l.in(where, func() error {
		f, err := nft.New(nft.Config{Table: table})
		if err != nil {
			return err
		}
		defer f.Close()
		open, err = f.List(ctx)
		return err
	})
	return open, err
}
