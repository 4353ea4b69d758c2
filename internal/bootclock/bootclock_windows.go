package bootclock

import (
	"time"

	"golang.org/x/sys/windows"
)

// Now is GetTickCount64, which goes on in sleep and moves every 10 to 16 ms.
func Now() time.Duration { return windows.DurationSinceBoot() }
