package choose

import (
	"context"

	"github.com/postern-sdp/postern/firewall"
)

var _ firewall.Watcher = (*replacement)(nil)

// Watch implements [firewall.Watcher], if the new backend does.
func (r *replacement) Watch(ctx context.Context, changed func()) error {
	if w, ok := r.Firewall.(firewall.Watcher); ok {
		return w.Watch(ctx, changed)
	}
	<-ctx.Done()
	return nil
}
