//go:build !linux && !darwin && !windows

package bootclock

import (
	"sync"
	"time"
)

var begin = sync.OnceValue(time.Now)

// Now counts from its first call, and stands still in sleep where the system's
// monotonic clock does.
func Now() time.Duration { return time.Since(begin()) }
