package daemon

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/logkeys"
)

// Manager is the service manager of this process, as NOTIFY_SOCKET and
// WATCHDOG_USEC name it. Its methods may be called from any goroutine.
type Manager struct {
	Log *slog.Logger
}

// Ready tells that the daemon serves, and what it is doing. It is said again
// after Reloading.
func (m Manager) Ready(status string) { m.tell("READY=1", "STATUS="+line(status)) }

// Reloading tells that the configuration is read again; Ready says that this is
// over, whether it was taken or not.
func (m Manager) Reloading() {
	m.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonic()), "STATUS=reading the configuration again")
}

// Stopping tells that the daemon is on its way out.
func (m Manager) Stopping() { m.tell("STOPPING=1", "STATUS=stopping") }

// tell sends one datagram. A manager that cannot be told is no reason to end: it
// draws its own conclusions.
func (m Manager) tell(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.Log.Warn("the service manager was not told", logkeys.Error, err)
	}
}

// line makes text one line, as the protocol wants it.
func line(text string) string { return strings.Join(strings.Fields(text), " ") }

// monotonic is the kernel's monotonic clock in microseconds.
func monotonic() int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return now.Nano() / 1000
}
