package bootclock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_MONOTONIC_RAW, which goes on in sleep here (clock_gettime(3)).
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &t); err != nil {
		panic("bootclock: the kernel has no CLOCK_MONOTONIC_RAW: " + err.Error())
	}
	return time.Duration(t.Nano())
}
