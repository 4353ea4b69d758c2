package host

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/listen"
)

const (
	captureBatch = 64          // datagrams in one read
	capturePause = time.Second // after an error, as of an interface that went down
)

// capture reads knocks ahead of the firewall until the listener is closed. An
// error that passes costs the knocks of a second, and the agent goes on: the
// tunnel's socket still takes those that the firewall lets through.
func (k *knocks) capture(ctx context.Context, l listen.Listener) error {
	packets := make([]listen.Packet, captureBatch)
	for {
		n, err := l.ReadBatch(packets)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			k.log.Warn("capture of host knocks failed, will try again", logkeys.Error, err)
			pause := time.NewTimer(capturePause)
			select {
			case <-ctx.Done():
				pause.Stop()
				return nil
			case <-pause.C:
			}
			continue
		}
		for _, p := range packets[:n] {
			k.take(p.Data, p.Source)
		}
	}
}
