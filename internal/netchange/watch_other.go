//go:build !linux

package netchange

import "context"

// watch calls changed whenever the addresses have changed, until ctx ends.
func watch(ctx context.Context, changed func()) { poll(ctx, changed) }
